//! Held-back halves: every labelled case is for learning or for testing, by one rule and for ever.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use galen_tools::capture::Half;
use galen_tools::model::Series;

/// Data set by which captures are split that follow no published rule.
const CAPTURES: &str = "captures";

/// The half of a capture: the one that its manifest states, else that of its file's stem. The folder does not count, so
/// that a suite is split alike wherever it lies and whatever reads it.
pub fn half_of_capture(stated: Option<Half>, file: &Path) -> Half {
    stated.unwrap_or_else(|| half_of(CAPTURES, &file.file_stem().unwrap_or_default().to_string_lossy()))
}

/// The half of a recording that follows no published rule and whose capture's name says nothing: that of its content.
pub fn half_of_content(series: &BTreeMap<String, Series>) -> Half {
    half_of("content", &content_sha256(series))
}

/// SHA-256 over the series of a recording, in hexadecimal: the same for copies of it under other names. Texts do not count: an
/// alert may say what was wrong.
pub fn content_sha256(series: &BTreeMap<String, Series>) -> String {
    json_sha256(series)
}

/// SHA-256 over the JSON of a value, in hexadecimal. The JSON is never in memory as a whole: that of a long recording is larger than
/// the recording.
pub fn json_sha256(value: &impl Serialize) -> String {
    let mut hashing = Hashing(Sha256::new());
    // Nothing is refused: keys are texts or numbers, and this writer takes all.
    let _ = serde_json::to_writer(&mut hashing, value);
    hashing.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes what is written into a digest.
struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The half of a case: the lowest bit of the first byte of SHA-256 over `dataset:case`, 0 for learning.
///
/// No seed and no list: the same case is in the same half on every machine and in every release, and adding cases
/// moves none.
pub fn half_of(dataset: &str, case: &str) -> Half {
    let digest = Sha256::digest(format!("{dataset}:{case}"));
    if digest.first().is_some_and(|byte| byte & 1 == 1) { Half::Test } else { Half::Learn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_fixed_and_about_even() {
        // First bytes by an independent tool, `printf shop:healthy | sha256sum`: fe, c1, 13.
        assert_eq!(half_of("shop", "healthy"), Half::Learn);
        assert_eq!(half_of("shop", "missing_index"), Half::Test);
        assert_eq!(half_of("dbsherlock_single", "cpu_saturation/01"), Half::Test);
        let test = (0..2000).filter(|i| half_of("d", &format!("case-{i}")) == Half::Test).count();
        assert!((900..1100).contains(&test), "{test}");
        // `printf captures:healthy | sha256sum`: 0b; missing_index: 14.
        let half = |stated, file: &str| half_of_capture(stated, Path::new(file));
        assert_eq!((half(None, "a/healthy.galen"), half(None, "b/c/healthy.galen")), (Half::Test, Half::Test));
        assert_eq!(half(None, "a/missing_index.galen"), Half::Learn);
        assert_eq!(half(Some(Half::Learn), "a/healthy.galen"), Half::Learn);
        let of = |value: u32| Series { values: vec![value.into()], times: vec![1], ..Series::default() };
        let test = (0..2000).filter(|i| half_of_content(&BTreeMap::from([("s".to_owned(), of(*i))])) == Half::Test).count();
        assert!((900..1100).contains(&test), "{test}");
        let series = BTreeMap::from([("s".to_owned(), of(1)), ("t".to_owned(), of(2))]);
        let whole = Sha256::digest(serde_json::to_vec(&series).unwrap());
        assert_eq!(content_sha256(&series), whole.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert!((0..100).any(|i| half_of("a", &i.to_string()) != half_of("b", &i.to_string())), "the data set counts");
    }
}
