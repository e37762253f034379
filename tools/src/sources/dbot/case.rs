//! The outside format: exactly those fields of a recorded case that a diagnosis may know.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Flaw, ImportErrorKind};
use crate::model::UnixMs;

/// Samples of one metric beyond this many are refused while they are read.
const MAX_SAMPLES: usize = 100_000;

/// A recorded case. There is no field for labels, command or description, so they cannot be read.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub start_time: Seconds,
    pub end_time: Seconds,
    #[serde(default)]
    pub alerts: Vec<Payload>,
    /// Statement -> times it ran.
    #[serde(default)]
    pub workload: BTreeMap<String, f64>,
    #[serde(default)]
    pub slow_queries: Vec<String>,
    /// Group -> metric -> values.
    pub exceptions: BTreeMap<String, BTreeMap<String, Samples>>,
}

/// One message of Alertmanager.
#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    pub alerts: Vec<Received>,
}

/// One alert in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Received {
    pub status: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: Annotations,
    pub starts_at: String,
    #[serde(default)]
    pub ends_at: String,
    #[serde(default)]
    pub fingerprint: String,
}

/// Of the alert's prose only the summary.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Annotations {
    #[serde(default)]
    pub summary: String,
}

/// Seconds since 1970, which the files write as a string.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Seconds {
    Text(String),
    Number(f64),
}

impl Seconds {
    /// Milliseconds; none where it is no number.
    pub fn ms(&self) -> Option<UnixMs> {
        let seconds = match self {
            Seconds::Text(text) => text.trim().parse::<f64>().ok()?,
            Seconds::Number(seconds) => *seconds,
        };
        // The cast saturates; the caller bounds the result.
        seconds.is_finite().then_some((seconds * 1000.0).round() as i64)
    }
}

/// Values of one metric; null becomes not-a-number, which is never stored.
#[derive(Debug)]
pub(super) struct Samples(pub Vec<f64>);

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Bounded)
    }
}

struct Bounded;

impl<'de> Visitor<'de> for Bounded {
    type Value = Samples;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Samples, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element::<Option<f64>>()? {
            if values.len() == MAX_SAMPLES {
                return Err(A::Error::custom(format!("a metric holds more than {MAX_SAMPLES} samples")));
            }
            values.push(value.unwrap_or(f64::NAN));
        }
        Ok(Samples(values))
    }
}

/// Names a parse error for what it is.
pub(super) fn flaw_of(error: &serde_json::Error) -> Flaw {
    let text = error.to_string();
    if text.contains("samples") && error.is_data() {
        return (ImportErrorKind::TooLarge, text);
    }
    if error.is_data() {
        return (ImportErrorKind::Shape, format!("not a recorded D-Bot case: {text}"));
    }
    (ImportErrorKind::NotJson, format!("not JSON: {text}"))
}

/// An RFC 3339 time in milliseconds.
pub(super) fn instant(text: &str) -> Option<UnixMs> {
    let at = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    (at >= 0).then_some(at)
}
