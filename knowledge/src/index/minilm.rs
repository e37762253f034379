//! The sentence transformer all-MiniLM-L6-v2, read from its safetensors file and run on the CPU.
//!
//! It is run to distil static vectors from it (see `distil.rs`) and to measure what they lose; searches do not run it.

use std::collections::HashMap;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use serde::Deserialize;

use super::error::{IndexError, Kind};

/// Components of an embedding.
pub const DIMS: usize = 384;
const LAYERS: usize = 6;
const HEADS: usize = 12;
const WIDE: usize = 1536;
/// Longest input it was trained on, in tokens.
pub const MOST_TOKENS: usize = 256;
/// Largest file read, bytes.
const MOST_FILE: u64 = 512 << 20;
const EPSILON: f32 = 1e-12;

struct Dense {
    /// Transposed: inputs by outputs.
    weight: Array2<f32>,
    bias: Array1<f32>,
}

struct Norm {
    weight: Array1<f32>,
    bias: Array1<f32>,
}

struct Layer {
    query: Dense,
    key: Dense,
    value: Dense,
    out: Dense,
    norm_attention: Norm,
    up: Dense,
    down: Dense,
    norm_out: Norm,
}

/// The model.
pub struct MiniLm {
    words: Array2<f32>,
    positions: Array2<f32>,
    kind: Array1<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Tensors of a safetensors file by name.
struct Tensors<'f> {
    entries: HashMap<String, Entry>,
    data: &'f [u8],
}

impl<'f> Tensors<'f> {
    fn parse(bytes: &'f [u8]) -> Result<Self, String> {
        let head: [u8; 8] = bytes.get(..8).and_then(|b| b.try_into().ok()).ok_or("it is shorter than its header")?;
        let length = usize::try_from(u64::from_le_bytes(head)).map_err(|_| "its header is too long")?;
        let header = length.checked_add(8).and_then(|end| bytes.get(8..end)).ok_or("its header is longer than the file")?;
        let all: HashMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|e| format!("its header does not parse: {e}"))?;
        let entries = all.into_iter().filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?))).collect();
        Ok(Self { entries, data: &bytes[8 + length..] })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("it has no tensor {name}"))?;
        if entry.dtype != "F32" || entry.shape != shape {
            return Err(format!("tensor {name} is {} {:?}, not F32 {shape:?}", entry.dtype, entry.shape));
        }
        let bytes = self.data.get(entry.data_offsets[0]..entry.data_offsets[1]).filter(|b| b.len() == 4 * shape.iter().product::<usize>());
        let bytes = bytes.ok_or_else(|| format!("tensor {name} is not whole"))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn row(&self, name: &str, length: usize) -> Result<Array1<f32>, String> {
        Ok(Array1::from(self.floats(name, &[length])?))
    }

    fn table(&self, name: &str, rows: usize, columns: usize) -> Result<Array2<f32>, String> {
        Array2::from_shape_vec((rows, columns), self.floats(name, &[rows, columns])?).map_err(|e| e.to_string())
    }

    fn dense(&self, name: &str, inputs: usize, outputs: usize) -> Result<Dense, String> {
        let weight = self.table(&format!("{name}.weight"), outputs, inputs)?;
        Ok(Dense { weight: weight.t().as_standard_layout().into_owned(), bias: self.row(&format!("{name}.bias"), outputs)? })
    }

    fn norm(&self, name: &str) -> Result<Norm, String> {
        Ok(Norm { weight: self.row(&format!("{name}.weight"), DIMS)?, bias: self.row(&format!("{name}.bias"), DIMS)? })
    }
}

