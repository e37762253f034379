//! Walks a GGUF header before llama.cpp sees the file: llama.cpp may abort on a file that lies about its own counts.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::LlmError;

/// Most metadata entries and tensors that a real file has, with room.
const MOST_ENTRIES: u64 = 1 << 16;
/// Longest key or tensor name in bytes.
const LONGEST_NAME: u64 = 1 << 12;

/// Checks that the header is well-formed and that every tensor starts inside the file.
///
/// # Errors
/// [`LlmError::Unavailable`] with the first thing that is wrong.
pub fn check(path: &Path) -> Result<(), LlmError> {
    let refuse = |why: &str| LlmError::Unavailable(format!("{} is not a usable GGUF file: {why}", path.display()));
    let file = File::open(path).map_err(|e| refuse(&e.to_string()))?;
    let meta = file.metadata().map_err(|e| refuse(&e.to_string()))?;
    if !meta.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    Header { input: BufReader::new(file), size: meta.len(), at: 0, alignment: 32 }.walk().map_err(|e| refuse(&e.to_string()))
}

struct Header<R> {
    input: R,
    size: u64,
    at: u64,
    alignment: u64,
}

impl<R: Read + Seek> Header<R> {
    fn walk(mut self) -> io::Result<()> {
        if &self.bytes::<4>()? != b"GGUF" {
            return Err(bad("the magic number is missing"));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(bad(format!("version {version} is not supported")));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors == 0 || tensors > MOST_ENTRIES || entries > MOST_ENTRIES {
            return Err(bad(format!("it claims {tensors} tensors and {entries} metadata entries")));
        }
        for _ in 0..entries {
            self.entry()?;
        }
        let mut end = 0;
        for _ in 0..tensors {
            end = end.max(self.tensor()?);
        }
        let data = self.at.div_ceil(self.alignment).saturating_mul(self.alignment);
        if data.saturating_add(end) > self.size {
            return Err(bad("it is cut short: tensors lie behind its end"));
        }
        Ok(())
    }

    fn entry(&mut self) -> io::Result<()> {
        let key = self.name()?;
        let kind = self.u32()?;
        if key == b"general.alignment" && kind == 4 {
            let alignment = u64::from(self.u32()?);
            if !alignment.is_power_of_two() || alignment > 1 << 16 {
                return Err(bad(format!("alignment {alignment} makes no sense")));
            }
            self.alignment = alignment;
            return Ok(());
        }
        self.value(kind)
    }

    fn value(&mut self, kind: u32) -> io::Result<()> {
        match kind {
            8 => self.string(),
            9 => self.array(),
            _ => self.skip(width(kind)?),
        }
    }

    fn array(&mut self) -> io::Result<()> {
        let (kind, count) = (self.u32()?, self.u64()?);
        match kind {
            9 => Err(bad("it nests arrays")),
            8 => {
                // Eight bytes for each length at least, so the count is bounded before the loop.
                self.fits(count.saturating_mul(8))?;
                (0..count).try_for_each(|_| self.string())
            }
            _ => self.skip(count.saturating_mul(width(kind)?)),
        }
    }

    /// Returns where the tensor's data ends, counted from the start of the data.
    fn tensor(&mut self) -> io::Result<u64> {
        self.name()?;
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > 4 {
            return Err(bad(format!("a tensor has {dimensions} dimensions")));
        }
        let mut elements = 1_u64;
        for _ in 0..dimensions {
            let length = self.u64()?;
            elements = elements.checked_mul(length).filter(|n| *n > 0).ok_or_else(|| bad("a tensor's size overflows"))?;
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let bytes = match block(kind) {
            Some((per_block, bytes)) => (elements / per_block).saturating_mul(bytes),
            // A kind that this table does not know is left to llama.cpp.
            None => 1,
        };
        Ok(offset.saturating_add(bytes))
    }

    fn name(&mut self) -> io::Result<Vec<u8>> {
        let length = self.u64()?;
        if length > LONGEST_NAME {
            return Err(bad(format!("a name has {length} bytes")));
        }
        self.fits(length)?;
        let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
        self.input.read_exact(&mut name)?;
        self.at += length;
        Ok(name)
    }

    fn string(&mut self) -> io::Result<()> {
        let length = self.u64()?;
        self.skip(length)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.fits(length)?;
        if length < 4_096 {
            // Reading keeps the buffer; seeking would drop it.
            io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        } else {
            self.input.seek(SeekFrom::Start(self.at + length))?;
        }
        self.at += length;
        Ok(())
    }

    fn fits(&self, length: u64) -> io::Result<()> {
        if self.at.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(bad("it is cut short: the header runs behind its end"))
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.fits(N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Bytes of a plain metadata value.
fn width(kind: u32) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(bad(format!("metadata of unknown type {kind}"))),
    }
}

/// Weights in a block and bytes of a block, by tensor type (the GGUF specification's table).
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A file with one metadata entry and one tensor of 32 floats.
    fn small() -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        let (key, value) = ("general.name", "x");
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(key.as_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend((value.len() as u64).to_le_bytes());
        file.extend(value.as_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(b"w");
        file.extend(1_u32.to_le_bytes());
        file.extend(32_u64.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        file.resize(file.len().div_ceil(32) * 32 + 128, 0);
        file
    }

    fn verdict(bytes: &[u8]) -> Result<(), LlmError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, bytes).unwrap();
        check(&path)
    }

    #[test]
    fn a_whole_file_passes_and_every_truncation_is_refused() {
        let whole = small();
        verdict(&whole).unwrap();
        for end in 0..whole.len() {
            assert!(verdict(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn absurd_counts_and_lengths_are_refused() {
        for (at, value) in [(8, u64::MAX), (16, u64::MAX), (16, 1 << 40), (24, u64::MAX), (24, 1 << 50)] {
            let mut file = small();
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            assert!(verdict(&file).is_err(), "{value} at {at}");
        }
        assert!(verdict(b"MZ not a model at all").unwrap_err().to_string().contains("magic"));
    }

    proptest::proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0_usize..120, value: u8) {
            let mut file = small();
            let at = at % file.len();
            file[at] = value;
            let _ = verdict(&file);
        }
    }
}
