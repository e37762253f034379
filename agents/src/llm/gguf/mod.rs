//! Reads a GGUF header and checks it before llama.cpp sees the file: llama.cpp asserts much of what a header says and
//! ends the process where it lies.

mod read;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::LlmError;

/// What a header says.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the order of the file.
    pub tensors: Vec<Tensor>,
    /// Bytes to which tensors are aligned.
    pub alignment: u64,
    /// Where the tensors' data begins.
    pub data: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer, whatever its width, by the GGUF type it has.
    Integer(i128, u32),
    /// A float, by the GGUF type it has.
    Float(f64, u32),
    /// A truth value.
    Bool(bool),
    /// A string; of a long one that is no chat template, the beginning.
    Text(String),
    /// Numbers, with the GGUF type of the elements.
    Numbers(Vec<f64>, u32),
    /// Strings: how many there are, whether two are the same, and the longest in bytes.
    Strings {
        /// How many.
        count: u64,
        /// Whether two of them are the same.
        twins: bool,
        /// Bytes of the longest.
        longest: u64,
        /// Whether all have a length.
        full: bool,
    },
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements in each dimension, the fastest first.
    pub dims: Vec<u64>,
    /// Type, by GGUF's number.
    pub kind: u32,
    /// Where the data begins, from the start of all data.
    pub offset: u64,
    /// Bytes of the data.
    pub bytes: u64,
}

/// Checks that a file is one that llama.cpp may be shown.
///
/// # Errors
/// [`LlmError::Unavailable`] with the first thing that is wrong.
pub fn check(path: &Path) -> Result<(), LlmError> {
    read(path).map(|_| ())
}

/// Reads the header of a file and checks it.
///
/// # Errors
/// As [`check`].
pub fn read(path: &Path) -> Result<Header, LlmError> {
    held_to(path, rules::check)
}

/// Checks that a file is an adapter that llama.cpp may be shown beside a model of this architecture.
///
/// # Errors
/// As [`check`].
pub fn check_adapter(path: &Path, architecture: &str) -> Result<(), LlmError> {
    held_to(path, |header| rules::adapter(header, architecture)).map(drop)
}

fn held_to(path: &Path, rules: impl FnOnce(&Header) -> Result<(), String>) -> Result<Header, LlmError> {
    let refuse = |why: &str| LlmError::Unavailable(format!("{} is not a usable GGUF file: {why}", path.display()));
    let file = File::open(path).map_err(|e| refuse(&e.to_string()))?;
    let meta = file.metadata().map_err(|e| refuse(&e.to_string()))?;
    if !meta.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    let header = read::header(BufReader::new(file), meta.len()).map_err(|e| refuse(&e.to_string()))?;
    rules(&header).map_err(|why| refuse(&why))?;
    Ok(header)
}

impl Header {
    /// A string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Integer(n, _) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The architecture, such as `llama`.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// What the header says of `key` under the architecture's name.
    pub fn architecture_value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture()))
    }

    /// A whole number under the architecture's name; of a list with one value for each layer, the largest.
    pub fn architecture_number(&self, key: &str) -> Option<u64> {
        match self.architecture_value(key)? {
            Value::Integer(n, _) => u64::try_from(*n).ok(),
            Value::Numbers(numbers, _) => numbers.iter().copied().max_by(f64::total_cmp).filter(|n| *n >= 0.0).map(|n| n as u64),
            _ => None,
        }
    }

    /// Weights in the file.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(Tensor::elements).fold(0, u64::saturating_add)
    }

    /// The type that most weights have.
    pub fn quantisation(&self) -> String {
        let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
        for tensor in &self.tensors {
            *weights.entry(tensor.kind).or_default() += tensor.elements();
        }
        let most = weights.into_iter().max_by_key(|(_, n)| *n).map_or(0, |(kind, _)| kind);
        read::block(most).map_or("unknown", |block| block.name).to_owned()
    }
}

impl Tensor {
    /// Weights in it.
    pub fn elements(&self) -> u64 {
        self.dims.iter().copied().fold(1, u64::saturating_mul)
    }

    /// The layer it belongs to, by its name.
    pub fn layer(&self) -> Option<u64> {
        self.name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
    }
}
