//! What the engine has done so far, for those who watch the daemon.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::batched::Counts;
use super::protocol::{Asker, Times};
use super::{LlmError, Usage};

/// Agents that are counted by name; later ones are counted together.
const MOST_AGENTS: usize = 64;
/// Incidents whose branches are kept, the latest ones.
const MOST_INCIDENTS: usize = 32;
/// Branches of an incident that are counted by name; later ones are counted together.
const MOST_BRANCHES: usize = 64;
/// Where those are counted that are too many.
const OTHERS: &str = "others";

/// Tokens that an agent cost.
pub type AgentTokens = BTreeMap<String, Usage>;

/// Sums since the start of the daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineMetrics {
    /// Tokens by agent.
    pub agents: AgentTokens,
    /// Requests answered.
    pub answered: u64,
    /// Requests refused or failed, those that were out of time too.
    pub failed: u64,
    /// Requests that were abandoned by those who had asked.
    pub dropped: u64,
    /// Requests that the process has now.
    pub open: u64,
    /// Time from when requests were asked until the engine began them, or until a server was asked, microseconds.
    pub queued_us: u64,
    /// Time that requests ran, microseconds.
    pub ran_us: u64,
    /// Starts of the process after the first.
    pub restarts: u64,
    /// Whether a process lives and has loaded its model; none where there is no process to start.
    pub up: Option<bool>,
    /// Whether it failed three times in a row: it is not started again before the next diagnosis.
    pub given_up: bool,
    /// Tokens by branch of the search, for each of the latest incidents; the oldest first.
    incidents: VecDeque<(String, BTreeMap<String, Usage>)>,
    /// What engines that are gone had done.
    past: Counts,
    /// What the engine of now has done; a new process begins at nothing.
    now: Counts,
}

impl EngineMetrics {
    /// Takes note of the end of a request, and says so in the log.
    pub(super) fn ended(&mut self, asker: &Asker, error: Option<&LlmError>, usage: Usage, times: Times) {
        tracing::debug!(
            agent = asker.agent,
            incident = asker.incident,
            branch = asker.branch,
            prefilled = usage.prompt_tokens,
            reused = usage.reused_tokens,
            generated = usage.generated_tokens,
            queue_ms = times.queued_us / 1_000,
            run_ms = times.ran_us / 1_000,
            error = error.map(tracing::field::display),
            "model request"
        );
        if error.is_some() {
            self.failed += 1;
        } else {
            self.answered += 1;
        }
        self.worked(asker, usage, times);
    }

    /// Takes note of a request that nobody waits for any more, and of its time in the queue so far; what it costs comes later.
    pub(super) fn dropped(&mut self, asker: &Asker, queued_us: u64) {
        tracing::debug!(agent = asker.agent, incident = asker.incident, branch = asker.branch, "model request dropped");
        self.dropped += 1;
        self.queued_us += queued_us;
    }

    /// Takes note of what a request took, and cost.
    pub(super) fn worked(&mut self, asker: &Asker, usage: Usage, times: Times) {
        self.queued_us += times.queued_us;
        self.ran_us += times.ran_us;
        self.spent(asker, usage);
    }

    /// Takes note of tokens.
    pub(super) fn spent(&mut self, asker: &Asker, usage: Usage) {
        if usage == Usage::default() {
            return;
        }
        // As a label may be: two names that look the same there are one.
        let agent: String = asker.agent.chars().filter(|c| c.is_ascii_alphanumeric() || "_-./ ".contains(*c)).collect();
        *named(&mut self.agents, &agent, MOST_AGENTS) += usage;
        let known = self.incidents.iter().position(|(incident, _)| *incident == asker.incident);
        if known.is_none() && self.incidents.len() == MOST_INCIDENTS {
            self.incidents.pop_front();
        }
        let latest = known.and_then(|place| self.incidents.remove(place)).unwrap_or_else(|| (asker.incident.clone(), BTreeMap::new()));
        self.incidents.push_back(latest);
        if let Some((_, branches)) = self.incidents.back_mut() {
            *named(branches, &asker.branch, MOST_BRANCHES) += usage;
        }
    }