impl MiniLm {
    /// Reads the weights.
    ///
    /// # Errors
    /// The file cannot be read, or is not this model.
    pub fn load(path: &Path) -> Result<Self, IndexError> {
        let fail = |kind: Kind, why: &dyn std::fmt::Display| IndexError::new(kind, path, why);
        let size = std::fs::metadata(path).map_err(|e| fail(Kind::Io, &e))?.len();
        if size > MOST_FILE {
            return Err(fail(Kind::Damaged, &format!("{size} bytes are too many for this model")));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(Kind::Io, &e))?;
        Self::read(&bytes).map_err(|why| fail(Kind::Damaged, &why))
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let tensors = Tensors::parse(bytes)?;
        let vocabulary = tensors.entries.get("embeddings.word_embeddings.weight").and_then(|e| e.shape.first().copied());
        let layer = |n: usize| -> Result<Layer, String> {
            let at = |part: &str| format!("encoder.layer.{n}.{part}");
            Ok(Layer {
                query: tensors.dense(&at("attention.self.query"), DIMS, DIMS)?,
                key: tensors.dense(&at("attention.self.key"), DIMS, DIMS)?,
                value: tensors.dense(&at("attention.self.value"), DIMS, DIMS)?,
                out: tensors.dense(&at("attention.output.dense"), DIMS, DIMS)?,
                norm_attention: tensors.norm(&at("attention.output.LayerNorm"))?,
                up: tensors.dense(&at("intermediate.dense"), DIMS, WIDE)?,
                down: tensors.dense(&at("output.dense"), WIDE, DIMS)?,
                norm_out: tensors.norm(&at("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            words: tensors.table("embeddings.word_embeddings.weight", vocabulary.ok_or("it has no word embeddings")?, DIMS)?,
            positions: tensors.table("embeddings.position_embeddings.weight", 512, DIMS)?,
            kind: tensors.table("embeddings.token_type_embeddings.weight", 2, DIMS)?.row(0).to_owned(),
            norm: tensors.norm("embeddings.LayerNorm")?,
            layers: (0..LAYERS).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Number of tokens it knows.
    pub fn vocabulary(&self) -> usize {
        self.words.nrows()
    }

    /// Embeddings of inputs of one length (at most [`MOST_TOKENS`] tokens, the special ones included): the mean over the
    /// tokens, of length 1. A token that it does not know counts as token 0.
    pub fn embed(&self, inputs: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let length = inputs.first().map_or(0, |i| i.len().min(MOST_TOKENS));
        if length == 0 || inputs.iter().any(|i| i.len() < length) {
            return vec![vec![0.0; DIMS]; inputs.len()];
        }
        let mut x = Array2::<f32>::zeros((inputs.len() * length, DIMS));
        for (at, mut row) in x.axis_iter_mut(Axis(0)).enumerate() {
            let id = inputs[at / length][at % length] as usize;
            let id = if id < self.words.nrows() { id } else { 0 };
            row += &self.words.row(id);
            row += &self.positions.row(at % length);
            row += &self.kind;
        }
        self.norm.apply(&mut x);
        for layer in &self.layers {
            layer.apply(&mut x, length);
        }
        x.axis_chunks_iter(Axis(0), length).map(|tokens| unit(tokens.sum_axis(Axis(0)))).collect()
    }
}

fn unit(vector: Array1<f32>) -> Vec<f32> {
    let norm = vector.dot(&vector).sqrt().max(EPSILON);
    vector.iter().map(|x| x / norm).collect()
}

impl Dense {
    fn apply(&self, x: &ArrayView2<'_, f32>) -> Array2<f32> {
        x.dot(&self.weight) + &self.bias
    }
}

impl Norm {
    fn apply(&self, x: &mut Array2<f32>) {
        for mut row in x.axis_iter_mut(Axis(0)) {
            let mean = row.sum() / DIMS as f32;
            row -= mean;
            let deviation = (row.dot(&row) / DIMS as f32 + EPSILON).sqrt();
            row.zip_mut_with(&self.weight, |value, weight| *value *= weight / deviation);
            row += &self.bias;
        }
    }
}

impl Layer {
    fn apply(&self, x: &mut Array2<f32>, length: usize) {
        let seen = self.attend(&x.view(), length);
        *x += &self.out.apply(&seen.view());
        self.norm_attention.apply(x);
        let mut wide = self.up.apply(&x.view());
        wide.mapv_inplace(gelu);
        *x += &self.down.apply(&wide.view());
        self.norm_out.apply(x);
    }

    fn attend(&self, x: &ArrayView2<'_, f32>, length: usize) -> Array2<f32> {
        let (query, key, value) = (self.query.apply(x), self.key.apply(x), self.value.apply(x));
        let size = DIMS / HEADS;
        let scale = 1.0 / (size as f32).sqrt();
        let mut out = Array2::<f32>::zeros((x.nrows(), DIMS));
        for start in (0..x.nrows()).step_by(length) {
            for head in (0..DIMS).step_by(size) {
                let part = s![start..start + length, head..head + size];
                let mut shares = query.slice(part).dot(&key.slice(part).t());
                for mut row in shares.axis_iter_mut(Axis(0)) {
                    let most = row.fold(f32::MIN, |most, x| most.max(*x));
                    row.mapv_inplace(|x| ((x - most) * scale).exp());
                    let sum = row.sum();
                    row /= sum;
                }
                out.slice_mut(part).assign(&shares.dot(&value.slice(part)));
            }
        }
        out
    }
}

/// x * P(N(0, 1) <= x), with the error function of Abramowitz and Stegun, 7.1.26 (error below 1.5e-7).
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let tail = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4)))) * (-z * z).exp();
    let erf = (1.0 - tail).copysign(x);
    0.5 * x * (1.0 + erf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_the_gaussian_one() {
        for (x, wanted) in [(0.0, 0.0), (1.0, 0.841_344_7), (-1.0, -0.158_655_3), (3.0, 2.995_950_3)] {
            assert!((gelu(x) - wanted).abs() < 1e-5, "{x}: {}", gelu(x));
        }
    }

    #[test]
    fn a_file_that_is_not_the_model_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for (bytes, why) in [
            (b"abc".to_vec(), "shorter"),
            ([u64::MAX.to_le_bytes().as_slice(), b"{}"].concat(), "header"),
            ([2u64.to_le_bytes().as_slice(), b"{}"].concat(), "no word embeddings"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = MiniLm::load(&path).err().unwrap();
            assert!(error.kind == Kind::Damaged && error.to_string().contains(why), "{error}");
        }
    }
}
