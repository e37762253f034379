//! Many captures at a time, told in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::failure::Failure;

/// Results, for each thread, that may be ready before the one that is told next: a slow capture holds up no other for
/// long, and thousands of fast ones fill no memory.
const AHEAD: usize = 16;

/// How many results are told; all of them once nobody listens any more.
#[derive(Default)]
struct Told {
    count: Mutex<usize>,
    more: Condvar,
}

impl Told {
    /// Waits until the item at this place may begin; false when nobody listens any more.
    fn admits(&self, at: usize, ahead: usize) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.more.wait_while(count, |count| at >= count.saturating_add(ahead)).unwrap_or_else(PoisonError::into_inner);
        *count < usize::MAX
    }

    fn set(&self, count: usize) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.more.notify_all();
    }
}

/// Ends the waiting however its scope ends.
struct Listening<'t>(&'t Told);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.set(usize::MAX);
    }
}

/// Does `work` for every item on `jobs` threads and tells the results in the items' order.
///
/// An item stays on one thread from its file to its last byte. Handing a capture from thread to thread (a blocking
/// read, a task, a writer) cost two cores a quarter of their time in waking each other up.
///
/// # Errors
/// The first of `tell`; the rest is left undone then. Where `work` panics, that item's result is a fault.
pub fn in_order<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, Failure> + Sync,
    mut tell: impl FnMut(&T, Result<R, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let jobs = jobs.clamp(1, items.len().max(1));
    let (work, next, told) = (&work, &AtomicUsize::new(0), &Told::default());
    thread::scope(|scope| {
        // Dropped before the scope waits for its threads.
        let listening = Listening(told);
        let (sender, results) = channel();
        for _ in 0..jobs {
            let sender = sender.clone();
            let thread = move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at).filter(|_| told.admits(at, AHEAD * jobs)) else { return };
                    // One capture that trips over a fault of ours costs itself only; the hook has told where.
                    let result = catch_unwind(AssertUnwindSafe(|| work(item)));
                    let result = result.unwrap_or_else(|_| Err(Failure::fault("a fault of ours stopped this one")));
                    if sender.send((at, result)).is_err() {
                        return;
                    }
                }
            };
            let started = thread::Builder::new().name("capture".into()).spawn_scoped(scope, thread);
            started.map_err(|e| Failure::fault(format!("cannot start a thread: {e}")))?;
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            let result = loop {
                if let Some(result) = early.remove(&at) {
                    break result;
                }
                let (at, result) = results.recv().map_err(|_| Failure::fault("a capture's thread ended early"))?;
                early.insert(at, result);
            };
            tell(item, result)?;
            told.set(at + 1);
        }
        drop(listening);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn results_come_in_order_whatever_each_takes() {
        let items: Vec<u64> = (0..100).collect();
        let mut told = Vec::new();
        let slow = |item: &u64| {
            thread::sleep(Duration::from_micros((item * 7919) % 400));
            Ok(item * 2)
        };
        let tell = |item: &u64, double: Result<u64, Failure>| {
            told.push((*item, double?));
            Ok(())
        };
        in_order(&items, 7, slow, tell).unwrap();
        assert_eq!(told, items.iter().map(|i| (*i, i * 2)).collect::<Vec<_>>());
        in_order(&[] as &[u64], 3, slow, |_, _| panic!("there is nothing to tell")).unwrap();
    }

    #[test]
    fn an_error_ends_it_and_little_is_done_for_nothing() {
        let items: Vec<usize> = (0..10_000).collect();
        let done = AtomicUsize::new(0);
        let count = |_: &usize| Ok(done.fetch_add(1, Ordering::Relaxed));
        let stop = |item: &usize, _| if *item == 5 { Err(Failure::input("disk full")) } else { Ok(()) };
        let failure = in_order(&items, 4, count, stop).unwrap_err();
        assert_eq!(failure.to_string(), "disk full");
        assert!(done.load(Ordering::Relaxed) < 100, "{done:?}");
    }

    #[test]
    fn a_slow_one_lets_the_others_go_on_but_not_for_ever() {
        let items: Vec<usize> = (0..1_000).collect();
        let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |item: &usize| {
            if *item == 0 {
                thread::sleep(Duration::from_millis(200));
                seen.store(done.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Ok(done.fetch_add(1, Ordering::Relaxed))
        };
        in_order(&items, 2, work, |_, result| result.map(drop)).unwrap();
        let seen = seen.load(Ordering::Relaxed);
        assert!((2..=2 * AHEAD).contains(&seen), "{seen}");
    }

    #[test]
    fn a_panic_costs_its_own_item_only() {
        let items: Vec<usize> = (0..50).collect();
        let mut faults = Vec::new();
        let work = |item: &usize| {
            assert!(*item != 20, "meant to happen");
            Ok(())
        };
        let tell = |item: &usize, result: Result<(), Failure>| {
            faults.extend(result.err().map(|failure| (*item, failure.code)));
            Ok(())
        };
        in_order(&items, 3, work, tell).unwrap();
        assert_eq!(faults, [(20, crate::failure::FAULT)]);
    }
}
