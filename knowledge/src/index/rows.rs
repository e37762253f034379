//! The rows of an index: the id of every chunk and its embedding, in one file beside tantivy's.
//!
//! A file is written whole under a new name and never changed; the commit of the index names the one that belongs to it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::error::{IndexError, Kind};
use super::vectors::{Small, Vectors};

const MAGIC: &[u8; 8] = b"GALENRW1";
/// Largest file read, bytes.
const MOST_FILE: u64 = 4 << 30;

/// Ids and vectors by row, and the number that tantivy's documents know each row by.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Number of each row, ascending.
    numbers: Vec<u64>,
    ids: Vec<Box<str>>,
    vectors: Vectors,
}

impl Rows {
    /// No rows, with vectors of so many components (0 for none).
    pub fn new(dims: usize) -> Self {
        Self { vectors: Vectors::new(dims), ..Self::default() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The vectors.
    pub fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// Id of the chunk in a row.
    pub fn id(&self, row: usize) -> &str {
        &self.ids[row]
    }

    /// All ids in order of row.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(AsRef::as_ref)
    }

    /// The row of a number.
    pub fn row_of(&self, number: u64) -> Option<usize> {
        self.numbers.binary_search(&number).ok()
    }

    /// Appends a row and returns its number.
    pub fn push(&mut self, id: &str, vector: Option<Small>) -> u64 {
        let number = self.numbers.last().map_or(0, |n| n + 1);
        self.numbers.push(number);
        self.ids.push(id.into());
        self.vectors.push(vector);
        number
    }

    /// The rows whose ids are not among `gone`.
    pub fn without(&self, gone: &std::collections::HashSet<&str>) -> Self {
        let mut kept = Self::new(self.vectors.dims());
        for row in (0..self.len()).filter(|row| !gone.contains(self.id(*row))) {
            let (values, scale) = self.vectors.row(row);
            kept.numbers.push(self.numbers[row]);
            kept.ids.push(self.ids[row].clone());
            kept.vectors.push(Some(Small { values: values.to_vec(), scale }));
        }
        kept
    }

    /// Writes a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<(), IndexError> {
        let dims = self.vectors.dims();
        let mut bytes = Vec::with_capacity(24 + self.len() * (dims + 32));
        bytes.extend(MAGIC);
        bytes.extend((dims as u32).to_le_bytes());
        bytes.extend((self.len() as u32).to_le_bytes());
        for row in 0..self.len() {
            let id = self.id(row);
            let (values, scale) = self.vectors.row(row);
            bytes.extend(self.numbers[row].to_le_bytes());
            bytes.extend((id.len().min(usize::from(u16::MAX)) as u16).to_le_bytes());
            bytes.extend(id.as_bytes().iter().take(usize::from(u16::MAX)));
            bytes.extend(scale.to_le_bytes());
            bytes.extend(values.iter().map(|v| v.to_le_bytes()[0]));
        }
        bytes.extend(checksum(&bytes).to_le_bytes());
        write_whole(path, &bytes)
    }

    /// Reads a file that [`Self::save`] wrote.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn load(path: &Path) -> Result<Self, IndexError> {
        let io = |e: std::io::Error| IndexError::new(Kind::Io, path, &e);
        if std::fs::metadata(path).map_err(io)?.len() > MOST_FILE {
            return Err(IndexError::new(Kind::Damaged, path, &"it is too large"));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::parse(&bytes).ok_or_else(|| IndexError::new(Kind::Damaged, path, &"it is damaged"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        if checksum(body).to_le_bytes() != *sum {
            return None;
        }
        let mut at = Cursor::new(body);
        if at.take(8)? != MAGIC {
            return None;
        }
        let (dims, count) = (at.u32()? as usize, at.u32()? as usize);
        let mut rows = Self::new(dims);
        for _ in 0..count {
            rows.numbers.push(at.u64()?);
            let length = usize::from(at.u16()?);
            rows.ids.push(std::str::from_utf8(at.take(length)?).ok()?.into());
            let scale = at.f32()?;
            rows.vectors.push(Some(Small { scale, values: at.take(dims)?.iter().map(|b| i8::from_le_bytes([*b])).collect() }));
        }
        at.done().then_some(rows)
    }
}

/// Reads little-endian values from bytes; nothing past the end.
pub(super) struct Cursor<'b> {
    rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    pub(super) fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn f32(&mut self) -> Option<f32> {
        Some(f32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn done(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes a file under another name, to the disk, and moves it into place.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), IndexError> {
    let fail = |e: std::io::Error| IndexError::new(Kind::Io, path, &e);
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside))).map_err(fail)
}

/// A sum that any changed byte changes: eight bytes at a time, multiplied and rotated.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15u64 ^ bytes.len() as u64;
    for part in bytes.chunks(8) {
        let mut word = [0u8; 8];
        word[..part.len()].copy_from_slice(part);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_file_and_damage_is_seen() {
        let mut rows = Rows::new(2);
        rows.push("a", Small::of(&[1.0, 0.5]));
        let number = rows.push("b", None);
        rows.push("c", Small::of(&[0.0, 1.0]));
        let rows = rows.without(&std::collections::HashSet::from(["a"]));
        assert_eq!(rows.row_of(number), Some(0));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        rows.save(&path).unwrap();
        let read = Rows::load(&path).unwrap();
        assert_eq!(read.ids().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(read.vectors().row(1), rows.vectors().row(1));
        let good = std::fs::read(&path).unwrap();
        for at in [0, 9, 20, good.len() - 9] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(Rows::load(&path).unwrap_err().kind, Kind::Damaged, "byte {at}");
        }
    }
}
