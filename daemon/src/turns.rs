//! Whose turn it is to be diagnosed: one incident of a target at a time, since a target gives us two connections; of several
//! targets some together, since the engine answers the prompts of all at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::state::lock;

/// Diagnoses that share the model and the processor at a time.
const TOGETHER: u32 = 4;
/// Seconds from the alert within which the report must be there, with the model's share or without it.
const REPORT_S: f64 = 55.0;
/// The model always has this long, seconds: an old incident would else never be put to it.
const LEAST_MODEL_S: f64 = 20.0;
/// And this long when several incidents want it at once.
const LEAST_SHARED_S: f64 = 5.0;

/// Turns, handed out in the order of asking.
pub struct Turns {
    all: Semaphore,
    together: u32,
    targets: Mutex<BTreeMap<String, Target>>,
}

struct Target {
    /// The one permit for its incidents.
    turn: Arc<Semaphore>,
    /// How many of them wait.
    waiting: u32,
}

/// A turn; it ends when this is dropped.
pub struct Turn<'t> {
    turns: &'t Turns,
    target: String,
    /// Whether it had to be waited for.
    crowded: bool,
    _all: Option<SemaphorePermit<'t>>,
    _target: Option<OwnedSemaphorePermit>,
}

/// How many incidents wait for their turn: of all targets, and of the one that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Others {
    all: u32,
    same: u32,
}

impl Turns {
    /// Nobody is at work. With `alone` one diagnosis has the model at a time, whatever its target: an adapter changes the model
    /// for all that ask it.
    pub fn new(alone: bool) -> Self {
        let together = if alone { 1 } else { TOGETHER };
        Self { all: Semaphore::new(together as usize), together, targets: Mutex::default() }
    }

    /// Waits for the turn of an incident of this target.
    pub async fn wait(&self, target: &str) -> Turn<'_> {
        let (of_target, _waiting) = self.queue(target);
        let crowded = of_target.available_permits() == 0 || self.all.available_permits() == 0;
        // The target's first: who waits for it keeps nobody else from the model.
        let permit = of_target.acquire_owned().await.ok();
        Turn { turns: self, target: target.to_owned(), crowded, _all: self.all.acquire().await.ok(), _target: permit }
    }

    /// One more waits for this target.
    fn queue<'t>(&'t self, target: &'t str) -> (Arc<Semaphore>, Waiting<'t>) {
        let mut targets = lock(&self.targets);
        let entry = targets.entry(target.to_owned()).or_insert_with(|| Target { turn: Arc::new(Semaphore::new(1)), waiting: 0 });
        entry.waiting += 1;
        (Arc::clone(&entry.turn), Waiting { turns: self, target })
    }

    fn others(&self, target: &str) -> Others {
        let targets = lock(&self.targets);
        Others { all: targets.values().map(|t| t.waiting).sum(), same: targets.get(target).map_or(0, |t| t.waiting) }
    }
}

impl Turn<'_> {
    /// Seconds that the model may take when so many have passed since the alert: what is left until the report is due, shared
    /// with those that wait for their turn now.
    pub fn patience(&self, passed: f64) -> f64 {
        patience(passed, self.turns.others(&self.target), self.turns.together, self.crowded)
    }
}

/// What is left is for this turn and those after it: as many as the others take that work together, and no fewer than those of
/// the same target, which come one by one.
fn patience(passed: f64, others: Others, together: u32, crowded: bool) -> f64 {
    let least = if others.all > 0 || crowded { LEAST_SHARED_S } else { LEAST_MODEL_S };
    let turns = others.all.div_ceil(together.max(1)).max(others.same) + 1;
    ((REPORT_S - passed) / f64::from(turns)).max(least)
}

/// Seconds that an incident waits for the model's start when so many have passed since the alert: until there is just time left
/// to ask it. One whose report is late already has the time of a new one.
pub fn patience_to_start(passed: f64) -> f64 {
    let left = if passed < REPORT_S { REPORT_S - passed } else { REPORT_S };
    (left - LEAST_SHARED_S).max(LEAST_SHARED_S)
}

/// Counts who waits, also where the waiting is given up.
struct Waiting<'t> {
    turns: &'t Turns,
    target: &'t str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(target) = lock(&self.turns.targets).get_mut(self.target) {
            target.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn incidents_that_wait_for_the_model_share_what_is_left_of_their_minute() {
        let others = |all, same| Others { all, same };
        assert_eq!(patience(12.0, others(0, 0), 1, false), 43.0);
        assert_eq!(patience(300.0, others(0, 0), 1, false), LEAST_MODEL_S, "an old incident");
        // Five at once: each in its turn uses up its share. Four may work together, but not for one target.
        for (together, of_target) in [(1, 0), (1, 1), (4, 1)] {
            let share = |passed, waiting: u32| patience(passed, others(waiting, waiting * of_target), together, waiting < 4);
            let last = (0..5).rev().fold(12.0, |passed, waiting| passed + share(passed, waiting));
            assert!((54.0..56.0).contains(&last), "the last of {together} together after {last} s");
        }
        // Four of other targets wait for a round of four: half is theirs.
        assert_eq!(patience(15.0, others(4, 0), 4, false), 20.0);
        assert_eq!(patience(15.0, others(9, 1), 4, false), 10.0, "three rounds");
    }

    #[test]
    fn the_models_start_is_waited_for_while_there_is_time_to_ask_it() {
        assert_eq!([12.0, 54.0, 300.0].map(patience_to_start), [38.0, LEAST_SHARED_S, 50.0]);
    }

    #[tokio::test]
    async fn a_turn_knows_who_waits_for_its_target_and_who_for_others() {
        let turns = Turns::new(false);
        let (first, other) = (turns.wait("a").await, turns.wait("b").await);
        let mut queue: Vec<_> = (0..4).map(|_| Box::pin(turns.wait("a"))).collect();
        for waiting in &mut queue {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert_eq!((turns.others("a"), turns.others("b")), (Others { all: 4, same: 4 }, Others { all: 4, same: 0 }));
        assert_eq!((first.patience(15.0), other.patience(15.0)), (8.0, 20.0));
        queue.pop();
        assert_eq!(first.patience(15.0), 10.0, "one gave up");
    }

    #[tokio::test]
    async fn targets_share_the_model_and_incidents_of_one_target_wait_for_each_other() {
        let turns = Turns::new(false);
        let first = turns.wait("a").await;
        assert!(turns.wait("a").now_or_never().is_none(), "two connections to a target");
        let others = [turns.wait("b").await, turns.wait("c").await, turns.wait("d").await];
        assert!(turns.wait("e").now_or_never().is_none(), "more than may work together");
        let mut again = Box::pin(turns.wait("a"));
        assert!(again.as_mut().now_or_never().is_none());
        assert_eq!((first.patience(5.0), turns.others("a").all), (25.0, 1), "half is left to who waits");
        drop(first);
        let again = again.now_or_never().expect("its turn has come");
        assert!(again.crowded && turns.others("a").all == 0, "nobody waits, and those who gave up are not counted");
        assert!(turns.wait("e").now_or_never().is_none());
        drop(others);
        assert!(turns.wait("e").now_or_never().is_some());
    }

    #[tokio::test]
    async fn where_targets_have_adapters_one_has_the_model_at_a_time() {
        let turns = Turns::new(true);
        let first = turns.wait("a").await;
        assert!(turns.wait("b").now_or_never().is_none());
        drop(first);
        assert!(turns.wait("b").now_or_never().is_some());
    }
}
