//! Statement counters: which statements grew since the last look, and samples of those that matter.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_postgres::Row;

use crate::capture::Frame;
use crate::model::{StatementSample, UnixMs};

use super::row::{count, get};

/// Samples are kept of this many statements by growth of time, besides those already known by text.
const KEPT: usize = 60;
/// Texts are wanted of this many.
const NAMED: usize = 20;

/// What the last look saw.
#[derive(Debug, Default)]
pub(super) struct Statements {
    at: UnixMs,
    last: HashMap<i64, StatementSample>,
    emitted: HashMap<i64, UnixMs>,
    /// Galen's own statements, once their text has shown it.
    pub own: HashSet<i64>,
}

impl Statements {
    /// Reads the rows of the statements probe; returns the ids whose text is wanted.
    pub fn read(&mut self, rows: &[Row], at: UnixMs, texts: &BTreeSet<i64>, frame: &mut Frame) -> Vec<i64> {
        let sample = |row: &Row| StatementSample {
            at,
            query_id: get(row, "query_id").unwrap_or(0),
            calls: count(row, "calls"),
            total_exec_ms: count(row, "total_exec_ms"),
            rows: count(row, "rows"),
            shared_blks_hit: count(row, "shared_blks_hit"),
            shared_blks_read: count(row, "shared_blks_read"),
            shared_blks_dirtied: count(row, "shared_blks_dirtied"),
            temp_blks_read: count(row, "temp_blks_read"),
            temp_blks_written: count(row, "temp_blks_written"),
            wal_bytes: count(row, "wal_bytes"),
            jit_ms: count(row, "jit_ms"),
        };
        self.take(rows.iter().map(sample).filter(|s| s.query_id != 0).collect(), at, texts, frame)
    }

    fn take(&mut self, now: Vec<StatementSample>, at: UnixMs, texts: &BTreeSet<i64>, frame: &mut Frame) -> Vec<i64> {
        let ours = &self.own;
        let now: HashMap<i64, StatementSample> = now.into_iter().filter(|s| !ours.contains(&s.query_id)).map(|s| (s.query_id, s)).collect();
        let mut grown: Vec<(i64, f64)> = now.values().filter_map(|s| Some((s.query_id, self.growth(s)?))).collect();
        grown.sort_by(|a, b| b.1.total_cmp(&a.1));
        if let Some(rate) = self.seconds_per_second(&now, at) {
            frame.values.push(("statement_seconds_per_s".into(), "s/s", rate));
        }
        let kept: BTreeSet<i64> =
            grown.iter().enumerate().filter(|(rank, (id, _))| *rank < KEPT || texts.contains(id)).map(|(_, (id, _))| *id).collect();
        let mut samples: Vec<StatementSample> = Vec::new();
        for id in &kept {
            samples.extend(self.baseline(*id));
            samples.extend(now.get(id).cloned());
            self.emitted.insert(*id, at);
        }
        samples.sort_by_key(|s| s.at);
        frame.statements.extend(samples);
        self.emitted.retain(|id, _| now.contains_key(id));
        (self.last, self.at) = (now, at);
        grown.into_iter().take(NAMED).map(|(id, _)| id).collect()
    }

    /// Milliseconds by which a statement grew; `None` when it did not run (or was reset).
    fn growth(&self, now: &StatementSample) -> Option<f64> {
        match self.last.get(&now.query_id) {
            Some(then) if now.calls > then.calls => Some((now.total_exec_ms - then.total_exec_ms).max(0.0)),
            Some(_) => None,
            None => Some(now.total_exec_ms),
        }
    }

    /// The counters at the previous look, if that sample has not been given away yet: without it, what happened
    /// between the looks could not be told. A statement that was not there had counted nothing.
    fn baseline(&self, id: i64) -> Option<StatementSample> {
        if self.at == 0 || self.emitted.get(&id) == Some(&self.at) {
            return None;
        }
        let nothing = StatementSample { at: self.at, query_id: id, ..StatementSample::default() };
        Some(self.last.get(&id).cloned().unwrap_or(nothing))
    }

    /// Seconds of execution that all statements took, per second. A reset of any counter makes it no-data.
    fn seconds_per_second(&self, now: &HashMap<i64, StatementSample>, at: UnixMs) -> Option<f64> {
        let seconds = (at - self.at) as f64 / 1000.0;
        if self.at == 0 || seconds <= 0.0 {
            return None;
        }
        let mut total_ms = 0.0;
        for sample in now.values() {
            let before = self.last.get(&sample.query_id).map_or(0.0, |then| then.total_exec_ms);
            if sample.total_exec_ms < before {
                return None;
            }
            total_ms += sample.total_exec_ms - before;
        }
        Some(total_ms / 1000.0 / seconds)
    }

    /// Forgets the counters, as after a restart.
    pub fn clear(&mut self) {
        *self = Self { own: std::mem::take(&mut self.own), ..Self::default() };
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn sample(at: UnixMs, query_id: i64, calls: f64, total_exec_ms: f64) -> StatementSample {
        StatementSample { at, query_id, calls, total_exec_ms, ..StatementSample::default() }
    }

    #[test]
    fn a_statement_that_wakes_up_comes_with_its_baseline() {
        let mut state = Statements::default();
        let mut frames = [const { Vec::new() }; 3];
        for (turn, calls) in [(1, 5.0), (2, 5.0), (3, 9.0)] {
            let mut frame = Frame::default();
            state.take(vec![sample(turn * 1000, 7, calls, calls * 2.0)], turn * 1000, &BTreeSet::new(), &mut frame);
            frames[turn as usize - 1] = frame.statements.iter().map(|s| (s.at, s.calls)).collect();
        }
        assert_eq!(frames, [vec![(1000, 5.0)], vec![], vec![(2000, 5.0), (3000, 9.0)]]);
    }

    #[test]
    fn a_new_statement_counts_from_zero_and_a_reset_is_no_data() {
        let mut state = Statements::default();
        let look = |state: &mut Statements, at, rows| {
            let mut frame = Frame::default();
            state.take(rows, at, &BTreeSet::new(), &mut frame);
            frame
        };
        look(&mut state, 1000, vec![sample(1000, 7, 5.0, 10.0)]);
        let frame = look(&mut state, 2000, vec![sample(2000, 7, 5.0, 10.0), sample(2000, 8, 1.0, 500.0)]);
        assert_eq!(frame.values, [("statement_seconds_per_s".to_owned(), "s/s", 0.5)]);
        assert_eq!(frame.statements.iter().map(|s| s.calls).collect::<Vec<_>>(), [0.0, 1.0]);
        assert!(look(&mut state, 3000, vec![sample(3000, 8, 1.0, 4.0)]).values.is_empty());
    }
}
