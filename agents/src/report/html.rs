//! The report as one page: no script, nothing from outside, light and dark, printable.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde_json::json;

use galen_tools::model::CulpritKind;

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
    let statements = statements(report);
    env.add_filter("prose", move |text: String| Value::from_safe_string(prose(&text, &statements)));
    env.add_filter("is_sql", |text: String| text.trim_end().ends_with(';') || text.contains("; --"));
    env.add_filter("ticks", |text: String| Value::from_safe_string(ticks(&text)));
    env.add_filter("human", |value: Value, name: String| {
        let json = serde_json::to_value(&value).unwrap_or_default();
        galen_tools::observe::digest::humanise(&name, &json)
    });
    let drawn: Vec<_> = report
        .charts
        .iter()
        .filter(|c| !flat(c))
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

/// A line that never leaves its place shows nothing.
fn flat(chart: &super::Chart) -> bool {
    chart.values.windows(2).all(|pair| pair[0] == pair[1])
}

/// Ids and texts of the statements that the report points at.
fn statements(report: &Report) -> Vec<(String, String)> {
    let culprits = report.root_causes.iter().flat_map(|c| &c.culprits).filter(|c| c.kind == CulpritKind::Query);
    let numbered = culprits.filter(|c| c.id.len() > 8 && c.id.parse::<i64>().is_ok());
    let mut found: Vec<(String, String)> = numbered.map(|c| (c.id.clone(), c.text.clone())).collect();
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found
}

/// Escaped text in which the long ids of statements are short, lead to the statement, and show it.
fn prose(text: &str, statements: &[(String, String)]) -> String {
    let mut out = escape(text);
    for (id, statement) in statements {
        let short = format!("{}…{}", &id[..4], &id[id.len() - 4..]);
        let title = escape(&super::markdown::plain(statement));
        out = out.replace(id, &format!("<a class=\"q\" href=\"#q{id}\" title=\"{title}\">{short}</a>"));
    }
    out
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
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bill, Claim, Evidence, Remedy, RootCause, Status};
    use galen_tools::model::ProbeCost;

    #[test]
    fn long_ids_are_short_and_lead_to_their_statement() {
        let known = [("-1245243266402719288".to_owned(), "select \"a\" < $1".to_owned())];
        let said = prose("Statement -1245243266402719288 <b>", &known);
        let link = "<a class=\"q\" href=\"#q-1245243266402719288\" title=\"select &quot;a&quot; &lt; $1\">-124…9288</a>";
        assert_eq!(said, format!("Statement {link} &lt;b&gt;"));
        let culprit = |id: &str| galen_tools::model::Culprit { kind: CulpritKind::Query, id: id.into(), text: String::new() };
        let cause = RootCause { culprits: vec![culprit("1<script>"), culprit("77"), culprit("1234567890")], ..RootCause::default() };
        let found = statements(&Report { root_causes: vec![cause], ..Report::default() });
        assert_eq!(found, [("1234567890".to_owned(), String::new())], "only long numbers are shortened");
    }

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
            bill: Bill { probes: vec![ProbeCost { probe: "sessions".into(), total_ms: 20.54, ..ProbeCost::default() }], ..Bill::default() },
            ..Report::default()
        };
        let page = render(&report, &[TreeNode { kind: "hypothesis".into(), label: nasty.into(), ..TreeNode::default() }]);
        assert!(page.contains("id=\"E1\"") && page.contains("href=\"#E1\""), "evidence is linked");
        assert!(page.contains("by probe") && page.contains("<td class=\"id\">sessions<td>0<td>0<td>20.5"), "the bill");
        assert!(!page.contains("<script") && !page.contains("onload=\"x"));
        assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count());
    }
}
