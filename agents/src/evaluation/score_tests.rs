//! Scores of cases with known results.

use galen_tools::model::{Culprit, CulpritKind, Window};

use super::*;
use crate::evaluation::faithfulness::Grounding;
use crate::evaluation::record::Expected;
use crate::evaluation::remedy::Remedies;
use crate::evaluation::score_fixture::{case, run};

fn score(cases: Vec<CaseLine>, task: &str) -> Score {
    scores(&run(cases)).into_iter().find(|s| s.task == task).unwrap_or_else(|| panic!("no score for {task}"))
}

fn near(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

fn shop() -> Vec<CaseLine> {
    vec![
        case("a", &["missing_index"], &["missing_index", "table_bloat"]),
        case("b", &["missing_index", "poor_join"], &["poor_join"]),
        case("c", &["bulk_delete"], &["missing_index"]),
        case("d", &["bulk_delete"], &[]),
        case("e", &["healthy"], &["healthy"]),
        case("f", &["healthy"], &["deadlocks"]),
    ]
}

#[test]
fn root_causes_are_scored_beside_the_most_frequent_one() {
    let top1 = score(shop(), "top1");
    near(top1.value, 2.0 / 4.0);
    // bulk_delete and missing_index are labelled twice each: the first by name counts.
    near(top1.baseline, 2.0 / 4.0);
    assert_eq!((top1.cases, top1.dataset.as_str()), (4, "shop/all"));
    near(score(shop(), "dbot_accuracy").value, (0.9 + 0.5 + 0.0 + 0.0) / 4.0);
    let recall = score(shop(), "recall_at_4");
    near(recall.value, 0.5);
    assert_eq!(recall.cases, 1);
}

#[test]
fn silence_and_abstention_are_scored() {
    near(score(shop(), "healthy_silence").value, 0.5);
    near(score(shop(), "healthy_or_not").value, 5.0 / 6.0);
    near(score(shop(), "healthy_or_not").baseline, 4.0 / 6.0);
    // Wrong with confidence: c and f.
    near(score(shop(), "wrong_or_nothing").value, 4.0 / 6.0);
}

#[test]
fn a_window_is_scored_by_its_overlap_beside_the_whole_capture() {
    let mut one = case("a", &["missing_index"], &["missing_index"]);
    one.answer.window = Some(Window { start: 40_000, end: 70_000 });
    let iou = score(vec![one.clone()], "window_iou");
    near(iou.value, 20_000.0 / 40_000.0);
    near(iou.baseline, 0.3);
    one.status = crate::report::Status::Healthy;
    near(score(vec![one], "window_iou").value, 0.0);
}

#[test]
fn culprits_remedies_and_claims_are_scored() {
    let mut one = case("a", &["missing_index"], &["missing_index"]);
    one.answer.culprits = vec![
        Expected { kind: CulpritKind::Table, pattern: "ORDERS".into() },
        Expected { kind: CulpritKind::Index, pattern: "orders".into() },
    ];
    one.named[0].culprits = vec![Culprit { kind: CulpritKind::Table, id: "public.orders".into(), text: String::new() }];
    one.named[0].remedies = Remedies { given: 2, parse: 1, name_culprit: 1 };
    one.grounding = Grounding { claims: 10, grounded: 9, with_numbers: 4, numbers_grounded: 3, placebo: 1, faults: vec![] };
    near(score(vec![one.clone()], "culprit_named").value, 0.5);
    near(score(vec![one.clone()], "statement_names_culprit").value, 1.0);
    let grounded = score(vec![one.clone()], "claims_grounded");
    near(grounded.value, 0.75);
    near(grounded.baseline, 0.25);
    // A remedy for a cause that is not right is worth nothing.
    one.answer.causes = vec!["poor_join".into()];
    near(score(vec![one], "statement_names_culprit").value, 0.0);
}

#[test]
fn a_variant_is_scored_by_what_its_case_loses() {
    let mut variant = case("shop/a-without-host", &["missing_index"], &[]);
    variant.answer.variant_of = Some("a".into());
    variant.answer.tags = vec!["missing_metrics".into()];
    let base = case("shop/a", &["missing_index"], &["missing_index"]);
    near(score(vec![base.clone(), variant.clone()], "holds_without_metrics").value, 0.0);
    variant.named = base.named.clone();
    near(score(vec![base.clone(), variant.clone()], "holds_without_metrics").value, 1.0);
    // What was changed decides the task; without the case it comes from, or beside one of another folder, nothing is said.
    variant.answer.tags = vec!["noise".into(), "red_herring".into()];
    let tasks = |cases: Vec<CaseLine>| -> Vec<String> {
        scores(&run(cases)).into_iter().filter(|s| s.capability == Capability::Robustness).map(|s| s.task).collect()
    };
    assert_eq!(tasks(vec![base.clone(), variant.clone()]), ["holds_beside_red_herrings", "holds_in_noise"]);
    assert_eq!(tasks(vec![variant.clone()]), [""; 0]);
    assert_eq!(tasks(vec![case("a", &["missing_index"], &["missing_index"]), variant]), [""; 0]);
}

#[test]
fn a_variant_keeps_a_share_of_what_its_case_had() {
    let causes = ["missing_index", "poor_join"];
    let kept = |named: &[&str]| {
        let mut variant = case("a-noisy", &causes, named);
        variant.answer.variant_of = Some("a".into());
        variant.answer.tags = vec!["noise".into()];
        score(vec![case("a", &causes, &["poor_join"]), variant], "holds_in_noise").value
    };
    near(kept(&[]), 0.0);
    near(kept(&["poor_join", "deadlocks"]), 0.45 / 0.5);
    near(kept(&["missing_index"]), 1.0);
    near(kept(&causes), 1.0);
}

#[test]
fn levels_are_means_of_the_levels_below_and_relative_to_the_baseline() {
    let of = |capability, task: &str, dataset: &str, value, baseline, cases| Score {
        capability,
        task: task.into(),
        dataset: dataset.into(),
        value,
        baseline,
        cases,
        placebo: None,
        aside: false,
    };
    let all = [
        // A data set of a thousand cases counts as much as one of ten.
        of(Capability::RootCause, "top1", "big/test", 0.8, 0.5, 1000),
        of(Capability::RootCause, "top1", "small/test", 0.4, 0.2, 10),
        of(Capability::Detection, "window_iou", "big/test", 1.0, 0.0, 1000),
    ];
    let tree = hierarchy(&all, None);
    let cause = tree.parts.iter().find(|p| p.name == "root_cause").unwrap();
    near(cause.gain, (60.0 + 25.0) / 2.0);
    near(cause.ratio.unwrap(), (160.0 + 200.0) / 2.0);
    near(tree.gain, (42.5 + 100.0) / 2.0);
    // The detection baseline is 0: its ratio has no meaning and is left out.
    near(tree.ratio.unwrap(), 180.0);
    let itself = hierarchy(&all, Some(&all));
    near(itself.ratio.unwrap(), 100.0);
    near(itself.parts.iter().find(|p| p.name == "root_cause").unwrap().gain, 0.0);
    // What stands aside is in no mean.
    let mut beside = all.to_vec();
    beside.push(Score { aside: true, ..of(Capability::RootCause, "top1", "leak/test", 0.0, 0.9, 10) });
    assert_eq!(hierarchy(&beside, None), tree);
}
