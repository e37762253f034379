//! The whole diagnosis of a recording, with signatures learnt from others: is the first root cause the injected one?

use galen_tools::capture::Capture;
use galen_tools::detect::{DetectOptions, detect};
use galen_tools::probe::Recorded;

use crate::driver::{Library, Options, diagnose};
use crate::evaluation::Capability;
use crate::evaluation::measured::{Figure, Measured};
use crate::evaluation::split::Half;
use crate::signature::{Case, extend, learn_from};

use super::SINGLE;
use super::read::{Recording, class_causes};
use super::score::{Taken, line};
use super::view::{learnable, placebo_learnable};

/// Whether the report of a case was right: with signatures, without, and with those of the rows before the anomaly on these rows.
struct Told<'r> {
    recording: &'r Recording,
    with: bool,
    without: bool,
    placebo: bool,
}

/// Diagnoses the single cases: those of the test half with signatures of the learn half, and each with signatures of all others.
/// `k` is the most cases a class is learnt from, `plain` a library without signatures. The simple method is that of `top1` in `measured`,
/// on the same case by the same protocol.
pub async fn reports(recordings: &[Recording], k: usize, plain: &Library, options: &Options, measured: &[Measured]) -> Vec<Measured> {
    let single: Vec<&Recording> = recordings.iter().filter(|r| r.dataset == SINGLE).collect();
    let lessons: Vec<_> = single.iter().map(|r| learnable(r, &plain.signals)).collect();
    let placebos: Vec<_> = single.iter().map(|r| placebo_learnable(r, &plain.signals)).collect();
    let learn = |lessons: &[Option<Case>], may: &dyn Fn(usize) -> bool, source: &str| {
        let cases: Vec<_> = chosen(&single, may, k).into_iter().filter_map(|i| lessons[i].clone()).collect();
        let mut learnt = plain.clone();
        learnt.signatures = learn_from(&cases, source);
        extend(&mut learnt.catalog, &learnt.signatures);
        learnt
    };
    let of_half = |lessons: &[Option<Case>]| learn(lessons, &|i| single[i].half == Half::Learn, &format!("{SINGLE}/learn"));
    let (taught, misled) = (of_half(&lessons), of_half(&placebos));
    let (mut test, mut others) = (Vec::new(), Vec::new());
    for (at, recording) in single.iter().enumerate() {
        let right = |capture, library| right(recording, capture, library, options);
        let without = right(&recording.capture, plain).await;
        let before = recording.before();
        // Without a window no signature is asked: what was learnt makes no difference.
        let quiet = detect(&before, &plain.signals, &DetectOptions::default()).window.is_none();
        let of_others = |lessons: &[Option<Case>]| learn(lessons, &|i| i != at, &format!("{SINGLE}/others"));
        let (taught_by_others, misled_by_others) = (of_others(&lessons), if quiet { plain.clone() } else { of_others(&placebos) });
        if recording.half == Half::Test {
            let (with, placebo) = (right(&recording.capture, &taught).await, right(&before, &misled).await);
            test.push(Told { recording, with, without, placebo });
        }
        let (with, placebo) = (right(&recording.capture, &taught_by_others).await, right(&before, &misled_by_others).await);
        others.push(Told { recording, with, without, placebo });
    }
    [lines("test", &test, measured), lines("leave_one_out", &others, measured)].concat()
}

/// Which recordings are learnt from: of those that may be, the first `k` of each class, as the other figures take them.
fn chosen(single: &[&Recording], may: &dyn Fn(usize) -> bool, k: usize) -> Vec<usize> {
    let mut taken = Taken::default();
    let class = |at: &usize| single[*at].classes.first().map_or("", String::as_str);
    (0..single.len()).filter(|at| may(*at)).filter(|at| taken.takes(class(at), k)).collect()
}

/// True when the first root cause of the report on a capture of the recording is one that the injected class stands for.
async fn right(recording: &Recording, capture: &Capture, library: &Library, options: &Options) -> bool {
    let wanted = recording.classes.first().map(|c| class_causes(c)).unwrap_or_default();
    let found = diagnose(capture, library, &Recorded(capture), None, options, &|_| {}).await;
    found.report.root_causes.first().is_some_and(|c| wanted.contains(&c.cause))
}

fn lines(protocol: &str, all: &[Told<'_>], measured: &[Measured]) -> Vec<Measured> {
    let dataset = format!("{SINGLE}/{protocol}");
    let figure = |task| Figure { capability: Capability::RootCause, task, dataset: &dataset };
    let simple = |told: &Told<'_>| {
        let case = Some(told.recording.case());
        measured.iter().find(|l| l.figure() == figure("top1") && l.case == case).map_or(0.0, |l| l.baseline)
    };
    let flag = |right: bool| f64::from(u8::from(right));
    let with = |told: &Told<'_>| Measured {
        placebo: Some(flag(told.placebo)),
        ..line(figure("report_top1"), told.recording, [flag(told.with), simple(told)])
    };
    let without = |told: &Told<'_>| Measured {
        aside: true,
        ..line(figure("report_top1_unlearnt"), told.recording, [flag(told.without), simple(told)])
    };
    all.iter().map(with).chain(all.iter().map(without)).collect()
}

#[cfg(test)]
mod tests {
    use galen_tools::model::Window;

    use super::*;

    fn recording(id: &str, class: &str, half: Half) -> Recording {
        Recording {
            id: id.into(),
            dataset: SINGLE,
            half,
            classes: vec![class.into()],
            abnormal: Window { start: 1000, end: 2000 },
            sha256: id.into(),
            content: id.into(),
            capture: Capture::default(),
        }
    }

    #[test]
    fn no_class_teaches_the_report_more_cases_than_it_may() {
        let all: Vec<Recording> = ["a", "b", "a", "a", "b"].map(|class| recording("x", class, Half::Learn)).into();
        let single: Vec<&Recording> = all.iter().collect();
        assert_eq!(chosen(&single, &|_| true, 6), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&single, &|_| true, 1), [0, 1]);
        // What may not be learnt from takes no place.
        assert_eq!(chosen(&single, &|at| at != 0, 1), [1, 2]);
        assert_eq!(chosen(&single, &|at| at != 0, 2), [1, 2, 3, 4]);
    }
}
