//! Held-back halves: every labelled case is for learning or for testing, by its name alone and for ever.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a labelled case may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Ratios, signatures and skill may be learnt from it.
    Learn,
    /// Only to be scored.
    Test,
}

impl Half {
    /// `learn` or `test`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Test => "test",
        }
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
        assert!((0..100).any(|i| half_of("a", &i.to_string()) != half_of("b", &i.to_string())), "the data set counts");
    }
}
