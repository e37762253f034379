//! Near-duplicates: fingerprints find the candidates, the texts decide.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::document::is_han;

/// Share of word pairs that two texts must have in common to be one.
const SAME: f64 = 0.9;
/// Bands of a fingerprint, and hash functions in each: of two texts that share nine tenths of their word pairs, one
/// pair in thirty thousand has no band in common; of those that share a third, three in four have none.
const BANDS: usize = 8;
const ROWS: usize = 3;
/// A text with fewer word pairs is a duplicate only of its like.
const FEWEST: usize = 8;
/// Candidates that are looked at.
const MOST_CANDIDATES: usize = 20;

/// Fingerprint of a text (MinHash of its word pairs, banded): similar texts have bands in common.
pub type Print = [u32; BANDS];

/// Takes the fingerprint of a text.
pub fn print(text: &str) -> Print {
    let mut least = [[u64::MAX; ROWS]; BANDS];
    for pair in pairs(text) {
        for (seed, least) in (1u64..).zip(least.as_flattened_mut()) {
            *least = mix(pair ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).min(*least);
        }
    }
    least.map(|rows| (rows.into_iter().fold(0, |sum, row| mix(sum ^ row)) >> 32) as u32)
}

/// A fingerprint as it is stored.
pub fn to_bytes(print: Print) -> Vec<u8> {
    print.iter().flat_map(|band| band.to_le_bytes()).collect()
}

/// A stored fingerprint.
pub fn from_bytes(bytes: &[u8]) -> Print {
    let mut print = [0; BANDS];
    for (band, bytes) in print.iter_mut().zip(bytes.chunks_exact(4)) {
        *band = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    }
    print
}

/// Whether two texts say the same in nearly the same words. Texts with other numbers or names in them never do: a copy
/// that states another value is another statement.
pub fn same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let telling = |text: &str| -> BTreeSet<String> {
        let marked = |w: &&str| w.bytes().any(|b| b.is_ascii_digit() || b == b'_');
        words(text).filter(marked).map(str::to_lowercase).collect()
    };
    if telling(a) != telling(b) {
        return false;
    }
    let (a, b) = (pairs(a), pairs(b));
    if a.len() < FEWEST || b.len() < FEWEST {
        return a == b;
    }
    let shared = a.intersection(&b).count();
    shared as f64 >= SAME * (a.len() + b.len() - shared) as f64
}

/// Fingerprints by each of their bands.
#[derive(Default)]
pub struct Near {
    bands: HashMap<(usize, u32), Vec<i64>>,
}

impl Near {
    /// Adds the fingerprint of a row.
    pub fn add(&mut self, print: Print, row: i64) {
        for key in print.into_iter().enumerate() {
            self.bands.entry(key).or_default().push(row);
        }
    }

    /// Takes a row out.
    pub fn remove(&mut self, print: Print, row: i64) {
        for key in print.into_iter().enumerate() {
            if let Some(rows) = self.bands.get_mut(&key) {
                rows.retain(|other| *other != row);
            }
        }
    }

    /// Rows that have bands in common, those with most first, then the oldest.
    pub fn candidates(&self, print: Print) -> Vec<i64> {
        let mut shared: BTreeMap<i64, usize> = BTreeMap::new();
        for key in print.into_iter().enumerate() {
            for row in self.bands.get(&key).into_iter().flatten() {
                *shared.entry(*row).or_default() += 1;
            }
        }
        let mut found: Vec<(i64, usize)> = shared.into_iter().collect();
        found.sort_by_key(|(row, bands)| (std::cmp::Reverse(*bands), *row));
        found.truncate(MOST_CANDIDATES);
        found.into_iter().map(|(row, _)| row).collect()
    }
}

/// Pairs of neighbouring words, as hashes.
fn pairs(text: &str) -> HashSet<u64> {
    let hashes: Vec<u64> = words(text)
        .map(|word| {
            word.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3))
        })
        .collect();
    if hashes.len() == 1 {
        return hashes.into_iter().collect();
    }
    hashes.windows(2).map(|w| w[0].rotate_left(23) ^ w[1]).collect()
}

/// Spreads the bits of a hash: FNV's low bits of short words are alike.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Words of a text; each Chinese character is one.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).flat_map(|run| {
        let mut rest = run;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let end = if is_han(first) { first.len_utf8() } else { rest.find(is_han).unwrap_or(rest.len()) };
            let (word, after) = rest.split_at(end);
            rest = after;
            Some(word)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "A long transaction keeps vacuum from removing dead rows of every table in the database, whether it touches \
        that table or not, since it may still look at them. Find it by its age in pg_stat_activity, ask its owner, and end it when nobody needs \
        it any more. Then vacuum the tables that grew, the largest first, and see that their size stays the same for a day before closing.";

    #[test]
    fn a_small_change_is_near_and_a_changed_number_or_name_is_not_the_same() {
        let near = TEXT.replace("ask its owner", "ask the owner");
        let mut index = Near::default();
        index.add(print(TEXT), 7);
        assert_eq!(index.candidates(print(&near)), [7]);
        assert!(same(TEXT, &near) && same(&near, TEXT));
        assert!(!same(&format!("{TEXT} Wait 5 min."), &format!("{TEXT} Wait 50 min.")));
        assert!(!same(TEXT, &TEXT.replace("pg_stat_activity", "pg_locks")));
        assert!(!same("Set it to on.", "Set it to off."));
        index.remove(print(TEXT), 7);
        assert!(index.candidates(print(&near)).is_empty());
    }

    #[test]
    fn chinese_copies_are_found_too() {
        let zh = "长事务会阻止清理死元组，导致表膨胀。请先在会话视图中找到最老的事务，联系负责人，\
            确认之后终止它，然后清理受影响的表并观察一天。如果膨胀已经很严重，需要在业务低峰期重建表和索引，并提前准备好足够的磁盘空间，同时限制会话空闲的时间，避免再次发生。";
        let near = zh.replace("联系负责人", "通知负责人");
        let mut index = Near::default();
        index.add(print(zh), 1);
        assert!(same(zh, &near) && index.candidates(print(&near)) == [1]);
        assert_eq!(from_bytes(&to_bytes(print(zh))), print(zh));
        assert!(!same(zh, "完全不同的内容，讲的是检查点与预写日志。"));
    }
}
