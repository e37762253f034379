//! Static vectors distilled from a sentence transformer: one vector a token of its vocabulary.
//!
//! Each token is embedded on its own; the vectors are rotated onto their principal components and the strongest kept;
//! each is weighted by how rare its token is (a / (a + p), p after Zipf's law by the token's place in the vocabulary,
//! as smooth inverse frequency does). The embedding of a text is the sum over its tokens, which takes microseconds.

use std::path::Path;

use ndarray::{Array1, Array2, Axis, s};

use super::error::{IndexError, Kind};
use super::minilm::{DIMS, MiniLm};
use super::vectors::Small;
use super::wordpiece::Vocabulary;

/// Components kept.
pub const KEPT: usize = 256;
const MAGIC: &[u8; 8] = b"GALENSV1";
/// Largest files read, bytes.
const MOST_FILE: u64 = 256 << 20;
/// Tokens of a text that count.
const MOST_TOKENS: usize = 4096;
/// Smooth inverse frequency's constant.
const SMOOTH: f64 = 1e-4;
/// Tokens embedded together.
const BATCH: usize = 128;

/// Static vectors of a vocabulary.
#[derive(Debug, Clone)]
pub struct TokenVectors {
    vocabulary: Vocabulary,
    /// Tokens in order, as they are written.
    tokens: Vec<String>,
    vectors: Vec<Small>,
    dims: usize,
}

impl TokenVectors {
    /// Distils a model. `step` is told how many of all tokens are embedded; two threads work.
    ///
    /// # Errors
    /// A vocabulary that is not the model's.
    pub fn distil(model: &MiniLm, vocabulary: &Path, step: &(dyn Fn(usize, usize) + Sync)) -> Result<Self, IndexError> {
        let text = std::fs::read_to_string(vocabulary).map_err(|e| IndexError::new(Kind::Io, vocabulary, &e))?;
        let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
        let known = Vocabulary::new(tokens.iter().map(String::as_str));
        let (Some(first), Some(last)) = (known.id("[CLS]"), known.id("[SEP]")) else {
            return Err(IndexError::new(Kind::Damaged, vocabulary, &"it has no [CLS] and [SEP]"));
        };
        if tokens.len() != model.vocabulary() {
            let why = format!("it has {} tokens, the model {}", tokens.len(), model.vocabulary());
            return Err(IndexError::new(Kind::Damaged, vocabulary, &why));
        }
        let ids: Vec<u32> = (0u32..).take(tokens.len()).collect();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let embed = |part: &[u32]| -> Vec<Vec<f32>> {
            let mut out = Vec::with_capacity(part.len());
            for batch in part.chunks(BATCH) {
                out.extend(model.embed(&batch.iter().map(|id| vec![first, *id, last]).collect::<Vec<_>>()));
                step(done.fetch_add(batch.len(), std::sync::atomic::Ordering::Relaxed) + batch.len(), ids.len());
            }
            out
        };
        let (left, right) = ids.split_at(ids.len() / 2);
        let embedded = std::thread::scope(|scope| {
            let other = scope.spawn(|| embed(right));
            let mut all = embed(left);
            all.extend(other.join().unwrap_or_default());
            all
        });
        let flat: Vec<f32> = embedded.into_iter().flatten().collect();
        let table = Array2::from_shape_vec((tokens.len(), DIMS), flat).map_err(|e| IndexError::new(Kind::Damaged, vocabulary, &e))?;
        let special = |token: &str| token.starts_with('[') && token.ends_with(']') && token.len() > 2;
        let weight = |place: usize, token: &str| if special(token) { 0.0 } else { rarity(place, tokens.len()) };
        let vectors = strongest(table, KEPT)
            .axis_iter(Axis(0))
            .zip(&tokens)
            .enumerate()
            .map(|(place, (row, token))| {
                let row = row.to_vec();
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                let small = Small::of(&row).unwrap_or(Small { values: vec![0; KEPT], scale: 0.0 });
                Small { scale: small.scale * length * weight(place, token) as f32, ..small }
            })
            .collect();
        Ok(Self { vocabulary: known, tokens, vectors, dims: KEPT })
    }

