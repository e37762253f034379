//! The report as Markdown: for chats, tickets and terminals that render it.

use std::fmt::Write as _;

use super::{Claim, Remedy, Report, RootCause};

/// Renders the report. All text of the database is made harmless: no control characters, nothing that ends a code block.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# {}\n", inline(&report.headline));
    let _ = writeln!(out, "Target `{}`, window {} to {}.\n", code(&report.target), report.window.start, report.window.end);
    for claim in &report.summary {
        let _ = writeln!(out, "- {}", cited(claim));
    }
    let _ = writeln!(out, "\nSummary by {}.", inline(&report.summary_by));
    for cause in &report.root_causes {
        root_cause(&mut out, cause);
    }
    if !report.collect_next.is_empty() {
        out.push_str("\n## What to collect\n\n");
        for line in &report.collect_next {
            let _ = writeln!(out, "- {}", inline(line));
        }
    }
    list(&mut out, "Consequences", report.consequences.iter().map(|c| (c.reason.as_str(), c.evidence.as_slice())));
    let ruled: Vec<(String, &[String])> = report
        .ruled_out
        .iter()
        .map(|r| (format!("{} ({:.1} %): {}", r.cause, r.probability * 100.0, r.reason), r.evidence.as_slice()))
        .collect();
    list(&mut out, "Ruled out", ruled.iter().map(|(t, e)| (t.as_str(), *e)));
    if !report.missing.is_empty() {
        out.push_str("\n## Not seen\n\n");
        for gap in &report.missing {
            let _ = writeln!(out, "- {}: {}; {}", inline(&gap.what), inline(&gap.why), inline(&gap.fix));
        }
    }
    if !report.knowledge.is_empty() {
        out.push_str("\n## Knowledge\n\n");
        for k in &report.knowledge {
            let source = k.link.as_ref().map_or_else(|| inline(&k.source), |link| format!("[{}]({link})", inline(&k.source)));
            let _ = writeln!(out, "- **{}** {}: {} ({source})", k.id, inline(&k.title), inline(&k.excerpt));
        }
    }
    out.push_str("\n## Evidence\n\n");
    for e in &report.evidence {
        let _ = writeln!(out, "- **{}** `{}`: {}", e.id, code(&e.observation.tool), inline(&e.lines.join("; ")));
    }
    let b = &report.bill;
    let _ = writeln!(
        out,
        "\n{} nodes, {} tests; probes {:.0} ms of the target; {} prompt and {} generated tokens; {} ms. Model: {}.",
        report.tree.nodes,
        report.tree.tests,
        b.probe_ms,
        b.prompt_tokens,
        b.generated_tokens,
        b.wall_ms,
        inline(report.model.as_deref().unwrap_or("none"))
    );
    if !b.probes.is_empty() {
        out.push_str("\n| probe | runs | failed | ms in all | slowest, ms |\n|---|---|---|---|---|\n");
    }
    for p in &b.probes {
        let _ = writeln!(out, "| {} | {} | {} | {:.1} | {:.1} |", inline(&p.probe), p.runs, p.failures, p.total_ms, p.max_ms);
    }
    if !b.model.is_empty() {
        out.push_str("\n| model asked by | about | prompt tokens | reused | generated |\n|---|---|---|---|---|\n");
    }
    for m in &b.model {
        let (agent, branch) = (inline(&m.agent), inline(&m.branch));
        let _ = writeln!(out, "| {agent} | {branch} | {} | {} | {} |", m.prompt_tokens, m.reused_tokens, m.generated_tokens);
    }
    if let Some(note) = &report.model_note {
        let _ = writeln!(out, "\n{}.", inline(note));
    }
    out
}

