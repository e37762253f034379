//! The few special functions and random numbers that the estimators need: small, seeded, the same on every machine.

/// A seeded generator (SplitMix64): the same seed gives the same numbers everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0 (included) to 1 (excluded).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }
}

/// Logarithm of the gamma function for positive `x` (Lanczos' series, error below 1e-10).
pub fn ln_gamma(x: f64) -> f64 {
    const SERIES: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = SERIES.iter().enumerate().skip(1).fold(SERIES[0], |sum, (i, c)| sum + c / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// Regularised incomplete beta function `I_x(a, b)` for positive `a` and `b`, by its continued fraction (Lentz).
///
/// `P(Binomial(n, p) >= k)` is `I_p(k, n - k + 1)`.
pub fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on this side of the mean only.
    if x < (a + 1.0) / (a + b + 2.0) { front * fraction(x, a, b) / a } else { 1.0 - front * fraction(1.0 - x, b, a) / b }
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let (mut c, mut h) = (1.0, d);
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut last = 1.0;
        for step in [even, odd] {
            d = 1.0 / guard(1.0 + step * d);
            c = guard(1.0 + step / c);
            last = d * c;
            h *= last;
        }
        if (last - 1.0).abs() < 1e-14 {
            break;
        }
    }
    h
}

/// The `x` at which [`beta_cdf`] reaches `share`, by bisection on a logarithmic scale near zero.
pub fn beta_quantile(share: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..400 {
        // Halving exponents first: a pass rate of 1e-9 is reached in as many steps as one of 0.1.
        let middle = if low <= 0.0 {
            high / 16.0
        } else if high / low > 4.0 {
            (low * high).sqrt()
        } else {
            0.5 * (low + high)
        };
        if middle < 1e-300 || high - low <= 1e-14 * high {
            break;
        }
        if beta_cdf(middle, a, b) < share { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Distribution function of the standard normal: `Phi(z)`, error below 2e-7 (complementary error function by
/// Chebyshev's series).
pub fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let series = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let polynomial = series.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let tail = 0.5 * t * (-x * x + polynomial).exp();
    if z >= 0.0 { 1.0 - tail } else { tail }
}

/// The `z` at which [`normal_cdf`] reaches `share`, within -8 to 8, by bisection.
pub fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if normal_cdf(middle) < share { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Mean; 0 for nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, error: f64) {
        assert!((a - b).abs() <= error, "{a} is not {b}");
    }

    /// P(Binomial(n, p) >= k), term by term.
    fn tail(n: u32, k: u32, p: f64) -> f64 {
        let term = |i: u32| {
            let ways = (0..i).fold(1.0, |c, j| c * f64::from(n - j) / f64::from(j + 1));
            ways * p.powi(i as i32) * (1.0 - p).powi((n - i) as i32)
        };
        (k..=n).map(term).sum()
    }

    #[test]
    fn the_beta_function_is_the_binomial_tail() {
        for (n, k, p) in [(10, 3, 0.2), (40, 39, 0.9), (25, 1, 0.01), (30, 15, 0.5)] {
            near(beta_cdf(p, f64::from(k), f64::from(n - k + 1)), tail(n, k, p), 1e-12);
        }
        for share in [0.025, 0.5, 0.975] {
            near(beta_cdf(beta_quantile(share, 2.0, 90_000.0), 2.0, 90_000.0), share, 1e-9);
        }
        // No success in 1,000: one minus the thousandth root.
        near(beta_quantile(0.975, 1.0, 1_000.0), 1.0 - 0.025_f64.powf(1e-3), 1e-12);
    }

    #[test]
    fn normal_and_gamma_have_their_table_values() {
        near(normal_cdf(1.959_963_985), 0.975, 3e-7);
        near(normal_quantile(0.025), -1.959_963_985, 3e-6);
        near(ln_gamma(10.0), 362_880_f64.ln(), 1e-10);
        near(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-10);
    }

    #[test]
    fn random_numbers_repeat_and_spread() {
        let draw = |seed| {
            (0..1000)
                .map({
                    let mut r = Random::new(seed);
                    move |_| r.unit()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        near(mean(&draw(7)), 0.5, 0.03);
        let mut random = Random::new(1);
        assert!((0..1000).all(|_| random.below(3) < 3) && random.below(0) == 0);
    }
}
