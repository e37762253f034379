//! From bytes to a header. Every count is held against the bytes that are left before anything is reserved for it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom};

use super::{Header, Tensor, Value};

/// Most metadata entries and tensors that a real file has, with room.
const MOST_ENTRIES: u64 = 1 << 16;
/// Longest key or tensor name in bytes; ggml cuts tensor names at 64.
const LONGEST_NAME: u64 = 1 << 12;
/// Longest text that is kept whole.
const LONGEST_TEXT: u64 = 1 << 20;
/// Most numbers of a list; vocabularies stay below a million.
const MOST_NUMBERS: u64 = 1 << 22;
/// Most bytes of all values together that are kept.
const MOST_KEPT: u64 = 64 << 20;

/// GGUF's numbers of metadata types.
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const I32: u32 = 5;
pub const U32: u32 = 4;
pub const F32: u32 = 6;

/// Reads a header of a file with `size` bytes.
///
/// # Errors
/// The first thing that is wrong.
pub fn header(input: impl Read + Seek, size: u64) -> io::Result<Header> {
    Reader { input, size, at: 0, kept: 0 }.header()
}

struct Reader<R> {
    input: R,
    size: u64,
    at: u64,
    /// Bytes of values so far.
    kept: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn header(mut self) -> io::Result<Header> {
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
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.name()?;
            let value = self.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(bad(format!("{} is there twice", shown(&key))));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(n, U32)) => u64::try_from(*n).unwrap_or(0),
            Some(_) => 0,
        };
        if !alignment.is_power_of_two() || !(8..=1 << 16).contains(&alignment) {
            return Err(bad(format!("alignment {alignment} makes no sense")));
        }
        let tensors = (0..tensors).map(|_| self.tensor()).collect::<io::Result<Vec<_>>>()?;
        let data = self.at.div_ceil(alignment).saturating_mul(alignment);
        Ok(Header { metadata, tensors, alignment, data, size: self.size })
    }

    fn value(&mut self, key: &str) -> io::Result<Value> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => Value::Integer(self.bytes::<1>().map(u8::from_le_bytes)?.into(), kind),
            1 => Value::Integer(self.bytes().map(i8::from_le_bytes)?.into(), kind),
            2 => Value::Integer(self.bytes().map(u16::from_le_bytes)?.into(), kind),
            3 => Value::Integer(self.bytes().map(i16::from_le_bytes)?.into(), kind),
            U32 => Value::Integer(self.u32()?.into(), kind),
            I32 => Value::Integer(self.bytes().map(i32::from_le_bytes)?.into(), kind),
            F32 => Value::Float(self.bytes().map(f32::from_le_bytes)?.into(), kind),
            7 => match self.bytes::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(bad(format!("{} is {other}, neither true nor false", shown(key)))),
            },
            STRING => Value::Text(self.text(key)?),
            ARRAY => self.array(key)?,
            10 => Value::Integer(self.u64()?.into(), kind),
            11 => Value::Integer(self.bytes().map(i64::from_le_bytes)?.into(), kind),
            12 => Value::Float(self.bytes().map(f64::from_le_bytes)?, kind),
            _ => return Err(bad(format!("{} is of unknown type {kind}", shown(key)))),
        })
    }

    fn text(&mut self, key: &str) -> io::Result<String> {
        let length = self.u64()?;
        if length > LONGEST_TEXT {
            return Err(bad(format!("{} has {length} bytes", shown(key))));
        }
        self.keep(length)?;
        Ok(String::from_utf8_lossy(&self.raw(length)?).into_owned())
    }

    fn array(&mut self, key: &str) -> io::Result<Value> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if count > MOST_NUMBERS {
            return Err(bad(format!("{} lists {count} values", shown(key))));
        }
        if kind == STRING {
            return self.strings(count);
        }
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            U32 | I32 | F32 => 4,
            10..=12 => 8,
            ARRAY => return Err(bad(format!("{} nests lists", shown(key)))),
            _ => return Err(bad(format!("{} lists values of unknown type {kind}", shown(key)))),
        };
        self.keep(count * 8)?;
        let raw = self.raw(count * width)?;
        Ok(Value::Numbers(raw.chunks_exact(usize::try_from(width).unwrap_or(1)).map(|bytes| number(kind, bytes)).collect(), kind))
    }

    fn strings(&mut self, count: u64) -> io::Result<Value> {
        // Eight bytes for each length at least, so the count is bounded before the loop.
        self.fits(count.saturating_mul(8))?;
        // Vocabularies have hundreds of thousands: one buffer for all, and their hashes sorted once.
        let (mut hashes, mut buffer) = (Vec::new(), Vec::new());
        let (mut longest, mut full) = (0, true);
        for _ in 0..count {
            let length = self.u64()?;
            if length > LONGEST_TEXT {
                return Err(bad(format!("a text of a list has {length} bytes")));
            }
            self.fits(length)?;
            buffer.resize(usize::try_from(length).map_err(|_| bad("a value is too long"))?, 0);
            self.input.read_exact(&mut buffer)?;
            self.at += length;
            // llama.cpp reads each up to its first NUL, and gives empty ones names of their own.
            let text = buffer.split(|b| *b == 0).next().unwrap_or_default();
            if !text.is_empty() {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                hashes.push(hasher.finish());
            }
            longest = longest.max(length);
            full &= length > 0;
        }
        hashes.sort_unstable();
        // Compared by hash: two that only share it would refuse a sound file once in many billions.
        let twins = hashes.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
        Ok(Value::Strings { count, twins, longest, full })
    }

    fn tensor(&mut self) -> io::Result<Tensor> {
        let name = self.name()?;
        let refuse = |why: String| bad(format!("tensor {} {why}", shown(&name)));
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > 4 {
            return Err(refuse(format!("has {dimensions} dimensions")));
        }
        let dims = (0..dimensions).map(|_| self.u64()).collect::<io::Result<Vec<_>>>()?;
        let elements = dims.iter().try_fold(1_u64, |all, n| all.checked_mul(*n)).filter(|n| *n > 0 && *n < 1 << 48);
        let elements = elements.ok_or_else(|| refuse("has no size that makes sense".to_owned()))?;
        let (kind, offset) = (self.u32()?, self.u64()?);
        let block = block(kind).ok_or_else(|| refuse(format!("is of unknown type {kind}")))?;
        if dims.first().is_none_or(|row| row % block.weights != 0) {
            return Err(refuse(format!("has rows that are no multiple of {}", block.weights)));
        }
        Ok(Tensor { name, dims, kind, offset, bytes: elements / block.weights * block.bytes })
    }

    fn name(&mut self) -> io::Result<String> {
        let length = self.u64()?;
        if length == 0 || length > LONGEST_NAME {
            return Err(bad(format!("a name has {length} bytes")));
        }
        self.keep(length)?;
        let bytes = self.raw(length)?;
        match String::from_utf8(bytes) {
            Ok(name) if !name.contains('\0') => Ok(name),
            _ => Err(bad("a name is no text")),
        }
    }

    fn raw(&mut self, length: u64) -> io::Result<Vec<u8>> {
        self.fits(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| bad("a value is too long"))?];
        self.input.read_exact(&mut bytes)?;
        self.at += length;
        Ok(bytes)
    }

    fn keep(&mut self, bytes: u64) -> io::Result<()> {
        self.kept += bytes;
        if self.kept <= MOST_KEPT { Ok(()) } else { Err(bad("its values are too large together")) }
    }

    fn fits(&mut self, length: u64) -> io::Result<()> {
        if self.at.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        // Leaves the file where it is: nothing is read after this.
        self.input.seek(SeekFrom::Start(0))?;
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

/// One element of a list; `bytes` has the width of `kind`.
fn number(kind: u32, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    let unsigned = u64::from_le_bytes(wide);
    let [a, b, c, d, ..] = wide;
    match kind {
        1 => f64::from(i8::from_le_bytes([a])),
        3 => f64::from(i16::from_le_bytes([a, b])),
        I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
        F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
        11 => i64::from_le_bytes(wide) as f64,
        12 => f64::from_le_bytes(wide),
        _ => unsigned as f64,
    }
}

/// Part of a name that may stand in a message.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// How a tensor type packs its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub name: &'static str,
    /// Weights in a block.
    pub weights: u64,
    /// Bytes of a block.
    pub bytes: u64,
}

/// The packing of a tensor type, by GGUF's number; none for a type that llama.cpp does not know.
pub fn block(kind: u32) -> Option<Block> {
    let (name, weights, bytes) = match kind {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        9 => ("Q8_1", 32, 36),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        16 => ("IQ2_XXS", 256, 66),
        17 => ("IQ2_XS", 256, 74),
        18 => ("IQ3_XXS", 256, 98),
        19 => ("IQ1_S", 256, 50),
        20 => ("IQ4_NL", 32, 18),
        21 => ("IQ3_S", 256, 110),
        22 => ("IQ2_S", 256, 82),
        23 => ("IQ4_XS", 256, 136),
        24 => ("I8", 1, 1),
        25 => ("I16", 1, 2),
        26 => ("I32", 1, 4),
        27 => ("I64", 1, 8),
        28 => ("F64", 1, 8),
        29 => ("IQ1_M", 256, 56),
        30 => ("BF16", 1, 2),
        34 => ("TQ1_0", 256, 54),
        35 => ("TQ2_0", 256, 66),
        39 => ("MXFP4", 32, 17),
        40 => ("NVFP4", 64, 36),
        _ => return None,
    };
    Some(Block { name, weights, bytes })
}
