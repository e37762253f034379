//! The signals that end a command: SIGINT, SIGTERM and SIGHUP alike; a hang-up only where the caller does not have it
//! ignored, as `nohup` does.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Signals that end a command, with the names people know them by.
const ENDING: [(SignalKind, &str); 3] = [
    (SignalKind::interrupt(), "interrupted"),
    (SignalKind::terminate(), "stopped by SIGTERM"),
    (SignalKind::hangup(), "stopped by SIGHUP"),
];

/// From when it exists, these signals no longer end the process by themselves.
pub struct Signals(Vec<(Ending, Signal)>);

/// One of them, received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    number: i32,
    what: &'static str,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// A fault of the machine.
    pub fn listen() -> Result<Self, Failure> {
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let mut heard = Vec::new();
        for (kind, what) in ENDING {
            let number = kind.as_raw_value();
            // A shell has SIGINT ignored for what it runs in the background; whoever sends it means it all the same.
            if kind != SignalKind::hangup() || ignored & (1 << (number - 1)) == 0 {
                let stream = signal(kind).map_err(|e| Failure::fault(format!("cannot wait for signals: {e}")))?;
                heard.push((Ending { number, what }, stream));
            }
        }
        Ok(Self(heard))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Ending {
        std::future::poll_fn(|context| {
            let ready = self.0.iter_mut().find_map(|(ending, stream)| stream.poll_recv(context).is_ready().then_some(*ending));
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Awaits `work`, which is dropped when a signal comes first.
    ///
    /// # Errors
    /// The signal, as the failure that ends the command.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            done = work => Ok(done),
            ending = self.next() => Err(ending.failure("")),
        }
    }
}

impl Ending {
    /// How a command ends by it: 128 and the number of the signal, as shells have it.
    pub fn failure(self, what_is_left: &str) -> Failure {
        let code = u8::try_from(128 + self.number).unwrap_or(130);
        Failure { code, message: format!("{}{what_is_left}", self.what) }
    }
}

/// The mask of ignored signals in the text of `/proc/PID/status`.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_is_seen() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"), 0x1001);
        assert_eq!(ignored(""), 0);
    }

    #[tokio::test]
    async fn work_ends_by_itself_or_with_the_code_of_a_signal() {
        let mut signals = Signals::listen().unwrap();
        assert_eq!(signals.unless(async { 7 }).await, Ok(7));
        // Raised here it would reach the listeners of other tests; tests/doors.rs sends it to a process.
        let failure = Ending { number: 1, what: "stopped by SIGHUP" }.failure("; nothing is left");
        assert_eq!((failure.code, failure.message.as_str()), (129, "stopped by SIGHUP; nothing is left"));
    }
}
