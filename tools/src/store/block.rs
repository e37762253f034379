//! Compressed blocks of numbers (pco), with a decoder that trusts neither the count nor the bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pco::ChunkConfig;
use pco::data_types::Number;
use pco::standalone::{simple_compress, simple_decompress_into};

use super::error::StoreError;

/// Compresses numbers; the same numbers give the same bytes.
pub(super) fn pack<T: Number>(numbers: &[T]) -> Result<Vec<u8>, StoreError> {
    simple_compress(numbers, &ChunkConfig::default())
        .map_err(|error| StoreError::damaged(format!("cannot compress a block of {} numbers: {error}", numbers.len())))
}

/// Decompresses exactly `n` numbers; the caller has checked that `n` fits in memory.
pub(super) fn unpack<T: Number + Default>(block: &[u8], n: usize) -> Result<Vec<T>, StoreError> {
    let mut numbers = vec![T::default(); n];
    // The library checks its input, but a panic on some forged block must not take the process down.
    let progress = catch_unwind(AssertUnwindSafe(|| simple_decompress_into(block, &mut numbers)))
        .map_err(|_| StoreError::damaged("a block of numbers is forged"))?
        .map_err(|error| StoreError::damaged(format!("a block of numbers is damaged: {}", error.message)))?;
    if progress.n_processed != n || !progress.finished {
        return Err(StoreError::damaged(format!("a block of numbers does not hold the {n} it claims")));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_exactly() {
        let values: Vec<f64> = (0..3000).map(|i| (f64::from(i) * 0.1).sin() / 3.0).collect();
        assert_eq!(unpack::<f64>(&pack(&values).unwrap(), 3000).unwrap(), values);
        assert_eq!(unpack::<i64>(&pack::<i64>(&[]).unwrap(), 0).unwrap(), Vec::<i64>::new());
        let edge = [i64::MIN, -1, 0, i64::MAX];
        assert_eq!(unpack::<i64>(&pack(&edge).unwrap(), 4).unwrap(), edge);
    }

    #[test]
    fn a_block_that_holds_more_or_fewer_than_claimed_is_refused() {
        let block = pack(&[1.0, 2.0, 3.0]).unwrap();
        for n in [0, 2, 4, 300, 5000] {
            assert!(unpack::<f64>(&block, n).is_err(), "claimed {n}");
        }
        assert!(unpack::<i64>(&block, 3).is_err(), "floats are not integers");
    }
}
