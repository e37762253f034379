//! What the engine has done so far, for those who watch the daemon.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::batched::Counts;
use super::protocol::Times;
use super::{LlmError, Usage};

/// Agents that are counted by name; later ones are counted together.
const MOST_AGENTS: usize = 64;

/// Tokens that an agent cost.
pub type AgentTokens = BTreeMap<String, Usage>;

/// Sums since the start of the daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineMetrics {
    /// Tokens by agent.
    pub agents: AgentTokens,
    /// Requests answered.
    pub answered: u64,
    /// Requests refused or failed.
    pub failed: u64,
    /// Time that requests waited in the engine, microseconds.
    pub queued_us: u64,
    /// Time that requests ran, microseconds.
    pub ran_us: u64,
    /// Starts of the process after the first.
    pub restarts: u64,
    /// What engines that are gone had done.
    past: Counts,
    /// What the engine of now has done; a new process begins at nothing.
    now: Counts,
}

impl EngineMetrics {
    /// Takes note of an answer.
    pub(super) fn answered(&mut self, agent: &str, result: Result<Usage, &LlmError>, times: Times) {
        self.queued_us += times.queued_us;
        self.ran_us += times.ran_us;
        let Ok(usage) = result else {
            self.failed += 1;
            return;
        };
        self.answered += 1;
        // As a label may be: two names that look the same there are one.
        let agent: String = agent.chars().filter(|c| c.is_ascii_alphanumeric() || "_-./ ".contains(*c)).collect();
        let agent = agent.as_str();
        let known = self.agents.contains_key(agent) || self.agents.len() < MOST_AGENTS;
        let sum = self.agents.entry(if known { agent } else { "others" }.to_owned()).or_default();
        sum.prompt_tokens += usage.prompt_tokens;
        sum.reused_tokens += usage.reused_tokens;
        sum.generated_tokens += usage.generated_tokens;
    }

    /// Takes note of the engine's own counts.
    pub(super) fn engine(&mut self, counts: Counts) {
        self.now = counts;
    }

    /// The process has started again.
    pub(super) fn restarted(&mut self) {
        self.restarts += 1;
        self.past = self.counts();
        self.now = Counts::default();
    }

    /// Batches so far, and milliseconds of the engine's own work in all of them.
    pub fn own_work(&self) -> (u64, f64) {
        let counts = self.counts();
        (counts.batches, counts.busy_us.saturating_sub(counts.model_us) as f64 / 1e3)
    }

    /// What all engines so far have done.
    pub fn counts(&self) -> Counts {
        Counts {
            batches: self.past.batches + self.now.batches,
            rows: self.past.rows + self.now.rows,
            model_us: self.past.model_us + self.now.model_us,
            busy_us: self.past.busy_us + self.now.busy_us,
            saved: self.past.saved + self.now.saved,
            restored: self.past.restored + self.now.restored,
            evicted: self.past.evicted + self.now.evicted,
            waited: self.past.waited + self.now.waited,
            ..self.now
        }
    }

    /// Tokens of all agents.
    pub fn tokens(&self) -> Usage {
        let mut all = Usage::default();
        for usage in self.agents.values() {
            all.prompt_tokens += usage.prompt_tokens;
            all.reused_tokens += usage.reused_tokens;
            all.generated_tokens += usage.generated_tokens;
        }
        all
    }

    /// Prometheus's text format.
    pub fn prometheus(&self) -> String {
        let (mut out, counts, all) = (String::new(), self.counts(), self.tokens());
        let mut put = |name: &str, kind: &str, value: String| {
            let _ = writeln!(out, "# TYPE galen_llm_{name} {kind}\ngalen_llm_{name} {value}");
        };
        let seconds = |us: u64| format!("{:.6}", us as f64 / 1e6);
        put("requests_answered_total", "counter", self.answered.to_string());
        put("requests_failed_total", "counter", self.failed.to_string());
        put("queue_seconds_total", "counter", seconds(self.queued_us));
        put("run_seconds_total", "counter", seconds(self.ran_us));
        put("restarts_total", "counter", self.restarts.to_string());
        put("batches_total", "counter", counts.batches.to_string());
        put("batch_rows_total", "counter", counts.rows.to_string());
        put("model_seconds_total", "counter", seconds(counts.model_us));
        put("busy_seconds_total", "counter", seconds(counts.busy_us));
        put("prefixes_evicted_total", "counter", counts.evicted.to_string());
        put("prefixes_saved_total", "counter", counts.saved.to_string());
        put("prefixes_restored_total", "counter", counts.restored.to_string());
        put("prefix_waits_total", "counter", counts.waited.to_string());
        put("cache_cells", "gauge", counts.cells.to_string());
        put("cache_cells_limit", "gauge", counts.cells_limit.to_string());
        put("requests_waiting", "gauge", counts.waiting.to_string());
        put("requests_running", "gauge", counts.running.to_string());
        let asked = all.prompt_tokens + all.reused_tokens;
        let hit = if asked == 0 { 0.0 } else { all.reused_tokens as f64 / asked as f64 };
        put("cache_hit_ratio", "gauge", format!("{hit:.4}"));
        out.push_str("# TYPE galen_llm_tokens_total counter\n");
        for (agent, usage) in &self.agents {
            for (kind, tokens) in
                [("prefilled", usage.prompt_tokens), ("reused", usage.reused_tokens), ("generated", usage.generated_tokens)]
            {
                let _ = writeln!(out, "galen_llm_tokens_total{{agent=\"{agent}\",kind=\"{kind}\"}} {tokens}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_outlive_the_process_and_names_cannot_break_the_format() {
        let mut metrics = EngineMetrics::default();
        let usage = Usage { prompt_tokens: 10, reused_tokens: 30, generated_tokens: 2 };
        metrics.answered("locks\"\n", Ok(usage), Times { queued_us: 1_500_000, ran_us: 0 });
        metrics.answered("locks\"\n", Err(&LlmError::Timeout(1)), Times::default());
        metrics.engine(Counts { batches: 5, rows: 40, ..Counts::default() });
        metrics.restarted();
        metrics.engine(Counts { batches: 1, rows: 2, cells: 7, ..Counts::default() });
        let text = metrics.prometheus();
        for line in [
            "galen_llm_batches_total 6",
            "galen_llm_batch_rows_total 42",
            "galen_llm_cache_cells 7",
            "galen_llm_restarts_total 1",
            "galen_llm_requests_failed_total 1",
            "galen_llm_queue_seconds_total 1.500000",
            "galen_llm_cache_hit_ratio 0.7500",
            "galen_llm_tokens_total{agent=\"locks\",kind=\"reused\"} 30",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
