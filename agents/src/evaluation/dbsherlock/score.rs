//! What is measured of each recording: every figure beside a simple method on the same case and beside the placebo.
//!
//! Two protocols. `test`: signatures are learnt from the held-back data set's learn half and tested on its test half.
//! `leave_one_out`: each single case is tested with signatures learnt from all other single cases, at most `k` a class.

use std::collections::BTreeMap;

use galen_tools::detect::{DetectOptions, detect};
use galen_tools::signals::SignalTable;

use crate::evaluation::Capability;
use crate::evaluation::measured::{Figure, Measured, digest};
use crate::evaluation::numeric::mean;
use crate::evaluation::split::Half;
use crate::signature::learn::{Case, estimate};
use crate::signature::{Effects, Moved, Signatures};

use super::control::{Levels, anywhere, nearest, overlap, simple_window};
use super::read::Recording;
use super::view::View;
use super::{COMPOUND, SINGLE};

/// How each task is measured, in a few words.
pub const HOW: &[(&str, &str)] = &[
    ("iou", "mean intersection over union with the given window; no label is used to detect; placebo: a window of that length anywhere"),
    (
        "quiet_before_anomaly",
        "share of recordings, cut before the anomaly, in which nothing is found; the simple detector finds something wherever it has 25 s",
    ),
    ("top1", "own detection, then the class with the largest share"),
    ("top2", "own detection, then the two classes with the largest shares"),
    ("session_leak", "not ours: nearest centroid on mean levels before the anomaly; what the recording sessions give away"),
    ("top1_5s_own_onset", "rows up to 5 s after the onset that our detector gives; nothing later is read, but to find that onset"),
    ("top1_5s_given_onset", "rows up to 5 s after the onset that the manifest gives; nothing later is read, but to find that onset"),
    ("novelty_auroc", "each case with and without its class among the learnt ones: area under the ROC curve of what stays unexplained"),
    ("recall_at_3", "share of the two or three injected classes among the first three; learnt from single cases only"),
    (
        "report_top1",
        "first root cause of the report, with learnt signatures; simple: the nearest centroid of robust z scores, which always names a class",
    ),
    ("report_top1_unlearnt", "the same report without signatures: the catalog was made for PostgreSQL"),
];

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

/// How many cases of each class came by.
#[derive(Default)]
pub(super) struct Taken(BTreeMap<String, usize>);

impl Taken {
    /// True for the first `k` cases of a class.
    pub(super) fn takes(&mut self, class: &str, k: usize) -> bool {
        let count = self.0.entry(class.to_owned()).or_default();
        *count += 1;
        *count <= k
    }
}

/// What a method says of a case: ranked classes, and how strange it finds it.
pub(super) struct Told {
    pub(super) ranked: Vec<String>,
    strange: f64,
}

type Pick = for<'a, 'r> fn(&'a View<'r>) -> &'a Moved;
type Values = for<'a, 'r> fn(&'a View<'r>) -> &'a Levels;

/// How a task is measured, in a few words.
pub fn how(task: &str) -> &'static str {
    HOW.iter().find(|(name, _)| *name == task).map_or("", |(_, how)| how)
}

