//! Embeddings of chunks: small integers in rows, found by the sign of their first components and scored exactly.

/// Components whose signs are compared first.
const SIGNS: usize = 128;
/// Rows up to which every row is scored; above it only those whose signs agree best.
const SCAN_ALL: usize = 4096;
/// Rows that are scored after the comparison of signs.
const SCORED: usize = 768;

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

    fn signs(&self) -> [u64; SIGNS / 64] {
        let mut signs = [0u64; SIGNS / 64];
        for (at, value) in self.values.iter().take(SIGNS).enumerate() {
            signs[at / 64] |= u64::from(*value > 0) << (at % 64);
        }
        signs
    }
}

/// Vectors of all rows that have one.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    dims: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    signs: Vec<[u64; SIGNS / 64]>,
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
        self.signs.push(vector.signs());
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
        let wanted = query.signs();
        let apart =
            |signs: &[u64; SIGNS / 64]| signs.iter().zip(&wanted).fold(0u32, |sum, (a, b)| sum.wrapping_add((a ^ b).count_ones())) as u8;
        let distances: Vec<u8> = self.signs.iter().map(apart).collect();
        let mut histogram = [0usize; SIGNS + 1];
        for distance in &distances {
            histogram[usize::from(*distance)] += 1;
        }
        let mut seen = 0;
        let cut = histogram.iter().position(|count| {
            seen += count;
            seen >= SCORED
        });
        let cut = cut.unwrap_or(SIGNS) as u8;
        distances.iter().enumerate().filter(|(_, d)| **d <= cut).map(|(row, _)| row).collect()
    }
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
