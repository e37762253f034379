//! Typed questions about labelled captures, to measure what a model alone is worth: options, one of them right.
//!
//! The evidence is what a panel would show: sentences of tests that a diagnosis without a model has run. The right option
//! comes from the label, or from the test's own verdict; neither stands in the prompt.

use std::collections::BTreeSet;

use galen_knowledge::catalog::Catalog;
use galen_tools::model::{Culprit, CulpritKind};

use super::record::Expected;
use super::{Capability, measured};
use crate::driver::{Diagnosis, TreeNode};
use crate::panel::SYSTEM;

/// Options of a question about causes.
pub const OPTIONS: usize = 4;
/// Evidence lines shown.
const LINES: usize = 8;

/// A question with one right option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Case that it is about: questions of one case are not independent.
    pub case: String,
    /// What it measures.
    pub capability: Capability,
    /// System text and evidence.
    pub shared: String,
    /// The question itself.
    pub text: String,
    /// The options, in an order that says nothing.
    pub options: Vec<String>,
    /// Index of the right one.
    pub right: usize,
}

/// SHA-256 over questions, in hexadecimal: their texts, options and right answers, in their order. Models that were asked
/// questions of one digest can be compared.
pub fn digest(questions: &[Question]) -> String {
    let one = |q: &Question| {
        let right = q.right.to_string();
        let head = [q.case.as_str(), q.capability.word(), q.shared.as_str(), q.text.as_str(), right.as_str()];
        measured::digest(head.into_iter().chain(q.options.iter().map(String::as_str)).map(str::as_bytes))
    };
    let each: Vec<String> = questions.iter().map(one).collect();
    measured::digest(each.iter().map(String::as_bytes))
}

/// What is known of a case beside its diagnosis: the answer, and what could be wrong answers.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Id of the case.
    pub case: &'a str,
    /// Root causes, or `healthy` alone.
    pub labels: &'a [String],
    /// What a diagnosis should point at.
    pub culprits: &'a [Expected],
    /// Tables, indexes and statements of the capture, those that the fault is about among them.
    pub objects: &'a [Culprit],
}

/// All questions about a case. Which of four causes the evidence shows, once against its nearest rivals, once against the next,
/// and once with as many findings about other causes in between; which of the nearest four's meanings and remedies fit it; which
/// of four objects it points at; whether findings show that something is wrong, once each way; and whether one speaks for or
/// against a cause, once each way. What a case says nothing about is not asked.
pub fn questions(known: Known<'_>, diagnosis: &Diagnosis, catalog: &Catalog) -> Vec<Question> {
    let mut all = Vec::new();
    // What is asked of the same evidence stands together: a model that keeps the beginning of its last prompt reads it once.
    if let Some(nearest) = candidates(diagnosis, known.labels, 0) {
        let asked = [Asked::Cause, Asked::Meaning, Asked::Remedy, Asked::CauseInNoise];
        all.extend(asked.into_iter().filter_map(|asked| nearest.ask(known, diagnosis, catalog, asked)));
        all.extend(object(known, &nearest, diagnosis));
    }
    all.extend(candidates(diagnosis, known.labels, 1).and_then(|next| next.ask(known, diagnosis, catalog, Asked::Cause)));
    for state in ["supported", "refuted"] {
        all.extend(anything_wrong(known, diagnosis, state));
        all.extend(verdict(known.case, diagnosis, catalog, state));
    }
    all
}

/// Four causes of which one is right.
struct Candidates<'a> {
    /// By their ids.
    nodes: Vec<&'a TreeNode>,
    right: usize,
}

/// What is asked about four causes.
#[derive(Clone, Copy)]
enum Asked {
    Cause,
    /// As [`Asked::Cause`], with findings about other causes among the evidence.
    CauseInNoise,
    Meaning,
    Remedy,
}

/// The first label, and three causes that are no label, the most probable first; `round` skips as many threes. None for healthy
/// cases and where the label was never tested.
fn candidates<'a>(diagnosis: &'a Diagnosis, labels: &[String], round: usize) -> Option<Candidates<'a>> {
    let mut hypotheses: Vec<&TreeNode> = diagnosis.tree.iter().filter(|n| n.kind == "hypothesis").collect();
    hypotheses.sort_by(|a, b| b.probability.unwrap_or(0.0).total_cmp(&a.probability.unwrap_or(0.0)).then(a.label.cmp(&b.label)));
    let right = *labels.iter().find_map(|l| hypotheses.iter().find(|h| h.label == *l))?;
    let rivals = hypotheses.iter().filter(|h| !labels.contains(&h.label)).skip(round * (OPTIONS - 1)).take(OPTIONS - 1);
    let mut nodes: Vec<&TreeNode> = std::iter::once(right).chain(rivals.copied()).collect();
    nodes.sort_by(|a, b| a.label.cmp(&b.label));
    let right = nodes.iter().position(|c| c.label == right.label)?;
    (nodes.len() == OPTIONS).then_some(Candidates { nodes, right })
}

