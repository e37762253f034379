//! What changed between two reports, in the order in which it matters to a reader: verdict, root causes with their
//! culprits and remedies, consequences, what was ruled out, the facts underneath, the cost.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::{Report, RootCause};
use crate::evaluation::measured::digest;

/// One difference. A side that is absent was not in that report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What differs, such as `root cause missing_index` or `table_scans.rows_per_scan`.
    pub what: String,
    /// In the first report.
    pub before: Option<String>,
    /// In the second report.
    pub after: Option<String>,
}

/// All differences between two reports of one incident; empty when they say the same. Evidence is matched by tool,
/// not by id: a test more or less shifts all ids. Wall time is no difference.
pub fn diff(before: &Report, after: &Report) -> Vec<Change> {
    let mut changes = Changes::default();
    changes.pair("status", &word(before.status), &word(after.status));
    changes.pair("model", before.model.as_deref().unwrap_or("none"), after.model.as_deref().unwrap_or("none"));
    changes.pair("model note", before.model_note.as_deref().unwrap_or_default(), after.model_note.as_deref().unwrap_or_default());
    changes.pair(
        "window",
        &format!("{} to {}", before.window.start, before.window.end),
        &format!("{} to {}", after.window.start, after.window.end),
    );
    changes.pair("headline", &before.headline, &after.headline);
    changes.maps("root cause ", &ranked(before), &ranked(after));
    changes.maps("", &details(before), &details(after));
    changes.orders(before, after);
    let follows = |r: &Report| r.consequences.iter().map(|c| (c.cause.clone(), format!("of {}: {}", c.of, c.reason))).collect();
    changes.maps("consequence ", &follows(before), &follows(after));
    let refuted = |r: &Report| r.ruled_out.iter().map(|c| (c.cause.clone(), c.reason.clone())).collect();
    changes.maps("ruled out ", &refuted(before), &refuted(after));
    changes.maps("", &facts(before), &facts(after));
    let gaps = |r: &Report| r.missing.iter().map(|m| (m.what.clone(), m.why.clone())).collect();
    changes.maps("missing ", &gaps(before), &gaps(after));
    let summary = |r: &Report| r.summary.iter().map(|c| c.text.as_str()).collect::<Vec<_>>().join(" ");
    changes.pair("summary", &summary(before), &summary(after));
    let cost = |r: &Report| {
        let (tree, bill) = (r.tree, &r.bill);
        format!("{} nodes, {} tests, {} prompt tokens, {} generated", tree.nodes, tree.tests, bill.prompt_tokens, bill.generated_tokens)
    };
    let (mut first, mut second) = (rest(before), rest(after));
    without_what_one_lacks(&mut first, &mut second);
    changes.maps("", &first, &second);
    changes.pair("cost", &cost(before), &cost(after));
    changes.0
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn pair(&mut self, what: &str, before: &str, after: &str) {
        if before != after {
            let side = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
            self.0.push(Change { what: what.to_owned(), before: side(before), after: side(after) });
        }
    }

    /// Culprits and remedies that both have, in another order: the first counts most.
    fn orders(&mut self, before: &Report, after: &Report) {
        for old in &before.root_causes {
            let Some(new) = after.root_causes.iter().find(|new| new.cause == old.cause) else { continue };
            let culprits = |cause: &RootCause| cause.culprits.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
            let remedies = |cause: &RootCause| cause.remedies.iter().map(|r| r.title.clone()).collect::<Vec<_>>();
            for (what, one, other) in [("culprits", culprits(old), culprits(new)), ("remedies", remedies(old), remedies(new))] {
                let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
                if sorted(&one) == sorted(&other) {
                    self.pair(&format!("order of {}'s {what}", old.cause), &one.join(", "), &other.join(", "));
                }
            }
        }
    }

    fn maps(&mut self, prefix: &str, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key).cloned(), after.get(key).cloned());
            if old != new {
                self.0.push(Change { what: format!("{prefix}{key}"), before: old, after: new });
            }
        }
    }
}

/// Tools of the evidence, in its order; a second piece of one tool has a number.
fn tools(report: &Report) -> Vec<String> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let named = |tool: &'_ str, count: usize| if count > 1 { format!("{tool} ({count})") } else { tool.to_owned() };
    let mut all = Vec::new();
    for evidence in &report.evidence {
        let tool = evidence.observation.tool.as_str();
        let count = taken.entry(tool).and_modify(|count| *count += 1).or_insert(1);
        all.push(named(tool, *count));
    }
    all
}

