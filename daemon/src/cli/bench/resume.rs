//! What a run that goes on keeps of its file: finished cases whose capture and answer are still the same. No I/O.

use std::collections::HashMap;

use galen_agents::evaluation::compare::differing_pins;
use galen_agents::evaluation::record::{Answer, CaseLine, Header, Run};

use super::suite::Case;

/// A case of the suite, and why it is not diagnosed where another is the same recording.
pub type Wanted = (Case, Option<String>);

/// What is kept.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    /// The header of this run, the finished cases that stand, and the failures of cases that the suite still has.
    pub run: Run,
    /// Finished cases that have to be diagnosed again.
    pub again: usize,
    /// The file does not say all this yet.
    pub differs: bool,
}

/// The first pin in which a file's run differs from this one. Captures may have been repaired or added since: the digest of the
/// whole suite is not compared.
pub fn other_pin(done: &Run, header: &Header) -> Option<String> {
    let mut mine = Run { header: header.clone(), ..Run::default() };
    mine.header.pins.suite_sha256.clone_from(&done.header.pins.suite_sha256);
    differing_pins(done, &mine).into_iter().next()
}

/// Decides what is kept of `done`; the digest of each capture is compared.
///
/// # Errors
/// One line: the first pin that differs, or finished cases that the suite does not have.
pub fn keep(done: &Run, header: &Header, wanted: &[Wanted]) -> Result<Kept, String> {
    if let Some(pin) = other_pin(done, header) {
        return Err(pin);
    }
    let mut mine = Run { header: header.clone(), ..Run::default() };
    let known: HashMap<(&str, &str), &Wanted> = wanted.iter().map(|w| ((w.0.dataset.as_str(), w.0.id.as_str()), w)).collect();
    let of = |line: &CaseLine| known.get(&(line.dataset.as_str(), line.case.as_str())).copied();
    let strangers: Vec<&str> = done.cases.iter().filter(|line| of(line).is_none()).map(|line| line.case.as_str()).collect();
    if let Some(first) = strangers.first() {
        return Err(format!("{} of its finished cases are not in this suite, such as {first}", strangers.len()));
    }
    mine.cases = done.cases.iter().filter(|line| of(line).is_some_and(|wanted| stands(line, wanted))).cloned().collect();
    let open = |dataset: &str, id: &str| match dataset.is_empty() {
        // Early releases did not say of which data set.
        true => wanted.iter().any(|(case, _)| case.id == id),
        false => known.contains_key(&(dataset, id)),
    };
    mine.failed = done.failed.iter().filter(|f| open(&f.dataset, &f.case)).cloned().collect();
    let suite = |header: &Header| (header.pins.suite_sha256.clone(), header.cases);
    let differs = suite(&done.header) != suite(header) || mine.cases.len() != done.cases.len() || mine.failed.len() != done.failed.len();
    Ok(Kept { again: done.cases.len() - mine.cases.len(), differs, run: mine })
}

/// True when the case would give this line again: the same capture, and nothing else says what is right.
fn stands(line: &CaseLine, (case, twin): &Wanted) -> bool {
    let told = match &case.answer {
        Err(_) => return false,
        Ok(Some(answer)) if !answer.causes.is_empty() => answer.clone(),
        // The file that said so says nothing any more.
        Ok(_) if line.label_from_answer => return false,
        // Labels are in the capture, a name is in the id: neither changes without the other.
        Ok(answer) => Answer { causes: line.answer.causes.clone(), ..answer.clone().unwrap_or_default() },
    };
    let same = case.sha256.as_deref() == Some(line.capture_sha256.as_str()) && case.label_from_name == line.label_from_name;
    same && line.half == Some(case.half) && twin.is_none() && told == line.answer
}

#[cfg(test)]
mod tests {
    use galen_agents::evaluation::record::FailedCase;
    use galen_agents::evaluation::split::Half;

    use super::*;

    fn wanted(id: &str, sha: &str) -> Wanted {
        let case = Case {
            id: id.into(),
            dataset: "d".into(),
            half: Half::Learn,
            path: format!("{id}.galen").into(),
            sha256: Some(sha.into()),
            answer: Ok(None),
            label_from_name: false,
        };
        (case, None)
    }

