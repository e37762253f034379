//! When silence means that a process hangs: its signs of life against the longest time that it has taken from one to the next.

use std::time::Duration;

use tokio::time::Instant;

/// Times the longest known one that a process may be silent: a full batch may follow a half-full one, and beside a busy server
/// the same work takes five times as long.
const SLACK: u32 = 12;

/// Signs of life of a process.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    /// When it was last heard, or got something to do after it had nothing.
    heard: Instant,
    /// Longest time between two signs while it had something to do; none before it has told of a step.
    longest: Option<Duration>,
}

impl Pulse {
    /// That of a process that has just loaded.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, longest: None }
    }

    /// It gets something to do after it had nothing: the silence until now was no sign of anything.
    pub fn begin(&mut self, now: Instant) {
        self.heard = now;
    }

    /// It says something while it has something to do: that a step is done, or something else. Before the first step it tells of, its
    /// silences say nothing of how long its steps take and do not count.
    pub fn hear(&mut self, now: Instant, step: bool) {
        let gap = now.duration_since(self.heard);
        if step || self.longest.is_some() {
            self.longest = self.longest.max(Some(gap));
        }
        self.heard = now;
    }

    /// When it hangs unless it says something before. None where that is not known: the times of each request alone hold then.
    pub fn due(&self, least: Duration, most: Duration) -> Option<Instant> {
        self.longest.map(|gap| self.heard + silence(gap, least, most))
    }
}

/// How long a process at work may say nothing: twelve times its longest silence so far, and `least` in any case. Little more than
/// `most`, the time of a request: one that is late fails before its process is taken for hung.
fn silence(longest: Duration, least: Duration, most: Duration) -> Duration {
    least.max(longest.saturating_mul(SLACK).min(most + least))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(15);
    const MOST: Duration = Duration::from_secs(60);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_is_measured_against_the_longest_one_so_far() {
        for (longest, may) in [(0, 15), (1, 15), (2, 24), (5, 60), (6, 72), (7, 75), (600, 75)] {
            assert_eq!(silence(seconds(longest), LEAST, MOST), seconds(may), "{longest}");
        }
        assert_eq!(silence(seconds(1), seconds(90), MOST), seconds(90), "the least holds in any case");
        assert_eq!(silence(Duration::MAX, LEAST, MOST), MOST + LEAST);
    }

    #[test]
    fn a_process_is_not_hung_before_it_has_told_of_a_step_nor_for_what_it_did_while_idle() {
        let start = Instant::now();
        let due = |pulse: &Pulse| pulse.due(LEAST, MOST).map(|due| due.duration_since(start));
        let mut pulse = Pulse::new(start);
        pulse.begin(start + seconds(5));
        // A long answer without a step told of counts for nothing.
        pulse.hear(start + seconds(45), false);
        assert_eq!(due(&pulse), None);
        pulse.hear(start + seconds(48), true);
        assert_eq!(due(&pulse), Some(seconds(48 + 12 * 3)));
        pulse.hear(start + seconds(49), true);
        assert_eq!(due(&pulse), Some(seconds(49 + 12 * 3)), "the longest counts, not the last");
        // An hour with nothing to do.
        pulse.begin(start + seconds(3_654));
        assert_eq!(due(&pulse), Some(seconds(3_654 + 12 * 3)));
        pulse.hear(start + seconds(3_659), false);
        assert_eq!(due(&pulse), Some(seconds(3_659 + 12 * 5)));
    }
}
