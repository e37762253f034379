//! Embeddings of chunks: small integers in rows, found by the signs of their first components and scored exactly.
//!
//! Components are ordered by how much they tell, so that the first 64 signs leave few rows for the next 64, and these
//! fewer for the scoring.

/// Components whose signs one word holds.
const WORD: usize = 64;
/// Rows up to which every row is scored; above it only those whose signs agree best.
const SCAN_ALL: usize = 4096;
/// Rows that are left after the first word of signs, and rows that are scored.
const CLOSE: usize = 4096;
const SCORED: usize = 768;
/// One row in so many is looked at for where to cut after the first word.
const SAMPLED: usize = 8;

/// A vector as small integers: component = value * scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Small {
    /// Components.
    pub values: Vec<i8>,
    /// What one unit is worth.
    pub scale: f32,
}

impl Small {
    /// Quantises a vector; nothing for one without length.
    pub fn of(vector: &[f32]) -> Option<Self> {
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !(norm.is_finite() && norm > 1e-12) {
            return None;
        }
        let most = vector.iter().fold(0f32, |most, x| most.max((x / norm).abs()));
        let scale = most / 127.0;
        let values = vector.iter().map(|x| (x / norm / scale).round().clamp(-127.0, 127.0) as i8).collect();
        Some(Self { values, scale })
    }

    /// Signs of the first 64 components, and of the next.
    fn signs(&self) -> [u64; 2] {
        let word = |from: usize| {
            let values = self.values.iter().skip(from).take(WORD).enumerate();
            values.fold(0u64, |signs, (at, value)| signs | u64::from(*value > 0) << at)
        };
        [word(0), word(WORD)]
    }
}

/// Vectors of all rows that have one.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    dims: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    /// Signs, a word a row.
    first: Vec<u64>,
    second: Vec<u64>,
}

impl Vectors {
    /// No vectors yet, of so many components.
    pub fn new(dims: usize) -> Self {
        Self { dims, ..Self::default() }
    }

    /// Number of components.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Appends a row; one without a vector (or with another number of components) matches nothing.
    pub fn push(&mut self, vector: Option<Small>) {
        let zero = || Small { values: vec![0; self.dims], scale: 0.0 };
        let vector = vector.filter(|v| v.values.len() == self.dims).unwrap_or_else(zero);
        let [first, second] = vector.signs();
        self.first.push(first);
        self.second.push(second);
        self.scales.push(vector.scale);
        self.values.extend(vector.values);
    }

    /// A row as it was pushed.
    pub fn row(&self, at: usize) -> (&[i8], f32) {
        (&self.values[at * self.dims..(at + 1) * self.dims], self.scales[at])
    }

    /// The nearest rows with their cosines, the nearest first; equal ones in order of row.
    pub fn nearest(&self, query: &Small, limit: usize) -> Vec<(usize, f32)> {
        if self.dims == 0 || query.values.len() != self.dims {
            return Vec::new();
        }
        let candidates: Vec<usize> = if self.len() <= SCAN_ALL { (0..self.len()).collect() } else { self.alike(query) };
        let mut scored: Vec<(usize, f32)> =
            candidates.into_iter().map(|row| (row, self.cosine(query, row))).filter(|(_, s)| *s > 0.0).collect();
        let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if scored.len() > limit && limit > 0 {
            scored.select_nth_unstable_by(limit - 1, order);
        }
        scored.truncate(limit);
        scored.sort_by(order);
        scored
    }

    fn cosine(&self, query: &Small, row: usize) -> f32 {
        let (values, scale) = self.row(row);
        // Wrapping, so that it is computed several at a time; it cannot wrap below 100,000 components.
        let dot = values.iter().zip(&query.values).fold(0i32, |sum, (a, b)| sum.wrapping_add(i32::from(*a) * i32::from(*b)));
        dot as f32 * scale * query.scale
    }

    /// At least [`SCORED`] rows (where there are so many) whose signs agree best with the query's.
    fn alike(&self, query: &Small) -> Vec<usize> {
        let [first, second] = query.signs();
        // One plain pass over one array, which is computed several rows at a time.
        let distances: Vec<u8> = self.first.iter().map(|signs| (signs ^ first).count_ones() as u8).collect();
        // How near is near enough is told by a part of them: counting all takes longer than comparing them.
        let cut = nearest_cut(distances.iter().copied().step_by(SAMPLED), CLOSE / SAMPLED);
        let close = distances.iter().enumerate().filter(|(_, d)| **d <= cut);
        let close: Vec<(usize, u8)> = close.map(|(row, d)| (row, d.wrapping_add((self.second[row] ^ second).count_ones() as u8))).collect();
        let cut = nearest_cut(close.iter().map(|(_, d)| *d), SCORED);
        close.into_iter().filter(|(_, d)| *d <= cut).map(|(row, _)| row).collect()
    }
}

/// The least distance within which there are so many.
fn nearest_cut(distances: impl Iterator<Item = u8>, wanted: usize) -> u8 {
    let mut histogram = [0u32; 256];
    for distance in distances {
        histogram[usize::from(distance)] = histogram[usize::from(distance)].wrapping_add(1);
    }
    let mut seen = 0;
    let cut = histogram.iter().position(|count| {
        seen += *count as usize;
        seen >= wanted
    });
    cut.unwrap_or(255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeatable numbers between -1 and 1.
    fn noise(seed: &mut u64) -> f32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) as f32 / (1u64 << 30) as f32) - 1.0
    }

    #[test]
    fn signs_find_what_a_full_scan_finds() {
        let mut seed = 7;
        let mut vectors = Vectors::new(256);
        let mut plain: Vec<Vec<f32>> = Vec::new();
        for _ in 0..SCAN_ALL + 3000 {
            let vector: Vec<f32> = (0..256).map(|_| noise(&mut seed)).collect();
            vectors.push(Small::of(&vector));
            plain.push(vector);
        }
        let mut found = 0;
        for wanted in (0..plain.len()).step_by(211) {
            let query: Vec<f32> = plain[wanted].iter().map(|x| x + 0.7 * noise(&mut seed)).collect();
            found += usize::from(vectors.nearest(&Small::of(&query).unwrap(), 5)[0].0 == wanted);
        }
        assert_eq!(found, plain.len().div_ceil(211));
    }

    #[test]
    fn a_row_without_a_vector_is_never_near() {
        let mut vectors = Vectors::new(4);
        vectors.push(None);
        vectors.push(Small::of(&[1.0, 0.0, 0.0, 0.0]));
        vectors.push(Small::of(&[0.0; 4]));
        let near = vectors.nearest(&Small::of(&[1.0, 0.1, 0.0, 0.0]).unwrap(), 10);
        assert_eq!(near.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
    }
}