    fn line(id: &str, sha: &str) -> CaseLine {
        let answer = Answer { causes: vec!["deadlocks".into()], ..Answer::default() };
        let (case, half) = (id.into(), Some(Half::Learn));
        CaseLine { case, dataset: "d".into(), half, capture_sha256: sha.into(), answer, ..CaseLine::default() }
    }

    fn header(suite: &str) -> Header {
        let mut header = Header { cases: 2, ..Header::default() };
        header.pins.suite_sha256 = suite.into();
        header
    }

    fn done() -> Run {
        Run { header: header("old"), cases: vec![line("a", "1"), line("b", "2")], ..Run::default() }
    }

    #[test]
    fn what_did_not_change_stands_and_the_file_stays_as_it_is() {
        let kept = keep(&done(), &header("old"), &[wanted("a", "1"), wanted("b", "2")]).unwrap();
        assert_eq!((kept.run.cases.len(), kept.again, kept.differs), (2, 0, false));
    }

    #[test]
    fn a_changed_capture_or_answer_is_diagnosed_again() {
        let told = |causes: &[&str], tags: &[&str]| {
            let owned = |of: &[&str]| of.iter().map(|o| (*o).to_owned()).collect();
            Ok(Some(Answer { causes: owned(causes), tags: owned(tags), ..Answer::default() }))
        };
        let with = |change: &dyn Fn(&mut Wanted)| {
            let mut second = wanted("b", "2");
            change(&mut second);
            keep(&done(), &header("new"), &[wanted("a", "1"), second]).unwrap().again
        };
        assert_eq!(with(&|w| w.0.sha256 = Some("3".into())), 1);
        assert_eq!(with(&|w| w.0.sha256 = None), 1);
        assert_eq!(with(&|w| w.0.answer = told(&["poor_join"], &[])), 1);
        assert_eq!(with(&|w| w.0.answer = told(&[], &["noise"])), 1);
        assert_eq!(with(&|w| w.0.answer = Err("no JSON".into())), 1);
        assert_eq!(with(&|w| w.0.label_from_name = true), 1);
        assert_eq!(with(&|w| w.0.half = Half::Test), 1);
        assert_eq!(with(&|w| w.1 = Some("the same recording as d/a".into())), 1);
        assert_eq!(with(&|w| w.0.answer = told(&["deadlocks"], &[])), 0);
        // Its answer stood in a file that is gone.
        let mut from_file = done();
        from_file.cases[1].label_from_answer = true;
        assert_eq!(keep(&from_file, &header("new"), &[wanted("a", "1"), wanted("b", "2")]).unwrap().again, 1);
        let kept = keep(&done(), &header("new"), &[wanted("a", "1"), wanted("b", "3"), wanted("c", "4")]).unwrap();
        assert_eq!((kept.run.cases[0].case.as_str(), kept.run.header.pins.suite_sha256.as_str(), kept.differs), ("a", "new", true));
    }

    #[test]
    fn other_pins_and_other_suites_are_refused_and_failures_of_what_is_gone_forgotten() {
        let mut other = header("new");
        other.pins.half = "test".into();
        assert!(keep(&done(), &other, &[wanted("a", "1"), wanted("b", "2")]).unwrap_err().starts_with("half: "));
        assert!(keep(&done(), &header("new"), &[wanted("a", "1")]).unwrap_err().contains("not in this suite, such as b"));
        let failed = |dataset: &str, id: &str| FailedCase { dataset: dataset.into(), case: id.into(), why: "cut off".into() };
        let mut done = done();
        done.failed = vec![failed("d", "c"), failed("d", "gone"), failed("", "c"), failed("", "gone")];
        let kept = keep(&done, &header("new"), &[wanted("a", "1"), wanted("b", "2"), wanted("c", "3")]).unwrap();
        assert_eq!(kept.run.failed, [failed("d", "c"), failed("", "c")]);
    }
}