fn word(status: super::Status) -> String {
    serde_json::to_value(status).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn ranked(report: &Report) -> BTreeMap<String, String> {
    let place = |(i, c): (usize, &RootCause)| (c.cause.clone(), format!("{}. at {:.1} %", i + 1, c.probability * 100.0));
    report.root_causes.iter().enumerate().map(place).collect()
}

/// Culprits and remedies of each root cause.
fn details(report: &Report) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for cause in &report.root_causes {
        for culprit in &cause.culprits {
            let kind = serde_json::to_value(culprit.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
            all.insert(format!("{} points at {kind} {}", cause.cause, culprit.id), culprit.text.clone());
        }
        for remedy in &cause.remedies {
            all.insert(format!("{} remedy {}", cause.cause, remedy.title), format!("{} ({})", remedy.sql, remedy.effect));
        }
    }
    all
}

fn facts(report: &Report) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (evidence, tool) in report.evidence.iter().zip(tools(report)) {
        let observation = &evidence.observation;
        if let Some(why) = &observation.no_data {
            all.insert(format!("{tool} without data"), why.clone());
        }
        for (name, value) in &observation.facts {
            let text = value.as_str().map_or_else(|| Value::to_string(value), str::to_owned);
            all.insert(format!("{tool}.{name}"), text);
        }
    }
    all
}

/// Everything else that a report says, by where it stands, so that no difference is passed over: `root_causes
/// missing_index: remedies Build the index again: lock`. What is told above in words of its own is left out, and what differs
/// from run to run.
fn rest(report: &Report) -> BTreeMap<String, String> {
    let mut whole = serde_json::to_value(report).unwrap_or_default();
    for key in ["status", "model", "model_note", "window", "headline", "consequences", "missing", "tree"] {
        let _ = whole.as_object_mut().map(|fields| fields.remove(key));
    }
    for (list, keys) in [
        ("summary", &["text"][..]),
        ("root_causes", &["probability"]),
        ("ruled_out", &["reason"]),
        ("evidence", &["id", "facts", "no_data", "cost_ms"]),
    ] {
        for item in whole.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            keys.iter().for_each(|key| drop(item.as_object_mut().map(|fields| fields.remove(*key))));
        }
    }
    for cause in whole.get_mut("root_causes").and_then(Value::as_array_mut).into_iter().flatten() {
        let _ = cause.as_object_mut().map(|fields| fields.remove("culprits"));
        for remedy in cause.get_mut("remedies").and_then(Value::as_array_mut).into_iter().flatten() {
            let _ = remedy.as_object_mut().map(|fields| fields.retain(|key, _| key != "sql" && key != "effect"));
        }
    }
    // Probes are measured in milliseconds, and of a replay they are those of the recording: runs and failures are told.
    if let Some(bill) = whole.get_mut("bill").and_then(Value::as_object_mut) {
        bill.retain(|key, _| key == "probes");
        for probe in bill.get_mut("probes").and_then(Value::as_array_mut).into_iter().flatten() {
            let _ = probe.as_object_mut().map(|fields| fields.retain(|key, _| !key.ends_with("_ms")));
        }
    }
    let tools = report.evidence.iter().map(|e| e.id.clone()).zip(tools(report));
    let sources = report.knowledge.iter().map(|k| (k.id.clone(), k.title.clone()));
    let meant = tools.chain(sources).collect();
    let mut all = BTreeMap::new();
    leaves("", &whole, &meant, &mut all);
    all
}

/// Of what only one report has, only that it has it; of root causes and what was ruled out that is told before.
fn without_what_one_lacks(first: &mut BTreeMap<String, String>, second: &mut BTreeMap<String, String>) {
    let items =
        |of: &BTreeMap<String, String>| -> BTreeSet<String> { of.iter().filter(|(_, v)| *v == THERE).map(|(k, _)| k.clone()).collect() };
    let (one, other) = (items(first), items(second));
    for item in one.symmetric_difference(&other) {
        // Causes have ids, in which there is no such mark; what stands below them is told nowhere else, but for remedies.
        let cause = (item.starts_with("root_causes ") || item.starts_with("ruled_out ")) && !item.contains(": ");
        let told = cause || item.contains(": remedies ");
        let below = format!("{item}: ");
        for side in [&mut *first, &mut *second] {
            side.retain(|place, _| !(place.starts_with(&below) || told && place == item));
        }
    }
}

/// Stands for an item as such.
const THERE: &str = "there";
/// Items of a list that are written out.
const LONG: usize = 12;
/// What an item of a list is called by; the first that it has. Sentences have no name but themselves.
const NAMES: [&str; 8] = ["cause", "expert", "title", "tool", "probe", "signal", "text", "id"];