impl Candidates<'_> {
    /// None where a cause has no such text, or two have the same.
    fn ask(&self, known: Known<'_>, diagnosis: &Diagnosis, catalog: &Catalog, asked: Asked) -> Option<Question> {
        let (capability, text) = match asked {
            Asked::Cause => (Capability::RootCause, "Which root cause does the evidence show?"),
            Asked::CauseInNoise => (Capability::Robustness, "Which root cause does the evidence show?"),
            Asked::Meaning => (Capability::Knowledge, "Which of these descriptions fits the evidence?"),
            Asked::Remedy => (Capability::Remedy, "Which of these remedies is for what the evidence shows?"),
        };
        let option = |node: &&TreeNode| {
            let cause = catalog.get(&node.label)?;
            Some(match asked {
                Asked::Cause | Asked::CauseInNoise => cause.title.clone(),
                Asked::Meaning => cause.means.clone(),
                // One that needs no facts of the case: these would tell whose it is.
                Asked::Remedy => cause.remedy.iter().find(|r| !r.title.contains("{{"))?.title.clone(),
            })
        };
        let options: Vec<String> = self.nodes.iter().map(option).collect::<Option<_>>()?;
        let mut lines = evidence(diagnosis, &self.nodes);
        if matches!(asked, Asked::CauseInNoise) {
            let beside = others(diagnosis, &self.nodes, &lines);
            // Without any it would be the plain question again.
            beside.first()?;
            lines = interleaved(&beside, &lines);
        }
        (options.iter().collect::<BTreeSet<_>>().len() == OPTIONS).then(|| Question {
            case: known.case.to_owned(),
            capability,
            shared: shared(&lines),
            text: text.to_owned(),
            options,
            right: self.right,
        })
    }
}

/// Which of four objects of one kind the evidence for the right cause points at. None unless it names the right one.
fn object(known: Known<'_>, nearest: &Candidates<'_>, diagnosis: &Diagnosis) -> Option<Question> {
    let right = nearest.nodes.get(nearest.right)?;
    let lines = evidence(diagnosis, &[right]);
    let named = |object: &Culprit| lines.iter().any(|line| names(line, &object.id));
    let wanted = |object: &Culprit| known.culprits.iter().any(|expected| expected.fits(object));
    let found = known.objects.iter().find(|o| wanted(o) && named(o))?;
    // What the evidence names beside it would be a right answer too.
    let mut rivals: Vec<&Culprit> = known.objects.iter().filter(|o| o.kind == found.kind && !wanted(o) && !named(o)).collect();
    // Those that other findings name are the likelier mistakes.
    let elsewhere = |object: &Culprit| diagnosis.tree.iter().any(|node| names(&node.reason, &object.id));
    rivals.sort_by_cached_key(|o| (!elsewhere(o), o.id.clone()));
    rivals.dedup_by(|a, b| a.id == b.id);
    let mut objects: Vec<&Culprit> = std::iter::once(found).chain(rivals).take(OPTIONS).collect();
    objects.sort_by(|a, b| a.id.cmp(&b.id));
    (objects.len() == OPTIONS).then_some(())?;
    Some(Question {
        case: known.case.to_owned(),
        capability: Capability::Localisation,
        shared: shared(&lines),
        text: "Which of these does the evidence point at?".to_owned(),
        right: objects.iter().position(|o| o.id == found.id)?,
        options: objects.iter().map(|o| described(o)).collect(),
    })
}

/// Whether a text has an id in it that is no part of a longer one.
fn names(text: &str, id: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(id).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + id.len()..]);
        !id.is_empty() && !before.ends_with(inside) && !after.starts_with(inside)
    })
}

fn described(object: &Culprit) -> String {
    match object.kind {
        CulpritKind::Query => format!("statement {}", object.id),
        CulpritKind::Table => format!("table {}", object.id),
        CulpritKind::Index => format!("index {}", object.id),
        CulpritKind::Session | CulpritKind::Setting | CulpritKind::Host => object.id.clone(),
    }
}

/// Whether some findings show that something is wrong: some that support the right cause, or some that refute others.
fn anything_wrong(known: Known<'_>, diagnosis: &Diagnosis, state: &str) -> Option<Question> {
    let right = |node: &TreeNode| {
        let parent = diagnosis.tree.iter().find(|n| Some(n.id) == node.parent);
        parent.is_some_and(|parent| known.labels.contains(&parent.label))
    };
    let wrong = state == "supported";
    let lines: Vec<String> = tests(diagnosis, state).filter(|node| right(node) == wrong).map(line).take(LINES / 2).collect();
    (!lines.is_empty()).then(|| Question {
        case: known.case.to_owned(),
        capability: Capability::Abstention,
        shared: shared(&lines),
        text: "Does the evidence show that something is wrong?".to_owned(),
        options: vec!["something is wrong".into(), "nothing is wrong".into()],
        right: usize::from(!wrong),
    })
}