/// Measures all recordings, figure by figure. `k` is the most cases a class is learnt from.
pub fn measure(recordings: &[Recording], k: usize, table: &SignalTable, progress: &dyn Fn(Stage)) -> Vec<Measured> {
    let mut views = Vec::with_capacity(recordings.len());
    for recording in recordings {
        views.push(View::of(recording, table));
        progress(Stage::Looked);
    }
    let single: Vec<&View<'_>> = views.iter().filter(|v| v.recording.dataset == SINGLE).collect();
    let compound: Vec<&View<'_>> = views.iter().filter(|v| v.recording.dataset == COMPOUND).collect();
    let mut lines = detection(&views, table);
    for set in [Set::Test, Set::LeaveOneOut] {
        let folds: Vec<Fold<'_, '_>> = set.folds(&single, &single, k);
        lines.extend(root_cause(set, &folds, progress));
        lines.extend(onset(set, &folds));
        lines.extend(novelty(set, &folds));
        lines.extend(compounds(set, &set.folds(&single, &compound, k)));
    }
    lines
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
        let mut taken = Taken::default();
        let learnt = others.iter().filter(|v| v.recording.id != tested.recording.id).filter(|v| taken.takes(v.class(), k));
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

    /// The classes that the signatures rank over the window found, those of the centroid, and those of the placebo.
    fn rankings(&self) -> [Vec<String>; 3] {
        let centroid = self.centroid(|v| &v.own_z, |v| &v.own_z, false, None);
        [self.explain(|v| &v.own, false, None), centroid, self.explain(|v| &v.placebo, false, None)].map(|told| told.ranked)
    }

    /// Share of the true classes among the first `n` of a ranking.
    fn found(&self, ranked: &[String], n: usize) -> f64 {
        let classes = &self.tested.recording.classes;
        let hits = classes.iter().filter(|c| ranked.iter().take(n).any(|r| r == *c)).count();
        hits as f64 / classes.len().max(1) as f64
    }

    /// 1 where the first class that is told is the true one.
    fn right(&self, told: &Told) -> f64 {
        self.found(&told.ranked, 1)
    }

    /// What was found of this case by two methods and by the placebo, as a line of the figure.
    fn line(&self, figure: Figure<'_>, values: [f64; 2], placebo: f64) -> Measured {
        Measured { placebo: Some(placebo), ..line(figure, self.tested.recording, values) }
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

/// What was found of a recording by ours and by the simple method, as a line of a figure.
pub(super) fn line(figure: Figure<'_>, recording: &Recording, values: [f64; 2]) -> Measured {
    figure.of_case(&recording.case(), &recording.sha256, values)
}

fn detection(views: &[View<'_>], table: &SignalTable) -> Vec<Measured> {
    type Member = fn(&View<'_>) -> bool;
    // A set whose cases stand in another one as well is shown aside.
    let sets: [(&str, Member, bool); 4] = [
        ("dbsherlock_single/test", |v| v.recording.dataset == SINGLE && v.recording.half == Half::Test, false),
        ("dbsherlock_compound/test", |v| v.recording.dataset == COMPOUND && v.recording.half == Half::Test, false),
        ("dbsherlock/all", |_| true, true),
        ("dbsherlock/all_but_poor_physical_design", |v| v.class() != "Poor Physical Design", true),
    ];
    let reached = |view: &View<'_>| {
        let Recording { capture, abnormal, .. } = view.recording;
        let windows = [view.detection.window, simple_window(capture)];
        (windows.map(|found| overlap(found, *abnormal)), capture.span().map_or(0.0, |span| anywhere(span, *abnormal)))
    };
    let all: Vec<(&View<'_>, ([f64; 2], f64))> = views.iter().map(|view| (view, reached(view))).collect();
    let mut lines = Vec::new();
    for (dataset, member, aside) in sets {
        let figure = Figure { capability: Capability::Detection, task: "iou", dataset };
        let chosen = all.iter().filter(|(view, _)| member(view));
        lines.extend(chosen.map(|(view, (values, placebo))| Measured {
            placebo: Some(*placebo),
            aside,
            ..line(figure, view.recording, *values)
        }));
    }
    // Recordings cut before their anomaly: silence is right. The simple detector is asked the same, though it has no bar below
    // which it is silent: only of what is too short for its baseline it names nothing.
    let figure = Figure { capability: Capability::Abstention, task: "quiet_before_anomaly", dataset: "dbsherlock/all" };
    lines.extend(views.iter().map(|view| {
        let before = view.recording.before();
        let found = [detect(&before, table, &DetectOptions::default()).window, simple_window(&before)];
        line(figure, view.recording, found.map(|window| f64::from(u8::from(window.is_none()))))
    }));
    lines
}

fn root_cause(set: Set, folds: &[Fold<'_, '_>], progress: &dyn Fn(Stage)) -> Vec<Measured> {
    let dataset = set.name(SINGLE);
    let figure = |task| Figure { capability: Capability::RootCause, task, dataset: &dataset };
    let ranked = |fold| {
        progress(Stage::Explained);
        Fold::rankings(fold)
    };
    let all: Vec<[Vec<String>; 3]> = folds.iter().map(ranked).collect();
    let mut lines = Vec::new();
    for (n, task) in [(1, "top1"), (2, "top2")] {
        lines.extend(folds.iter().zip(&all).map(|(fold, rankings)| {
            let [ours, simple, placebo] = rankings.each_ref().map(|ranked| fold.found(ranked, n));
            fold.line(figure(task), [ours, simple], placebo)
        }));
    }
    lines.extend(folds.iter().map(|fold| {
        let leak = fold.right(&fold.centroid(|v| &v.before, |v| &v.before, true, None));
        Measured { aside: true, ..fold.line(figure("session_leak"), [leak, leak], leak) }
    }));
    lines
}

fn onset(set: Set, folds: &[Fold<'_, '_>]) -> Vec<Measured> {
    let dataset = set.name(SINGLE);
    let placebos: Vec<f64> = folds.iter().map(|f| f.right(&f.explain(|v| &v.placebo, true, None))).collect();
    let onsets: [(&str, Pick, Values); 2] =
        [("top1_5s_own_onset", |v| &v.own, |v| &v.onset_z), ("top1_5s_given_onset", |v| &v.given, |v| &v.given_onset_z)];
    let mut lines = Vec::new();
    for (task, pick, values) in onsets {
        let figure = Figure { capability: Capability::RootCause, task, dataset: &dataset };
        lines.extend(folds.iter().zip(&placebos).map(|(fold, placebo)| {
            let told = [fold.explain(pick, true, None), fold.centroid(values, values, false, None)];
            fold.line(figure, told.map(|told| fold.right(&told)), *placebo)
        }));
    }
    lines
}

/// Area under the ROC curve of telling cases of classes never learnt from cases of learnt ones; none without cases.
fn novelty(set: Set, folds: &[Fold<'_, '_>]) -> Option<Measured> {
    let area = |told: &dyn Fn(&Fold<'_, '_>, Option<&str>) -> Told| {
        let known: Vec<f64> = folds.iter().map(|f| told(f, None).strange).collect();
        let strange: Vec<f64> = folds.iter().map(|f| told(f, Some(f.tested.class())).strange).collect();
        let above = |s: &f64, k: &f64| if s > k { 1.0 } else { 0.5 * f64::from(u8::from(s == k)) };
        mean(&strange.iter().flat_map(|s| known.iter().map(move |k| above(s, k))).collect::<Vec<_>>())
    };
    if folds.is_empty() {
        return None;
    }
    let ours = area(&|f, without| f.explain(|v| &v.own, false, without));
    let simple = area(&|f, without| f.centroid(|v| &v.own_z, |v| &v.own_z, false, without));
    let placebo = area(&|f, without| f.explain(|v| &v.placebo, false, without));
    let figure = Figure { capability: Capability::Abstention, task: "novelty_auroc", dataset: &set.name(SINGLE) };
    let input = digest(folds.iter().map(|f| f.tested.recording.sha256.as_bytes()));
    Some(Measured { case: None, cases: folds.len(), placebo: Some(placebo), ..figure.of_case("", &input, [ours, simple]) })
}

fn compounds(set: Set, folds: &[Fold<'_, '_>]) -> Vec<Measured> {
    let dataset = set.name(COMPOUND);
    let figure = Figure { capability: Capability::MultiCause, task: "recall_at_3", dataset: &dataset };
    let line = |fold: &Fold<'_, '_>| {
        let [ours, simple, placebo] = fold.rankings().map(|ranked| fold.found(&ranked, 3));
        fold.line(figure, [ours, simple], placebo)
    };
    folds.iter().map(line).collect()
}