/// Puts each value below `value` into `all` by its path. Items of a list are found by their names and not by their places, ids of
/// evidence and knowledge by what is `meant` by them.
fn leaves(path: &str, value: &Value, meant: &BTreeMap<String, String>, all: &mut BTreeMap<String, String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}: {name}") };
    let plain = |value: &Value| {
        value.as_str().map_or_else(|| value.to_string(), |text| meant.get(text).cloned().unwrap_or_else(|| text.to_owned()))
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, field)| leaves(&below(key), field, meant, all)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let mut taken: BTreeMap<String, usize> = BTreeMap::new();
            for item in items {
                let name = NAMES.iter().find_map(|key| item.get(key).map(&plain).filter(|name| !name.is_empty())).unwrap_or_default();
                let count = taken.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
                let name = if *count > 1 { format!("{name} ({count})") } else { name };
                // An item may hold nothing but its name: that it is there counts.
                all.insert(format!("{path} {name}"), THERE.to_owned());
                leaves(&format!("{path} {name}"), item, meant, all);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => {
            let mut words: Vec<String> = items.iter().map(plain).collect();
            // The order of what is cited follows from the ids.
            if items.iter().all(|item| item.as_str().is_some_and(|id| meant.contains_key(id))) {
                words.sort();
            }
            // The values of a chart would fill the screen.
            let told = if words.len() > LONG {
                let digest = digest(words.iter().map(|word| word.as_bytes()));
                format!("{} values, SHA-256 {}", words.len(), digest.get(..12).unwrap_or_default())
            } else {
                words.join(", ")
            };
            all.insert(path.to_owned(), told);
        }
        _ => drop(all.insert(path.to_owned(), plain(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Evidence, RuledOut, Status};
    use galen_tools::observe::Observation;

    fn report(probability: f64) -> Report {
        let cause = RootCause { cause: "missing_index".into(), probability, ..RootCause::default() };
        Report { status: Status::Diagnosed, root_causes: vec![cause], ..Report::default() }
    }

    fn scans(id: &str, rows: f64) -> Evidence {
        let facts = [("rows".to_owned(), rows.into())].into();
        Evidence {
            id: id.into(),
            observation: Observation { tool: "table_scans".into(), facts, ..Observation::default() },
            ..Evidence::default()
        }
    }

    #[test]
    fn equal_reports_do_not_differ_whatever_they_took() {
        let (a, mut b) = (report(0.9), report(0.9));
        b.bill.wall_ms = 99;
        assert_eq!(diff(&a, &b), []);
    }

    #[test]
    fn a_shifted_evidence_id_is_no_difference_and_a_changed_fact_is_one() {
        let (mut a, mut b) = (report(0.9), report(0.9));
        (a.evidence, b.evidence) = (vec![scans("E1", 5.0)], vec![scans("E7", 5.0)]);
        assert_eq!(diff(&a, &b), []);
        b.evidence = vec![scans("E7", 6.0)];
        let only = Change { what: "table_scans.rows".into(), before: Some("5.0".into()), after: Some("6.0".into()) };
        assert_eq!(diff(&a, &b), [only]);
    }

    #[test]
    fn what_stands_below_a_cause_that_both_have_is_told_once() {
        use crate::report::Claim;
        use galen_tools::model::{Culprit, CulpritKind};
        let (mut a, mut b) = (report(0.9), report(0.9));
        let culprit = |id: &str| Culprit { kind: CulpritKind::Table, id: id.into(), text: String::new() };
        a.root_causes[0].claims = vec![Claim { text: "One: two.".into(), ..Claim::default() }];
        b.root_causes[0].claims = vec![Claim { text: "One: three.".into(), ..Claim::default() }];
        a.root_causes[0].culprits = vec![culprit("x"), culprit("y")];
        b.root_causes[0].culprits = vec![culprit("y"), culprit("x")];
        let told: Vec<String> = diff(&a, &b).into_iter().map(|c| c.what).collect();
        let claim = |text: &str| format!("root_causes missing_index: claims {text}");
        assert_eq!(told, ["order of missing_index's culprits".to_owned(), claim("One: three."), claim("One: two.")]);
    }

    #[test]
    fn causes_that_come_go_and_move_are_told() {
        let (a, mut b) = (report(0.9), report(0.7));
        b.root_causes.insert(0, RootCause { cause: "stale_statistics".into(), probability: 0.8, ..RootCause::default() });
        b.ruled_out.push(RuledOut { cause: "failover".into(), reason: "The node kept its role.".into(), ..RuledOut::default() });
        let told: Vec<(String, Option<String>, Option<String>)> = diff(&a, &b).into_iter().map(|c| (c.what, c.before, c.after)).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                ("root cause missing_index".into(), some("1. at 90.0 %"), some("2. at 70.0 %")),
                ("root cause stale_statistics".into(), None, some("1. at 80.0 %")),
                ("ruled out failover".into(), None, some("The node kept its role.")),
            ]
        );
    }
}