fn shared(lines: &[String]) -> String {
    format!("{SYSTEM}\n\nEvidence:\n{}", lines.join("\n"))
}

fn line(node: &TreeNode) -> String {
    format!("[{}] {}", node.evidence.join(","), node.reason)
}

/// As many findings about other causes as `lines` has, those that support first: true, and beside the point.
fn others(diagnosis: &Diagnosis, candidates: &[&TreeNode], lines: &[String]) -> Vec<String> {
    let ids: BTreeSet<u64> = candidates.iter().map(|c| c.id).collect();
    let beside = |state| tests(diagnosis, state).filter(|n| n.parent.is_none_or(|p| !ids.contains(&p))).map(line);
    let mut found: Vec<String> = Vec::new();
    for told in ["supported", "refuted"].into_iter().flat_map(beside) {
        if found.len() < lines.len() && !lines.contains(&told) && !found.contains(&told) {
            found.push(told);
        }
    }
    found
}

fn interleaved(first: &[String], second: &[String]) -> Vec<String> {
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|at| [first.get(at), second.get(at)]).flatten().cloned().collect()
}

/// Sentences of the candidates' tests, those that support first.
fn evidence(diagnosis: &Diagnosis, candidates: &[&TreeNode]) -> Vec<String> {
    let ids: BTreeSet<u64> = candidates.iter().map(|c| c.id).collect();
    let mut lines: Vec<String> = Vec::new();
    for state in ["supported", "refuted"] {
        for node in tests(diagnosis, state).filter(|n| n.parent.is_some_and(|p| ids.contains(&p))) {
            let line = line(node);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.truncate(LINES);
    lines
}

fn tests<'a>(diagnosis: &'a Diagnosis, state: &'a str) -> impl Iterator<Item = &'a TreeNode> {
    diagnosis.tree.iter().filter(move |n| n.kind == "test" && n.state == state && !n.reason.is_empty())
}

/// Whether a finding speaks for a cause: the first test of the case with this verdict.
fn verdict(case: &str, diagnosis: &Diagnosis, catalog: &Catalog, state: &str) -> Option<Question> {
    let node = tests(diagnosis, state).next()?;
    let parent = diagnosis.tree.iter().find(|n| Some(n.id) == node.parent)?;
    let cause = catalog.get(&parent.label)?;
    Some(Question {
        case: case.to_owned(),
        capability: Capability::Faithfulness,
        shared: shared(&[line(node)]),
        text: format!("Does the evidence speak for or against this root cause: {}?", cause.title),
        options: vec!["the evidence speaks for it".into(), "the evidence speaks against it".into()],
        right: usize::from(state == "refuted"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, parent: u64, kind: &'static str, label: &str, state: &'static str, p: f64) -> TreeNode {
        TreeNode {
            id,
            parent: Some(parent),
            kind: kind.into(),
            label: label.into(),
            state: state.into(),
            probability: Some(p),
            reason: format!("{state} in {id}"),
            evidence: vec![format!("E{id}")],
            ..TreeNode::default()
        }
    }

    fn diagnosis() -> Diagnosis {
        let causes = ["missing_index", "poor_join", "table_bloat", "deadlocks", "bulk_delete", "bulk_insert", "work_mem_spill"];
        let mut tree: Vec<TreeNode> =
            causes.iter().enumerate().map(|(i, c)| node(i as u64 + 1, 0, "hypothesis", c, "open", 0.9 - 0.1 * i as f64)).collect();
        tree.push(node(20, 1, "test", "scans", "supported", 0.9));
        tree.push(node(21, 2, "test", "joins", "refuted", 0.1));
        tree.push(node(22, 7, "test", "spills", "refuted", 0.1));
        Diagnosis { tree, ..Diagnosis::default() }
    }

    fn ask(labels: &[&str], culprits: &[Expected], objects: &[Culprit]) -> Vec<Question> {
        let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        questions(Known { case: "case-1", labels: &labels, culprits, objects }, &diagnosis(), &Catalog::builtin().unwrap())
    }

    fn of(all: &[Question], capability: Capability) -> Vec<&Question> {
        all.iter().filter(|q| q.capability == capability).collect()
    }

    #[test]
    fn the_answer_to_a_question_is_not_in_it() {
        let catalog = Catalog::builtin().unwrap();
        let all = ask(&["missing_index", "poor_join"], &[], &[]);
        let cause = catalog.get("missing_index").unwrap();
        let first = of(&all, Capability::RootCause);
        assert_eq!(first.len(), 1, "the second round has too few rivals");
        assert_eq!(first[0].options[first[0].right], cause.title);
        assert!(!first[0].options.contains(&catalog.get("poor_join").unwrap().title), "another right option would be unfair");
        assert!(first[0].shared.contains("[E20] supported in 20") && !first[0].shared.contains("in 22"), "{}", first[0].shared);
        let (meaning, remedy) = (of(&all, Capability::Knowledge)[0], of(&all, Capability::Remedy)[0]);
        assert_eq!(meaning.options[meaning.right], cause.means);
        assert!(cause.remedy.iter().any(|r| r.title == remedy.options[remedy.right]), "{:?}", remedy.options);
        assert!(remedy.options.iter().all(|o| !o.contains("{{")), "{:?}", remedy.options);
        assert!(all.iter().all(|q| q.options.get(q.right).is_some()));
        assert!(all.iter().all(|q| !q.shared.contains("case-1") && !q.shared.contains("missing_index")));
        let rights = |capability| of(&all, capability).iter().map(|q| q.right).collect::<Vec<_>>();
        assert_eq!((rights(Capability::Faithfulness), rights(Capability::Abstention)), (vec![0, 1], vec![0, 1]));
    }

    #[test]
    fn findings_about_other_causes_stand_between_those_that_count() {
        let all = ask(&["missing_index"], &[], &[]);
        let (calm, noisy) = (of(&all, Capability::RootCause)[0], of(&all, Capability::Robustness)[0]);
        assert_eq!((&calm.options, calm.right), (&noisy.options, noisy.right));
        assert!(!calm.shared.contains("in 22") && noisy.shared.contains("in 22") && noisy.shared.contains("in 20"), "{}", noisy.shared);
    }

    #[test]
    fn what_shows_nothing_wrong_is_about_causes_that_are_no_label() {
        let told = |labels: &[&str]| {
            let all = ask(labels, &[], &[]);
            of(&all, Capability::Abstention).iter().map(|q| (q.options[q.right].clone(), q.shared.contains("in 21"))).collect::<Vec<_>>()
        };
        assert_eq!(told(&["missing_index"]), [("something is wrong".to_owned(), false), ("nothing is wrong".to_owned(), true)]);
        // That a test of the right cause failed is no sign of health.
        assert_eq!(told(&["missing_index", "poor_join"])[1], ("nothing is wrong".to_owned(), false));
        assert_eq!(told(&["healthy"]), [("nothing is wrong".to_owned(), true)]);
    }

    #[test]
    fn an_object_is_asked_for_where_the_evidence_names_it() {
        let table = |id: &str| Culprit { kind: CulpritKind::Table, id: id.to_owned(), text: String::new() };
        let expected = |pattern: &str| [Expected { kind: CulpritKind::Table, pattern: pattern.to_owned() }];
        // The evidence for the right cause reads "supported in 20".
        let objects = ["20", "2", "shop.items", "shop.carts", "shop.users", "21"].map(table);
        let all = ask(&["missing_index"], &expected("20"), &objects);
        let asked = of(&all, Capability::Localisation);
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].options[asked[0].right], "table 20");
        assert!(asked[0].options.contains(&"table 21".to_owned()), "one that another finding names: {:?}", asked[0].options);
        for (pattern, objects) in [("items", &objects[..]), ("20", &objects[..3])] {
            assert!(of(&ask(&["missing_index"], &expected(pattern), objects), Capability::Localisation).is_empty(), "{pattern}");
        }
    }

    #[test]
    fn a_name_inside_another_is_not_meant() {
        for (text, id, told) in [
            ("reads of shop.orders rose", "shop.orders", true),
            ("reads of shop.orders_old rose", "shop.orders", false),
            ("Statement 1234 takes long", "123", false),
            ("-1234, 12", "12", true),
            ("anything", "", false),
        ] {
            assert_eq!(names(text, id), told, "{text}: {id}");
        }
    }

    #[test]
    fn questions_that_differ_anywhere_have_another_digest() {
        let all = ask(&["missing_index"], &[], &[]);
        let same = digest(&all);
        assert_eq!((digest(&all.clone()), same.len()), (same.clone(), 64));
        let changes: [fn(&mut Question); 5] =
            [|q| q.shared.push('.'), |q| q.text.push('.'), |q| q.right += 1, |q| q.options.swap(0, 1), |q| q.case.push('b')];
        for change in changes {
            let mut other = all.clone();
            change(&mut other[0]);
            assert_ne!(digest(&other), same);
        }
        assert_ne!(digest(&all[1..]), same);
    }

    #[test]
    fn a_label_that_was_never_tested_asks_nothing_about_causes() {
        let all = ask(&["healthy"], &[], &[]);
        assert!(!all.is_empty() && all.iter().all(|q| matches!(q.capability, Capability::Faithfulness | Capability::Abstention)));
    }
}
