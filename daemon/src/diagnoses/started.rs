//! What is started at need and then shared: once where that works, and again after a pause where it failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Something that was started, or why it could not be and when.
pub struct Started<T> {
    known: Arc<Mutex<Option<Result<T, Failed>>>>,
    pause: Duration,
}

struct Failed {
    at: Instant,
    why: String,
}

impl<T: Clone + Send + 'static> Started<T> {
    /// Nothing is started yet. A failed start is not tried again before `pause` is over.
    pub fn new(pause: Duration) -> Self {
        Self { known: Arc::default(), pause }
    }

    /// What was started before, else starts it; who comes meanwhile waits for the same start. A failure is one sentence, which
    /// stays the answer until the pause is over. The start goes on where the handle is dropped: others may wait for it.
    pub fn begin<F>(&self, start: impl FnOnce() -> F + Send + 'static) -> JoinHandle<Result<T, String>>
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let (known, pause) = (Arc::clone(&self.known), self.pause);
        tokio::spawn(async move {
            let mut known = known.lock().await;
            match known.as_ref() {
                Some(Ok(started)) => return Ok(started.clone()),
                Some(Err(failed)) if failed.at.elapsed() < pause => return Err(failed.why.clone()),
                _ => {}
            }
            let outcome = start().await;
            *known = Some(outcome.clone().map_err(|why| Failed { at: Instant::now(), why }));
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Fails the first time, then gives how often it was tried before.
    async fn second_time(tries: Arc<AtomicU32>) -> Result<u32, String> {
        let before = tries.fetch_add(1, Ordering::Relaxed);
        // Others come meanwhile.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if before == 0 { Err("no file".to_owned()) } else { Ok(before) }
    }

    async fn ask(started: &Started<u32>, tries: &Arc<AtomicU32>) -> Result<u32, String> {
        let tries = Arc::clone(tries);
        started.begin(move || second_time(tries)).await.unwrap()
    }

    #[tokio::test]
    async fn a_failed_start_is_tried_again_after_the_pause_and_one_that_worked_is_kept() {
        let tries = Arc::new(AtomicU32::new(0));
        let patient = Started::new(Duration::from_secs(3_600));
        for _ in 0..3 {
            assert_eq!(ask(&patient, &tries).await, Err("no file".to_owned()));
        }
        assert_eq!(tries.load(Ordering::Relaxed), 1, "not tried again within the pause");
        let tries = Arc::new(AtomicU32::new(0));
        let eager = Started::new(Duration::ZERO);
        assert_eq!(ask(&eager, &tries).await, Err("no file".to_owned()));
        for _ in 0..3 {
            assert_eq!(ask(&eager, &tries).await, Ok(1));
        }
        assert_eq!(tries.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn who_comes_at_once_waits_for_one_start_that_goes_on_without_them() {
        let tries = Arc::new(AtomicU32::new(1));
        let started = Started::new(Duration::ZERO);
        assert_eq!(tokio::join!(ask(&started, &tries), ask(&started, &tries)), (Ok(1), Ok(1)));
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        // The first start, which fails, has nobody who waits for it.
        let (tries, alone) = (Arc::new(AtomicU32::new(0)), Started::new(Duration::ZERO));
        let first = Arc::clone(&tries);
        drop(alone.begin(move || second_time(first)));
        assert_eq!((ask(&alone, &tries).await, tries.load(Ordering::Relaxed)), (Ok(1), 2));
    }
}
