//! Scores of the benchmark: every figure beside a simple method on the same cases and beside the placebo.
//!
//! Two protocols. `test`: signatures are learnt from the held-back data set's learn half and tested on its test half.
//! `leave_one_out`: each single case is tested with signatures learnt from all other single cases, at most `k` a class.

use serde::{Deserialize, Serialize};

use galen_tools::detect::{DetectOptions, detect};
use galen_tools::signals::SignalTable;

use crate::evaluation::split::Half;
use crate::evaluation::{Capability, Score};
use crate::signature::learn::{Case, estimate};
use crate::signature::{Effects, Moved, Signatures};

use super::control::{Levels, anywhere, nearest, overlap, simple_window};
use super::read::Recording;
use super::view::View;
use super::{COMPOUND, SINGLE};

/// A score with its controls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, beside the simple method.
    #[serde(flatten)]
    pub score: Score,
    /// The same method fed only rows from before the anomaly; what it reaches, the recording sessions give away. Of windows: one
    /// of the right length anywhere.
    pub placebo: Option<f64>,
    /// How it was measured, in a few words.
    pub how: String,
}

/// What is being done, for a progress line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A recording was looked at.
    Looked,
    /// A case was explained by signatures learnt without it.
    Explained,
}

/// Which cases are learnt from and tested.
pub(super) struct Fold<'v, 'r> {
    learnt: Vec<&'v View<'r>>,
    tested: &'v View<'r>,
}

/// What a method says of a case: ranked classes, and how strange it finds it.
pub(super) struct Told {
    pub(super) ranked: Vec<String>,
    strange: f64,
}

type Pick = for<'a, 'r> fn(&'a View<'r>) -> &'a Moved;
type Values = for<'a, 'r> fn(&'a View<'r>) -> &'a Levels;

/// Scores all recordings. `k` is the most cases a class is learnt from.
pub fn score(recordings: &[Recording], k: usize, table: &SignalTable, progress: &dyn Fn(Stage)) -> Vec<Row> {
    let mut views = Vec::with_capacity(recordings.len());
    for recording in recordings {
        views.push(View::of(recording, table));
        progress(Stage::Looked);
    }
    let single: Vec<&View<'_>> = views.iter().filter(|v| v.recording.dataset == SINGLE).collect();
    let compound: Vec<&View<'_>> = views.iter().filter(|v| v.recording.dataset == COMPOUND).collect();
    let mut rows = detection(&views, table);
    for set in [Set::Test, Set::LeaveOneOut] {
        let folds: Vec<Fold<'_, '_>> = set.folds(&single, &single, k);
        rows.extend(root_cause(set, &folds, progress));
        rows.extend(onset(set, &folds));
        rows.push(novelty(set, &folds));
        rows.push(compounds(set, &set.folds(&single, &compound, k)));
    }
    rows
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Test,
    LeaveOneOut,
}

impl Set {
    fn name(self, dataset: &str) -> String {
        format!("{dataset}/{}", if self == Self::Test { "test" } else { "leave_one_out" })
    }

    /// One fold a tested case; the tested case is never among the learnt ones.
    fn folds<'v, 'r>(self, learn: &[&'v View<'r>], test: &[&'v View<'r>], k: usize) -> Vec<Fold<'v, 'r>> {
        let may_learn = |v: &View<'_>| self == Self::LeaveOneOut || v.recording.half == Half::Learn;
        let may_test = |v: &View<'_>| self == Self::LeaveOneOut || v.recording.half == Half::Test;
        test.iter()
            .filter(|v| may_test(v))
            .map(|tested| {
                let learn: Vec<&View<'_>> = learn.iter().copied().filter(|v| may_learn(v)).collect();
                Fold::without(tested, &learn, k)
            })
            .collect()
    }
}

impl<'v, 'r> Fold<'v, 'r> {
    /// A case tested with what the others teach, at most `k` of a class.
    pub(super) fn without(tested: &'v View<'r>, others: &[&'v View<'r>], k: usize) -> Self {
        let mut taken: std::collections::BTreeMap<&str, usize> = Default::default();
        let learnt = others.iter().filter(|v| v.recording.id != tested.recording.id).filter(|v| {
            let count = taken.entry(v.class()).or_default();
            *count += 1;
            *count <= k
        });
        Fold { learnt: learnt.copied().collect(), tested }
    }
}

