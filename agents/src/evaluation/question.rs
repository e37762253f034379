//! Typed questions about labelled captures, to measure what a model alone is worth: options, one of them right.
//!
//! The evidence is what a panel would show: sentences of tests that a diagnosis without a model has run. The right option
//! comes from the label, or from the test's own verdict; neither stands in the prompt.

use std::collections::BTreeSet;

use galen_knowledge::catalog::Catalog;

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

/// All questions about a case: which of four causes, once against its nearest rivals and once against the next; and
/// whether a finding speaks for or against a cause, once each way.
pub fn questions(case: &str, diagnosis: &Diagnosis, labels: &[String], catalog: &Catalog) -> Vec<Question> {
    let mut all: Vec<Question> = (0..2).filter_map(|round| root_cause(case, diagnosis, labels, catalog, round)).collect();
    all.extend(["supported", "refuted"].iter().filter_map(|state| verdict(case, diagnosis, catalog, state)));
    all
}

/// Which of four causes the evidence shows: the first label, and three that are no label, the most probable first;
/// `round` skips as many threes. None for healthy cases and where the label was never tested.
fn root_cause(case: &str, diagnosis: &Diagnosis, labels: &[String], catalog: &Catalog, round: usize) -> Option<Question> {
    let mut hypotheses: Vec<&TreeNode> = diagnosis.tree.iter().filter(|n| n.kind == "hypothesis").collect();
    hypotheses.sort_by(|a, b| b.probability.unwrap_or(0.0).total_cmp(&a.probability.unwrap_or(0.0)).then(a.label.cmp(&b.label)));
    let right = labels.iter().find_map(|l| hypotheses.iter().find(|h| h.label == *l))?;
    let rivals = hypotheses.iter().filter(|h| !labels.contains(&h.label)).skip(round * (OPTIONS - 1)).take(OPTIONS - 1);
    let mut candidates: Vec<&TreeNode> = std::iter::once(*right).chain(rivals.copied()).collect();
    if candidates.len() < OPTIONS {
        return None;
    }
    candidates.sort_by(|a, b| a.label.cmp(&b.label));
    let titles: Option<Vec<String>> = candidates.iter().map(|c| Some(catalog.get(&c.label)?.title.clone())).collect();
    Some(Question {
        case: case.to_owned(),
        capability: Capability::RootCause,
        shared: format!("{SYSTEM}\n\nEvidence:\n{}", evidence(diagnosis, &candidates).join("\n")),
        text: "Which root cause does the evidence show?".into(),
        options: titles?,
        right: candidates.iter().position(|c| c.label == right.label)?,
    })
}

/// Sentences of the candidates' tests, those that support first.
fn evidence(diagnosis: &Diagnosis, candidates: &[&TreeNode]) -> Vec<String> {
    let ids: BTreeSet<u64> = candidates.iter().map(|c| c.id).collect();
    let mut lines: Vec<String> = Vec::new();
    for state in ["supported", "refuted"] {
        for node in tests(diagnosis, state).filter(|n| n.parent.is_some_and(|p| ids.contains(&p))) {
            let line = format!("[{}] {}", node.evidence.join(","), node.reason);
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
        shared: format!("{SYSTEM}\n\nEvidence:\n[{}] {}", node.evidence.join(","), node.reason),
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

    #[test]
    fn a_case_gives_four_questions_and_the_answer_is_not_in_them() {
        let catalog = Catalog::builtin().unwrap();
        let labels = vec!["missing_index".to_owned(), "poor_join".to_owned()];
        let all = questions("case-1", &diagnosis(), &labels, &catalog);
        assert_eq!(all.len(), 3, "the second round has too few rivals");
        let first = &all[0];
        assert_eq!(first.options[first.right], catalog.get("missing_index").unwrap().title);
        assert!(!first.options.contains(&catalog.get("poor_join").unwrap().title), "another right option would be unfair");
        assert!(first.shared.contains("[E20] supported in 20") && !first.shared.contains("in 22"), "{}", first.shared);
        assert!(all.iter().all(|q| !q.shared.contains("case-1") && !q.shared.contains("missing_index")));
        assert_eq!((all[1].right, all[2].right), (0, 1));
    }

    #[test]
    fn questions_that_differ_anywhere_have_another_digest() {
        let all = questions("case-1", &diagnosis(), &["missing_index".to_owned()], &Catalog::builtin().unwrap());
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
        let catalog = Catalog::builtin().unwrap();
        let all = questions("x", &diagnosis(), &["healthy".to_owned()], &catalog);
        assert!(all.iter().all(|q| q.capability == Capability::Faithfulness));
    }
}
