//! The report for a terminal: what matters at three in the morning, nothing else.

use std::fmt::Write as _;

use super::markdown::plain;
use super::{Report, RootCause, Status};

/// Ruled-out causes shown.
const MOST_RULED_OUT: usize = 6;
/// Lines of a remedy's statement shown.
const MOST_LINES: usize = 8;

struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }
    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }
    fn warn(&self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn good(&self, text: &str) -> String {
        self.with("1;32", text)
    }
}

/// Renders the report in lines of at most `width` columns.
pub fn render(report: &Report, colours: bool, width: usize) -> String {
    let paint = Paint(colours);
    let mut out = String::new();
    let headline = wrap(&report.title(), width, "");
    let shown = if report.status == Status::Healthy { paint.good(&headline) } else { paint.warn(&headline) };
    let _ = writeln!(out, "\n{shown}");
    let _ = writeln!(out, "{}\n", paint.dim(&plain(&format!("{} · {}", report.target, report.window.words()))));
    for claim in &report.summary {
        let _ = writeln!(out, "{}", wrap(&format!("{} [{}]", claim.text, claim.evidence.join(" ")), width, "  "));
    }
    for cause in &report.root_causes {
        root_cause(&mut out, report, cause, &paint, width);
    }
    for line in &report.collect_next {
        let _ = writeln!(out, "{}", wrap(&format!("collect: {line}"), width, "  "));
    }
    for consequence in &report.consequences {
        let _ =
            writeln!(out, "\n{}", wrap(&format!("consequence: {} [{}]", consequence.reason, consequence.evidence.join(" ")), width, "  "));
    }
    if report.status == Status::Diagnosed && !report.ruled_out.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Ruled out"));
        for r in report.ruled_out.iter().take(MOST_RULED_OUT) {
            let _ = writeln!(out, "{}", wrap(&format!("{}: {} [{}]", r.cause, r.reason, r.evidence.join(" ")), width, "  "));
        }
        if report.ruled_out.len() > MOST_RULED_OUT {
            let _ = writeln!(
                out,
                "  {}",
                paint.dim(&format!("and {} more, each with its reason, in the full report", report.ruled_out.len() - MOST_RULED_OUT))
            );
        }
    }
    for gap in &report.missing {
        let _ = writeln!(out, "{}", paint.dim(&wrap(&format!("not seen: {}: {}; {}", gap.what, gap.why, gap.fix), width, "  ")));
    }
    footer(&mut out, report, &paint, width);
    out
}

fn root_cause(out: &mut String, report: &Report, cause: &RootCause, paint: &Paint, width: usize) {
    let filled = (cause.probability * 20.0).round() as usize;
    let bar = format!("{}{}", "█".repeat(filled.min(20)), "░".repeat(20 - filled.min(20)));
    let _ = writeln!(out, "\n{} {bar} {:.0} %", paint.bold(&plain(&cause.title)), cause.probability * 100.0);
    if !report.says(&cause.summary) {
        let _ = writeln!(out, "{}", wrap(&cause.summary, width, "  "));
    }
    for claim in &cause.claims {
        let _ = writeln!(out, "{}", wrap(&format!("- {} [{}]", claim.text, claim.evidence.join(" ")), width, "  "));
    }
    for culprit in cause.culprits.iter().take(3) {
        let kind = format!("{:?}", culprit.kind).to_lowercase();
        let _ = writeln!(
            out,
            "{}",
            wrap(&format!("{kind} {}: {}", culprit.id, galen_knowledge::template::short(&culprit.text, 300)), width, "  ")
        );
    }
    for remedy in cause.remedies.iter().take(2) {
        let _ = writeln!(out, "\n  {}", paint.bold(&format!("→ {}", plain(&remedy.title))));
        for line in remedy.sql.lines().take(MOST_LINES) {
            let _ = writeln!(out, "      {}", paint.with("36", &plain(line)));
        }
        let more = remedy.sql.lines().count().saturating_sub(MOST_LINES);
        if more > 0 {
            let _ = writeln!(out, "      {}", paint.dim(&format!("and {more} more lines in the full report")));
        }
        let _ = writeln!(out, "{}", wrap(&format!("lock: {}", remedy.lock), width, "    "));
        let _ = writeln!(out, "{}", wrap(&format!("effect: {}", remedy.effect), width, "    "));
        let _ = writeln!(out, "{}", wrap(&format!("undo: {}", remedy.rollback), width, "    "));
        let _ = writeln!(out, "{}", wrap(&format!("verify: {}", remedy.verify), width, "    "));
    }
}

fn footer(out: &mut String, report: &Report, paint: &Paint, width: usize) {
    let b = &report.bill;
    let model = report.model.as_deref().unwrap_or("no model");
    let text = format!(
        "{} nodes, {} tests, {} experts; probes took {:.0} ms of the target; {model}: {} prompt and {} generated tokens; {:.1} s",
        report.tree.nodes,
        report.tree.tests,
        report.experts.len(),
        b.probe_ms,
        b.prompt_tokens,
        b.generated_tokens,
        b.wall_ms as f64 / 1000.0
    );
    let _ = writeln!(out, "\n{}", paint.dim(&wrap(&text, width, "")));
    if let Some(note) = &report.model_note {
        let _ = writeln!(out, "{}", paint.dim(&wrap(note, width, "")));
    }
}

/// Wraps at words; every line begins with the indent.
fn wrap(text: &str, width: usize, indent: &str) -> String {
    let room = width.saturating_sub(indent.len()).max(20);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in plain(text).split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            lines.push(String::new());
            used = 0;
        }
        let Some(line) = lines.last_mut() else { continue };
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    lines.iter().map(|l| format!("{indent}{l}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_escapes_are_gone() {
        let report = Report { headline: format!("bad \u{1b}]0;title\u{7} {}", "word ".repeat(60)), ..Report::default() };
        let text = render(&report, false, 60);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
        assert!(text.lines().all(|l| l.chars().count() <= 60), "{text}");
        assert!(render(&report, true, 60).contains("\u{1b}[1;31m"));
    }
}