impl Fold<'_, '_> {
    fn signatures(&self, pick: Pick, without: Option<&str>) -> Signatures {
        let cases: Vec<Case> = self.learnt.iter().filter(|v| without != Some(v.class())).map(|v| v.case(pick)).collect();
        estimate(&cases.iter().collect::<Vec<_>>())
    }

    pub(super) fn explain(&self, pick: Pick, onset: bool, without: Option<&str>) -> Told {
        let signatures = self.signatures(pick, without);
        tell(&signatures, if onset { &pick(self.tested).onset } else { &pick(self.tested).whole }, onset)
    }

    pub(super) fn centroid(&self, learnt: Values, tested: Values, scaled: bool, without: Option<&str>) -> Told {
        let known: Vec<(&str, &Levels)> =
            self.learnt.iter().filter(|v| without != Some(v.class())).map(|v| (v.class(), learnt(v))).collect();
        let ranked = nearest(&known, tested(self.tested), scaled);
        Told { strange: ranked.first().map_or(0.0, |r| r.1), ranked: ranked.into_iter().map(|r| r.0).collect() }
    }
}

fn tell(signatures: &Signatures, effects: &Effects, onset: bool) -> Told {
    match signatures.explain(effects, onset) {
        Some(found) => {
            let ranked = found.ranking().into_iter().map(|i| signatures.class[i].name.clone()).collect();
            Told { ranked, strange: found.unexplained }
        }
        None => Told { ranked: Vec::new(), strange: 1.0 },
    }
}

fn row(
    capability: Capability,
    task: &str,
    dataset: String,
    cases: usize,
    [value, baseline]: [f64; 2],
    placebo: Option<f64>,
    how: &str,
) -> Row {
    Row { score: Score { capability, task: task.to_owned(), dataset, value, baseline, cases }, placebo, how: how.to_owned() }
}

/// Share of the folds whose true classes are all among, or on average are found among, the first `n` that a method names.
fn recall(folds: &[Fold<'_, '_>], n: usize, told: impl Fn(&Fold<'_, '_>) -> Told) -> f64 {
    let found = |fold: &Fold<'_, '_>| {
        let ranked = told(fold).ranked;
        let true_classes = &fold.tested.recording.classes;
        let hits = true_classes.iter().filter(|c| ranked.iter().take(n).any(|r| r == *c)).count();
        hits as f64 / true_classes.len().max(1) as f64
    };
    mean(folds.iter().map(found))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for value in values {
        sum += value;
        n += 1;
    }
    sum / n.max(1) as f64
}

