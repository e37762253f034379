//! Near-duplicates: fingerprints find the candidates, the texts decide.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::document::is_han;

/// Share of word pairs that two texts must have in common to be one.
const SAME: f64 = 0.9;
/// Bits in which fingerprints of near-duplicates may differ: one of eight bytes is then the same.
const MOST_BITS: u32 = 7;
/// A text with fewer word pairs is a duplicate only of its like.
const FEWEST: usize = 8;

/// Fingerprint of a text (SimHash of its word pairs): similar texts differ in few bits.
pub fn print(text: &str) -> u64 {
    let mut votes = [0i64; 64];
    for pair in pairs(text) {
        let hash = mix(pair);
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if hash >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    votes.iter().enumerate().fold(0, |print, (bit, vote)| print | u64::from(*vote > 0) << bit)
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

/// Fingerprints by each of their bytes.
#[derive(Default)]
pub struct Near {
    bands: HashMap<(u8, u8), Vec<(u64, i64)>>,
}

impl Near {
    /// Adds the fingerprint of a row.
    pub fn add(&mut self, print: u64, row: i64) {
        for (band, byte) in (0u8..).zip(print.to_le_bytes()) {
            self.bands.entry((band, byte)).or_default().push((print, row));
        }
    }

    /// Takes a row out.
    pub fn remove(&mut self, print: u64, row: i64) {
        for (band, byte) in (0u8..).zip(print.to_le_bytes()) {
            if let Some(rows) = self.bands.get_mut(&(band, byte)) {
                rows.retain(|(_, other)| *other != row);
            }
        }
    }

    /// Rows whose fingerprint is near, the nearest first, then the oldest.
    pub fn candidates(&self, print: u64) -> Vec<i64> {
        let mut found: HashSet<(u32, i64)> = HashSet::new();
        for key in (0u8..).zip(print.to_le_bytes()) {
            let near = |(other, row): &(u64, i64)| {
                let bits = (other ^ print).count_ones();
                (bits <= MOST_BITS).then_some((bits, *row))
            };
            found.extend(self.bands.get(&key).into_iter().flatten().filter_map(near));
        }
        let mut found: Vec<(u32, i64)> = found.into_iter().collect();
        found.sort_unstable();
        found.truncate(20);
        found.into_iter().map(|(_, row)| row).collect()
    }
}

/// Pairs of neighbouring words, as hashes.
fn pairs(text: &str) -> HashSet<u64> {
    let hashes: Vec<u64> = words(text).map(|word| word.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3))).collect();
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
        let zh = "长事务会阻止清理死元组，导致表膨胀。请先在会话视图中找到最老的事务，联系负责人，确认之后终止它，然后清理受影响的表并观察一天。".repeat(2);
        let near = zh.replace("联系负责人", "通知负责人");
        assert!(same(&zh, &near) && (print(&zh) ^ print(&near)).count_ones() <= MOST_BITS);
        assert!(!same(&zh, "完全不同的内容，讲的是检查点与预写日志。"));
    }
}
