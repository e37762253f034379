//! Small runs for the tests of scoring.

use galen_tools::model::Window;

use super::record::{Answer, CaseLine, Named, Run};
use crate::report::Status;

/// A case with what is right and what was named, the first with 0.9, the others with 0.6.
pub fn case(id: &str, right: &[&str], named: &[&str]) -> CaseLine {
    let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let status = match named.first() {
        None => Status::Undetermined,
        Some(&"healthy") => Status::Healthy,
        Some(_) => Status::Diagnosed,
    };
    let named = named.iter().enumerate().map(|(i, cause)| Named {
        cause: (*cause).to_owned(),
        probability: if i == 0 { 0.9 } else { 0.6 },
        ..Named::default()
    });
    CaseLine {
        case: id.to_owned(),
        dataset: "shop".into(),
        capture_sha256: format!("sha of {id}"),
        answer: Answer { causes: owned(right), ..Answer::default() },
        status,
        named: named.collect(),
        window: Some(Window { start: 30_000, end: 60_000 }),
        span: Some(Window { start: 0, end: 100_000 }),
        ..CaseLine::default()
    }
}

/// A run of cases.
pub fn run(cases: Vec<CaseLine>) -> Run {
    let mut run = Run { cases, ..Run::default() };
    run.header.pins.half = "all".into();
    run
}
