//! How one field of a sample becomes one SQLite value and back, with limits on what a stranger's file may claim.

use std::collections::BTreeMap;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{StoreError, StoreErrorKind};
use crate::model::UnixMs;

/// Last millisecond of the year 9999: nothing that is sampled lies beyond it, and sums of such times cannot overflow.
const LAST_TIME: i64 = 253_402_300_799_999;
/// Ages and lags beyond this (and beyond what a double holds exactly) are forged.
const LARGEST_AGE: i64 = 1 << 53;

/// Bytes of memory that one byte of JSON can become (`0,` in a list of values).
const JSON_GROWTH: u64 = 16;

/// What a reader may still take out of a file.
///
/// In an honest file every byte is stored once, so the content can never be larger than the file; forged page links
/// could otherwise repeat it without end. And what is decoded must fit in memory, however small it was packed.
#[derive(Debug)]
pub(super) struct Budget {
    content: u64,
    memory: u64,
}

impl Budget {
    pub(super) fn new(content: usize, memory: u64) -> Self {
        Budget { content: content as u64, memory }
    }

    /// Counts bytes read from the file that are kept in memory as they are.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.content = self
            .content
            .checked_sub(bytes as u64)
            .ok_or_else(|| StoreError::damaged("its tables claim more content than the file holds"))?;
        self.hold(bytes as u64)
    }

    /// Counts bytes of memory beyond those read.
    pub(super) fn hold(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.memory = self
            .memory
            .checked_sub(bytes)
            .ok_or_else(|| StoreError::new(StoreErrorKind::TooLarge, "what it claims to hold is above the limit"))?;
        Ok(())
    }
}

/// A field that one SQLite value holds.
pub(super) trait Cell: Sized {
    /// The value to store; refused when it could not be read back.
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError>;
    /// The field out of a stored value.
    fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError>;
}

/// Refuses times before year -9999 or after 9999.
pub(super) fn check_time(at: UnixMs) -> Result<(), StoreError> {
    if (-LAST_TIME..=LAST_TIME).contains(&at) {
        return Ok(());
    }
    Err(StoreError::damaged(format!("the time {at} ms is absurd")))
}

/// Borrows a text, counting it against the budget.
pub(super) fn text<'v>(value: ValueRef<'v>, budget: &mut Budget) -> Result<&'v str, StoreError> {
    let ValueRef::Text(bytes) = value else {
        return Err(unexpected("text", value));
    };
    budget.spend(bytes.len())?;
    std::str::from_utf8(bytes).map_err(|_| StoreError::damaged("a text is not valid UTF-8"))
}

/// Borrows a blob, counting it against the budget.
pub(super) fn blob<'v>(value: ValueRef<'v>, budget: &mut Budget) -> Result<&'v [u8], StoreError> {
    let ValueRef::Blob(bytes) = value else {
        return Err(unexpected("bytes", value));
    };
    budget.spend(bytes.len())?;
    Ok(bytes)
}

fn unexpected(wanted: &str, value: ValueRef<'_>) -> StoreError {
    StoreError::damaged(format!("a column holds {} where {wanted} belongs", value.data_type()))
}

impl Cell for i64 {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        Ok((*self).into())
    }
    fn load(value: ValueRef<'_>, _: &mut Budget) -> Result<Self, StoreError> {
        match value {
            ValueRef::Integer(n) => Ok(n),
            _ => Err(unexpected("an integer", value)),
        }
    }
}

impl Cell for i32 {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        Ok((*self).into())
    }
    fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
        let wide = i64::load(value, budget)?;
        Self::try_from(wide).map_err(|_| StoreError::damaged(format!("the number {wide} is absurd")))
    }
}

impl Cell for u64 {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        let narrow = i64::try_from(*self).map_err(|_| StoreError::damaged(format!("the count {self} is absurd")))?;
        Ok(narrow.into())
    }
    fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
        let wide = i64::load(value, budget)?;
        Self::try_from(wide).map_err(|_| StoreError::damaged(format!("the count {wide} is absurd")))
    }
}

impl Cell for bool {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        Ok((*self).into())
    }
    fn load(value: ValueRef<'_>, _: &mut Budget) -> Result<Self, StoreError> {
        match value {
            ValueRef::Integer(n @ 0..=1) => Ok(n == 1),
            _ => Err(unexpected("0 or 1", value)),
        }
    }
}

impl Cell for f64 {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        if self.is_finite() {
            return Ok((*self).into());
        }
        Err(StoreError::damaged("a value is not a finite number"))
    }
    fn load(value: ValueRef<'_>, _: &mut Budget) -> Result<Self, StoreError> {
        match value {
            ValueRef::Real(x) if x.is_finite() => Ok(x),
            _ => Err(unexpected("a finite number", value)),
        }
    }
}

impl Cell for String {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        Ok(self.as_str().into())
    }
    fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
        text(value, budget).map(str::to_owned)
    }
}

impl<T: Cell + Bounded> Cell for Option<T> {
    fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
        self.as_ref().map_or(Ok(ToSqlOutput::Owned(Value::Null)), Cell::store)
    }
    fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
        if value == ValueRef::Null {
            return Ok(None);
        }
        let inner = T::load(value, budget)?;
        inner.check_bounds()?;
        Ok(Some(inner))
    }
}

/// Optional fields are ages, lags and names; an age has a bound that a query id has not.
pub(super) trait Bounded {
    fn check_bounds(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Bounded for f64 {}
impl Bounded for String {}
impl Bounded for i64 {
    fn check_bounds(&self) -> Result<(), StoreError> {
        if (-LARGEST_AGE..=LARGEST_AGE).contains(self) {
            return Ok(());
        }
        Err(StoreError::damaged(format!("the age {self} is absurd")))
    }
}

/// Lists and maps are stored as JSON text: SQLite's `json_each` reads them.
fn store_json<T: Serialize>(value: &T) -> Result<ToSqlOutput<'static>, StoreError> {
    let json = serde_json::to_string(value).map_err(|error| StoreError::damaged(format!("cannot write JSON: {error}")))?;
    Ok(json.into())
}

pub(super) fn load_json<T: DeserializeOwned>(value: ValueRef<'_>, budget: &mut Budget) -> Result<T, StoreError> {
    let json = text(value, budget)?;
    budget.hold(json.len() as u64 * JSON_GROWTH)?;
    serde_json::from_str(json).map_err(|error| StoreError::damaged(format!("a JSON column does not parse: {error}")))
}

macro_rules! json_cell {
    ($($kind:ty),*) => {$(
        impl Cell for $kind {
            fn store(&self) -> Result<ToSqlOutput<'_>, StoreError> {
                store_json(self)
            }
            fn load(value: ValueRef<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
                // By far the most common list is the empty one: skip the parser.
                if value == ValueRef::Text(b"[]") { return Ok(Self::default()) }
                load_json(value, budget)
            }
        }
    )*};
}
json_cell!(Vec<i32>, Vec<String>, BTreeMap<String, String>);