fn root_cause(out: &mut String, cause: &RootCause) {
    let _ = writeln!(
        out,
        "\n## {} (`{}`, {:.0} %)\n\n{}\n",
        inline(&cause.title),
        code(&cause.cause),
        cause.probability * 100.0,
        inline(&cause.summary)
    );
    if let Some(since) = &cause.since {
        let _ = writeln!(out, "Since {since}.\n");
    }
    for claim in &cause.claims {
        let _ = writeln!(out, "- {}", cited(claim));
    }
    for culprit in &cause.culprits {
        let kind = format!("{:?}", culprit.kind).to_lowercase();
        let _ = writeln!(out, "\n{kind} `{}`:\n\n{}", code(&culprit.id), block(&culprit.text));
    }
    for review in &cause.reviews {
        let _ = writeln!(out, "- {}: {}, {} [{}]", review.expert, review.verdict, inline(&review.reason), review.evidence.join(", "));
    }
    for remedy in &cause.remedies {
        self::remedy(out, remedy);
    }
}

fn remedy(out: &mut String, remedy: &Remedy) {
    let _ = writeln!(out, "\n### {}\n\n{}", inline(&remedy.title), block(&remedy.sql));
    let _ = writeln!(
        out,
        "- Lock: {}\n- Undo: {}\n- Verify: {}\n- Effect: {}",
        inline(&remedy.lock),
        inline(&remedy.rollback),
        inline(&remedy.verify),
        inline(&remedy.effect)
    );
}

fn list<'a>(out: &mut String, title: &str, entries: impl Iterator<Item = (&'a str, &'a [String])>) {
    for (i, (text, evidence)) in entries.enumerate() {
        if i == 0 {
            let _ = writeln!(out, "\n## {title}\n");
        }
        let _ = writeln!(out, "- {} [{}]", inline(text), evidence.join(", "));
    }
}

fn cited(claim: &Claim) -> String {
    format!("{} [{}]", inline(&claim.text), claim.evidence.join(", "))
}

/// One line without control characters, terminal escapes and direction overrides.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .collect()
}

/// Text for a line of Markdown: what could be markup is escaped.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text).chars() {
        if matches!(c, '<' | '>' | '[' | ']' | '`' | '*' | '\\' | '|' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text between single backquotes.
fn code(text: &str) -> String {
    plain(text).replace('`', "'")
}

/// A code block whose fence is longer than any run of backquotes in it.
fn block(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    let longest = clean.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}sql\n{clean}\n{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_lists_each_probe() {
        let mut report = Report::default();
        assert!(!render(&report).contains("| probe |"));
        let cost = |probe: &str, total_ms: f64| galen_tools::model::ProbeCost {
            probe: probe.into(),
            runs: 90,
            failures: 1,
            total_ms,
            max_ms: 2.25,
        };
        report.bill.model = vec![crate::report::ModelCost {
            agent: "locks".into(),
            branch: "a+b".into(),
            prompt_tokens: 7,
            reused_tokens: 5,
            generated_tokens: 3,
        }];
        report.bill.probes = vec![cost("sessions", 20.5), cost("a|b", 3.0)];
        let text = render(&report);
        assert!(text.contains("| sessions | 90 | 1 | 20.5 | 2.2 |\n| a\\|b | 90 | 1 | 3.0 | 2.2 |"), "{text}");
        assert!(text.contains("| locks | a+b | 7 | 5 | 3 |"), "{text}");
    }

    #[test]
    fn hostile_text_does_not_leave_its_place() {
        let mut report = Report { headline: "x\u{1b}[31m <img src=x> [l](javascript:1)".into(), ..Report::default() };
        report.root_causes.push(RootCause {
            culprits: vec![galen_tools::model::Culprit {
                kind: galen_tools::model::CulpritKind::Query,
                id: "1`2".into(),
                text: "select '```\n# owned\n````'".into(),
            }],
            ..RootCause::default()
        });
        let text = render(&report);
        assert!(!text.contains('\u{1b}') && text.contains("\\<img") && text.contains("\\[l\\]"));
        assert!(text.contains("`````sql\nselect '```\n# owned\n````'\n`````"));
    }
}