fn detection(views: &[View<'_>], table: &SignalTable) -> Vec<Row> {
    type Chosen<'a> = Box<dyn Fn(&View<'_>) -> bool + 'a>;
    let sets: [(&str, Chosen<'_>); 4] = [
        ("dbsherlock_single/test", Box::new(|v| v.recording.dataset == SINGLE && v.recording.half == Half::Test)),
        ("dbsherlock_compound/test", Box::new(|v| v.recording.dataset == COMPOUND && v.recording.half == Half::Test)),
        ("dbsherlock/all", Box::new(|_| true)),
        ("dbsherlock/all_but_poor_physical_design", Box::new(|v| v.class() != "Poor Physical Design")),
    ];
    let how = "mean intersection over union with the given window; no label is used to detect; placebo: a window of that length anywhere";
    let mut rows: Vec<Row> = sets
        .iter()
        .map(|(name, member)| {
            let chosen: Vec<&View<'_>> = views.iter().filter(|v| member(v)).collect();
            let ours = mean(chosen.iter().map(|v| overlap(v.detection.window, v.recording.abnormal)));
            let simple = mean(chosen.iter().map(|v| overlap(simple_window(&v.recording.capture), v.recording.abnormal)));
            let placed = |v: &&View<'_>| v.recording.capture.span().map_or(0.0, |span| anywhere(span, v.recording.abnormal));
            let placebo = mean(chosen.iter().map(placed));
            row(Capability::Detection, "iou", (*name).to_owned(), chosen.len(), [ours, simple], Some(placebo), how)
        })
        .collect();
    // Recordings cut before their anomaly: silence is right.
    let quiet = mean(views.iter().map(|v| {
        let found = detect(&v.recording.before(), table, &DetectOptions::default());
        f64::from(u8::from(found.window.is_none()))
    }));
    let how = "share of recordings, cut before the anomaly, in which nothing is found; the simple detector always finds something";
    rows.push(row(Capability::Abstention, "quiet_before_anomaly", "dbsherlock/all".into(), views.len(), [quiet, 0.0], None, how));
    rows
}

fn root_cause(set: Set, folds: &[Fold<'_, '_>], progress: &dyn Fn(Stage)) -> Vec<Row> {
    let dataset = set.name(SINGLE);
    let top = |n: usize| {
        let ours = recall(folds, n, |f| {
            progress(Stage::Explained);
            f.explain(|v| &v.own, false, None)
        });
        let simple = recall(folds, n, |f| f.centroid(|v| &v.own_z, |v| &v.own_z, false, None));
        let placebo = recall(folds, n, |f| f.explain(|v| &v.placebo, false, None));
        ([ours, simple], Some(placebo))
    };
    let how = "own detection, then the class with the largest share";
    let mut rows = Vec::new();
    for (n, task) in [(1, "top1"), (2, "top2")] {
        let (values, placebo) = top(n);
        rows.push(row(Capability::RootCause, task, dataset.clone(), folds.len(), values, placebo, how));
    }
    let leak = recall(folds, 1, |f| f.centroid(|v| &v.before, |v| &v.before, true, None));
    let how = "not ours: nearest centroid on mean levels before the anomaly; what the recording sessions give away";
    rows.push(row(Capability::RootCause, "session_leak", dataset, folds.len(), [leak, leak], Some(leak), how));
    rows
}

fn onset(set: Set, folds: &[Fold<'_, '_>]) -> Vec<Row> {
    let placebo = recall(folds, 1, |f| f.explain(|v| &v.placebo, true, None));
    let ours = recall(folds, 1, |f| f.explain(|v| &v.own, true, None));
    let simple = recall(folds, 1, |f| f.centroid(|v| &v.onset_z, |v| &v.onset_z, false, None));
    let given = recall(folds, 1, |f| f.explain(|v| &v.given, true, None));
    let given_simple = recall(folds, 1, |f| f.centroid(|v| &v.given_onset_z, |v| &v.given_onset_z, false, None));
    let how = |whose: &str| format!("rows up to 5 s after the onset that {whose} gives; nothing later is read, but to find that onset");
    vec![
        row(Capability::RootCause, "top1_5s_own_onset", set.name(SINGLE), folds.len(), [ours, simple], Some(placebo), &how("our detector")),
        row(
            Capability::RootCause,
            "top1_5s_given_onset",
            set.name(SINGLE),
            folds.len(),
            [given, given_simple],
            Some(placebo),
            &how("the manifest"),
        ),
    ]
}

/// Area under the ROC curve of telling cases of classes never learnt from cases of learnt ones.
fn novelty(set: Set, folds: &[Fold<'_, '_>]) -> Row {
    let area = |told: &dyn Fn(&Fold<'_, '_>, Option<&str>) -> Told| {
        let known: Vec<f64> = folds.iter().map(|f| told(f, None).strange).collect();
        let strange: Vec<f64> = folds.iter().map(|f| told(f, Some(f.tested.class())).strange).collect();
        mean(strange.iter().flat_map(|s| known.iter().map(move |k| if s > k { 1.0 } else { 0.5 * f64::from(u8::from(s == k)) })))
    };
    let ours = area(&|f, without| f.explain(|v| &v.own, false, without));
    let simple = area(&|f, without| f.centroid(|v| &v.own_z, |v| &v.own_z, false, without));
    let placebo = area(&|f, without| f.explain(|v| &v.placebo, false, without));
    let how = "each case with and without its class among the learnt ones: area under the ROC curve of what stays unexplained";
    row(Capability::Abstention, "novelty_auroc", set.name(SINGLE), folds.len(), [ours, simple], Some(placebo), how)
}

fn compounds(set: Set, folds: &[Fold<'_, '_>]) -> Row {
    let ours = recall(folds, 3, |f| f.explain(|v| &v.own, false, None));
    let simple = recall(folds, 3, |f| f.centroid(|v| &v.own_z, |v| &v.own_z, false, None));
    let placebo = recall(folds, 3, |f| f.explain(|v| &v.placebo, false, None));
    let how = "share of the two or three injected classes among the first three; learnt from single cases only";
    row(Capability::MultiCause, "recall_at_3", set.name(COMPOUND), folds.len(), [ours, simple], Some(placebo), how)
}
