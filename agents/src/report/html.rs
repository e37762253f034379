//! The report as one page: no script, nothing from outside, light and dark, printable.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde_json::json;

use crate::driver::TreeNode;

use super::{Report, charts};

const PAGE: &str = include_str!("../../templates/report.html");

/// Renders the page. Everything but the charts is escaped; the charts are drawn here.
pub fn render(report: &Report, tree: &[TreeNode]) -> String {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.add_filter("pct", |n: f64| format!("{:.0} %", n * 100.0));
    env.add_filter("pct1", |n: f64| format!("{:.1} %", n * 100.0));
    env.add_filter("clock", |text: String| super::clock(&text));
    env.add_filter("ticks", |text: String| Value::from_safe_string(ticks(&text)));
    env.add_filter("human", |value: Value, name: String| {
        let json = serde_json::to_value(&value).unwrap_or_default();
        galen_tools::observe::digest::humanise(&name, &json)
    });
    let drawn: Vec<_> = report
        .charts
        .iter()
        .map(|c| json!({"signal": c.signal, "svg": charts::svg(c), "evidence": c.evidence}))
        .filter(|c| c["svg"] != "")
        .collect();
    let branches: Vec<_> = tree
        .iter()
        .filter(|n| n.kind == "hypothesis")
        .map(|n| json!({"node": n, "children": tree.iter().filter(|c| c.parent == Some(n.id)).collect::<Vec<_>>()}))
        .collect();
    let mut branches = branches;
    branches.sort_by(|a, b| b["node"]["probability"].as_f64().unwrap_or(0.0).total_cmp(&a["node"]["probability"].as_f64().unwrap_or(0.0)));
    let context = json!({"r": report, "charts": drawn, "branches": branches,
        "title": report.title(), "window": report.window.words(), "healthy": report.status == super::Status::Healthy});
    let page = env.template_from_str(PAGE).and_then(|t| t.render(Serde(&context)));
    page.unwrap_or_else(|error| {
        tracing::error!(%error, "the page could not be rendered");
        format!("<!doctype html><pre>{}</pre>", escape(&super::markdown::render(report)))
    })
}

/// Escaped text in which words between single backquotes are code.
fn ticks(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escape).collect();
    if parts.len().is_multiple_of(2) {
        return parts.join("`");
    }
    let marked = parts.iter().enumerate().map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part.clone() });
    marked.collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Claim, Evidence, Remedy, RootCause, Status};

    #[test]
    fn a_hostile_report_stays_text_and_nothing_comes_from_outside() {
        let nasty = "<script>alert(1)</script>\" onload=\"x";
        let report = Report {
            status: Status::Diagnosed,
            headline: nasty.into(),
            summary: vec![Claim { text: nasty.into(), evidence: vec!["E1".into()] }],
            root_causes: vec![RootCause {
                cause: "missing_index".into(),
                title: nasty.into(),
                probability: 0.9,
                remedies: vec![Remedy { sql: nasty.into(), ..Remedy::default() }],
                culprits: vec![galen_tools::model::Culprit {
                    kind: galen_tools::model::CulpritKind::Query,
                    id: nasty.into(),
                    text: nasty.into(),
                }],
                ..RootCause::default()
            }],
            evidence: vec![Evidence { id: "E1".into(), lines: vec![nasty.into()], ..Evidence::default() }],
            ..Report::default()
        };
        let page = render(&report, &[TreeNode { kind: "hypothesis".into(), label: nasty.into(), ..TreeNode::default() }]);
        assert!(page.contains("id=\"E1\"") && page.contains("href=\"#E1\""), "evidence is linked");
        assert!(!page.contains("<script") && !page.contains("onload=\"x"));
        assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count());
    }
}