    /// Writes the vectors; the file appears whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<(), IndexError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((self.dims as u32).to_le_bytes());
        bytes.extend((self.tokens.len() as u32).to_le_bytes());
        for (token, vector) in self.tokens.iter().zip(&self.vectors) {
            bytes.extend((token.len() as u16).to_le_bytes());
            bytes.extend(token.as_bytes());
            bytes.extend(vector.scale.to_le_bytes());
            bytes.extend(vector.values.iter().map(|v| v.to_le_bytes()[0]));
        }
        super::rows::write_whole(path, &bytes)
    }

    /// Reads vectors that [`Self::save`] wrote.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load(path: &Path) -> Result<Self, IndexError> {
        let io = |e: std::io::Error| IndexError::new(Kind::Io, path, &e);
        if std::fs::metadata(path).map_err(io)?.len() > MOST_FILE {
            return Err(IndexError::new(Kind::Damaged, path, &"it is too large"));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::parse(&bytes).ok_or_else(|| IndexError::new(Kind::Damaged, path, &"it is damaged; make it again with `make embedding`"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut at = super::rows::Cursor::new(bytes);
        if at.take(8)? != MAGIC {
            return None;
        }
        let (dims, count) = (at.u32()? as usize, at.u32()? as usize);
        if dims == 0 || dims > 4096 || count > bytes.len() {
            return None;
        }
        let mut tokens = Vec::with_capacity(count);
        let mut vectors = Vec::with_capacity(count);
        for _ in 0..count {
            let length = usize::from(at.u16()?);
            tokens.push(String::from_utf8(at.take(length)?.to_vec()).ok()?);
            let scale = at.f32()?;
            vectors.push(Small { scale, values: at.take(dims)?.iter().map(|b| i8::from_le_bytes([*b])).collect() });
        }
        let vocabulary = Vocabulary::new(tokens.iter().map(String::as_str));
        at.done().then_some(Self { vocabulary, tokens, vectors, dims })
    }

    /// Number of components.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The embedding of a text; nothing where no token of it means anything.
    pub fn embed(&self, text: &str) -> Option<Small> {
        let mut sum = vec![0f32; self.dims];
        for id in self.vocabulary.encode(text, MOST_TOKENS) {
            let Some(vector) = self.vectors.get(id as usize) else { continue };
            for (total, value) in sum.iter_mut().zip(&vector.values) {
                *total += f32::from(*value) * vector.scale;
            }
        }
        Small::of(&sum)
    }
}

/// Weight of a token by its place among `count` tokens that are ordered by frequency, as BERT's vocabularies roughly are.
fn rarity(place: usize, count: usize) -> f64 {
    let harmonic = (count as f64).ln() + 0.577_215_7;
    let p = 1.0 / ((place + 2) as f64 * harmonic);
    SMOOTH / (SMOOTH + p)
}

/// Rows on the `kept` strongest principal components of their table.
fn strongest(mut table: Array2<f32>, kept: usize) -> Array2<f32> {
    if let Some(mean) = table.mean_axis(Axis(0)) {
        table -= &mean;
    }
    let covariance = table.t().dot(&table) / table.nrows().max(1) as f32;
    let (values, axes) = eigen(covariance.mapv(f64::from));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let mut chosen = Array2::<f32>::zeros((table.ncols(), kept.min(values.len())));
    for (column, from) in order.into_iter().take(kept).enumerate() {
        chosen.slice_mut(s![.., column]).assign(&axes.column(from).mapv(|x| x as f32));
    }
    table.dot(&chosen)
}

/// Eigenvalues and eigenvectors (columns) of a symmetric matrix, by Jacobi's cyclic rotations.
fn eigen(mut a: Array2<f64>) -> (Array1<f64>, Array2<f64>) {
    let n = a.nrows();
    let mut axes = Array2::<f64>::eye(n);
    for _ in 0..30 {
        let off: f64 = a.indexed_iter().filter(|((i, j), _)| i != j).map(|(_, x)| x * x).sum();
        if off <= 1e-18 * a.diag().mapv(|x| x * x).sum().max(f64::MIN_POSITIVE) {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut axes, p, q);
            }
        }
    }
    (a.diag().to_owned(), axes)
}

fn rotate(a: &mut Array2<f64>, axes: &mut Array2<f64>, p: usize, q: usize) {
    if a[[p, q]].abs() < 1e-300 {
        return;
    }
    let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * a[[p, q]]);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let cos = 1.0 / (t * t + 1.0).sqrt();
    let sin = t * cos;
    for k in 0..a.nrows() {
        let (x, y) = (a[[k, p]], a[[k, q]]);
        (a[[k, p]], a[[k, q]]) = (cos * x - sin * y, sin * x + cos * y);
    }
    for k in 0..a.nrows() {
        let (x, y) = (a[[p, k]], a[[q, k]]);
        (a[[p, k]], a[[q, k]]) = (cos * x - sin * y, sin * x + cos * y);
        let (x, y) = (axes[[k, p]], axes[[k, q]]);
        (axes[[k, p]], axes[[k, q]]) = (cos * x - sin * y, sin * x + cos * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principal_components_come_out_strongest_first() {
        let (values, axes) = eigen(ndarray::arr2(&[[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]]));
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        for (found, wanted) in sorted.iter().zip([1.0, 3.0, 5.0]) {
            assert!((found - wanted).abs() < 1e-9, "{values}");
        }
        let product = axes.t().dot(&axes);
        assert!((product - Array2::<f64>::eye(3)).iter().all(|x| x.abs() < 1e-9));
        let table = strongest(ndarray::arr2(&[[0.0, 1.0], [0.1, -1.0], [-0.1, 3.0], [0.0, -3.0]]), 1);
        assert!((table[[2, 0]].abs() - 3.0).abs() < 0.1, "{table}");
    }

    #[test]
    fn vectors_survive_the_file_and_a_damaged_file_is_refused() {
        let small = |x: f32, y: f32| Small::of(&[x, y]).unwrap();
        let tokens = vec!["[UNK]".to_owned(), "lock".into(), "disk".into()];
        let vectors = TokenVectors {
            vocabulary: Vocabulary::new(tokens.iter().map(String::as_str)),
            tokens,
            vectors: vec![Small { values: vec![0, 0], scale: 0.0 }, small(1.0, 0.1), small(0.0, 1.0)],
            dims: 2,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.static");
        vectors.save(&path).unwrap();
        let read = TokenVectors::load(&path).unwrap();
        assert_eq!(read.embed("a lock"), vectors.embed("lock"));
        assert_eq!(read.embed("nothing known"), None);
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 15, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(TokenVectors::load(&path).unwrap_err().kind, Kind::Damaged);
        }
    }
}
