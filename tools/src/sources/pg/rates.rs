//! Rates from cumulative counters, careful about resets: what cannot be known is absent, never zero.

use std::collections::HashMap;

/// Last value of each counter.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: HashMap<&'static str, (f64, f64)>,
}

impl Rates {
    /// Growth since the last call and the seconds between; `None` the first time and after a reset.
    /// `at_ms` is the clock of whoever keeps the counter.
    pub fn growth(&mut self, counter: &'static str, at_ms: f64, value: f64) -> Option<(f64, f64)> {
        let (then, before) = self.last.insert(counter, (at_ms, value))?;
        let (delta, seconds) = (value - before, (at_ms - then) / 1000.0);
        (delta >= 0.0 && seconds > 0.05).then_some((delta, seconds))
    }

    /// Growth per second.
    pub fn per_second(&mut self, counter: &'static str, at_ms: f64, value: f64) -> Option<f64> {
        self.growth(counter, at_ms, value).map(|(delta, seconds)| delta / seconds)
    }

    /// Forgets everything, as after a reconnect.
    pub fn clear(&mut self) {
        self.last.clear();
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_reset_is_no_data_and_the_next_interval_counts_again() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second("x", 0.0, 100.0), None);
        assert_eq!(rates.per_second("x", 2_000.0, 120.0), Some(10.0));
        assert_eq!(rates.per_second("x", 3_000.0, 5.0), None);
        assert_eq!(rates.per_second("x", 4_000.0, 9.0), Some(4.0));
        assert_eq!(rates.per_second("x", 4_000.0, 9.0), None);
    }
}