    /// Tokens of one of the latest incidents by branch of its search; an empty name is the whole tree.
    pub fn branches(&self, incident: &str) -> Option<&BTreeMap<String, Usage>> {
        self.incidents.iter().find(|(known, _)| known == incident).map(|(_, branches)| branches)
    }

    /// Takes note of the engine's own counts.
    pub(super) fn engine(&mut self, counts: Counts) {
        self.now = counts;
    }

    /// The process is gone: what its engine has done stays counted, and it holds and runs nothing any more.
    pub(super) fn stopped(&mut self) {
        self.past = self.counts();
        self.now = Counts::default();
        self.open = 0;
        self.up = Some(false);
    }

    /// A process has loaded its model.
    pub(super) fn loaded(&mut self) {
        self.up = Some(true);
    }

    /// The process has started again.
    pub(super) fn restarted(&mut self) {
        self.restarts += 1;
    }

    /// Batches so far, and milliseconds of the engine's own work in all of them.
    pub fn own_work(&self) -> (u64, f64) {
        let counts = self.counts();
        (counts.batches, counts.busy_us.saturating_sub(counts.model_us) as f64 / 1e3)
    }

    /// What all engines so far have done, and what the one of now holds and runs: nothing while no process lives.
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
        self.agents.values().for_each(|usage| all += *usage);
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
        put("requests_dropped_total", "counter", self.dropped.to_string());
        put("queue_seconds_total", "counter", seconds(self.queued_us));
        put("run_seconds_total", "counter", seconds(self.ran_us));
        put("restarts_total", "counter", self.restarts.to_string());
        if let Some(up) = self.up {
            put("up", "gauge", u8::from(up).to_string());
            put("given_up", "gauge", u8::from(self.given_up).to_string());
        }
        put("batches_total", "counter", counts.batches.to_string());
        put("batch_rows_total", "counter", counts.rows.to_string());
        put("batch_rows_limit", "gauge", counts.rows_limit.to_string());
        let most = counts.batches.saturating_mul(counts.rows_limit);
        let full = if most == 0 { 0.0 } else { counts.rows as f64 / most as f64 };
        put("batch_occupancy", "gauge", format!("{full:.4}"));
        put("model_seconds_total", "counter", seconds(counts.model_us));
        put("busy_seconds_total", "counter", seconds(counts.busy_us));
        put("prefixes_evicted_total", "counter", counts.evicted.to_string());
        put("prefixes_saved_total", "counter", counts.saved.to_string());
        put("prefixes_restored_total", "counter", counts.restored.to_string());
        put("prefix_waits_total", "counter", counts.waited.to_string());
        put("cache_cells", "gauge", counts.cells.to_string());
        put("cache_cells_limit", "gauge", counts.cells_limit.to_string());
        put("requests_open", "gauge", self.open.to_string());
        put("requests_waiting", "gauge", counts.waiting.to_string());
        put("requests_running", "gauge", counts.running.to_string());
        let asked = all.prompt_tokens.saturating_add(all.reused_tokens);
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

/// The sum of this name, or the one of all others where there are `most` already.
fn named<'s>(sums: &'s mut BTreeMap<String, Usage>, name: &str, most: usize) -> &'s mut Usage {
    let name = if sums.contains_key(name) || sums.len() < most { name } else { OTHERS };
    sums.entry(name.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_of_the_latest_incidents_are_counted_and_no_more_than_are_worth_it() {
        let mut metrics = EngineMetrics::default();
        let usage = Usage { generated_tokens: 1, ..Usage::default() };
        for incident in 0..100 {
            for branch in 0..100 {
                metrics.spent(&Asker::new("a", &format!("i{incident}"), &format!("b{branch}")), usage);
            }
            // The first one goes on.
            metrics.spent(&Asker::new("a", "i0", "b1"), usage);
        }
        assert!(metrics.branches("i50").is_none() && metrics.incidents.len() == MOST_INCIDENTS);
        let last = metrics.branches("i99").unwrap();
        assert_eq!((last.len(), last["b1"].generated_tokens, last[OTHERS].generated_tokens), (MOST_BRANCHES + 1, 1, 36));
        assert_eq!(metrics.branches("i0").unwrap()["b1"].generated_tokens, 101);
        assert_eq!(metrics.tokens().generated_tokens, 10_100);
    }

    #[test]
    fn sums_outlive_the_process_and_names_cannot_break_the_format() {
        let mut metrics = EngineMetrics::default();
        let usage = Usage { prompt_tokens: 10, reused_tokens: 30, generated_tokens: 2 };
        let asker = Asker::new("locks\"\n", "", "");
        metrics.ended(&asker, None, usage, Times { queued_us: 1_500_000, ran_us: 0 });
        metrics.ended(&asker, Some(&LlmError::Timeout(1)), Usage::default(), Times::default());
        metrics.dropped(&asker, 50_000);
        metrics.worked(&asker, Usage { prompt_tokens: 5, ..Usage::default() }, Times { queued_us: 200_000, ran_us: 1_000 });
        metrics.engine(Counts { batches: 5, rows: 40, ..Counts::default() });
        metrics.stopped();
        metrics.restarted();
        metrics.engine(Counts { batches: 1, rows: 2, rows_limit: 14, cells: 7, ..Counts::default() });
        let text = metrics.prometheus();
        for line in [
            "galen_llm_batches_total 6",
            "galen_llm_batch_rows_total 42",
            "galen_llm_batch_occupancy 0.5000",
            "galen_llm_cache_cells 7",
            "galen_llm_restarts_total 1",
            "galen_llm_requests_answered_total 1",
            "galen_llm_requests_failed_total 1",
            "galen_llm_requests_dropped_total 1",
            "galen_llm_queue_seconds_total 1.750000",
            "galen_llm_run_seconds_total 0.001000",
            "galen_llm_cache_hit_ratio 0.6667",
            "galen_llm_tokens_total{agent=\"locks\",kind=\"prefilled\"} 15",
            "galen_llm_tokens_total{agent=\"locks\",kind=\"reused\"} 30",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_the_process_holds_is_zero_while_there_is_none_and_what_it_did_stays_counted() {
        let mut metrics = EngineMetrics::default();
        let held = Counts { cells: 7, cells_limit: 64, waiting: 2, running: 3, ..Counts::default() };
        metrics.engine(Counts { batches: 5, saved: 1, ..held });
        // Told twice, it counts once.
        for _ in 0..2 {
            metrics.stopped();
            let text = metrics.prometheus();
            for line in ["cache_cells 0", "cache_cells_limit 0", "requests_waiting 0", "requests_running 0", "batches_total 5"] {
                assert!(text.contains(&format!("\ngalen_llm_{line}\n")), "{line}\n{text}");
            }
        }
        metrics.engine(Counts { batches: 2, ..held });
        assert_eq!(metrics.counts(), Counts { batches: 7, saved: 1, ..held });
    }

    #[test]
    fn whether_the_process_is_up_or_given_up_is_said_where_there_is_one() {
        let says = |metrics: &EngineMetrics, line: &str| metrics.prometheus().lines().any(|l| l == format!("galen_llm_{line}"));
        let mut metrics = EngineMetrics::default();
        assert!(!metrics.prometheus().contains("up "), "a server is no process of ours");
        metrics.loaded();
        assert!(says(&metrics, "up 1") && says(&metrics, "given_up 0"));
        metrics.stopped();
        metrics.given_up = true;
        assert!(says(&metrics, "up 0") && says(&metrics, "given_up 1"));
        metrics.loaded();
        assert!(says(&metrics, "up 1"));
    }
}
