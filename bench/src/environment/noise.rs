//! How steadily this machine runs: the spread of the times of one busy loop.

use crate::measure::{quantile, sorted};
use fastrand::Rng;
use serde::Serialize;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

const REPEATS: usize = 64;
const LOOP_TIME: Duration = Duration::from_micros(500);
/// Above this share, effects of a few percent need many rounds to be detected.
const HIGH: f64 = 0.05;

/// How much the times of a fixed busy loop differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Noise {
    /// The distance between the 10% and the 90% quantile of the loop's times, as a share of the
    /// median.
    pub(crate) spread: f64,
}

impl Noise {
    /// Runs the loop for about 50 ms on the calling thread. It need not be pinned: migrations are
    /// noise too.
    pub(crate) fn estimate() -> Self {
        let mut rounds = 1_000;
        // At most 2^20 times the first guess, so that a stopped clock cannot cause an endless loop.
        for _ in 0..20 {
            if time(rounds) >= LOOP_TIME {
                break;
            }
            rounds *= 2;
        }
        let times: Vec<f64> = (0..REPEATS).map(|_| time(rounds).as_nanos() as f64).collect();
        Self { spread: spread(&times) }
    }

    pub(crate) fn is_high(self) -> bool {
        self.spread > HIGH
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}%", self.spread * 100.0)
    }
}

fn time(rounds: u32) -> Duration {
    let mut random = Rng::with_seed(0);
    let begin = Instant::now();
    for _ in 0..rounds {
        black_box(random.u64(..));
    }
    begin.elapsed()
}

fn spread(times: &[f64]) -> f64 {
    let times = sorted(times);
    let at = |p| quantile(&times, p).unwrap_or(0.0);
    if at(0.5) > 0.0 { (at(0.9) - at(0.1)) / at(0.5) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_a_share_of_the_median() {
        let ramp: Vec<f64> = (0..=100).map(|i| 1_000.0 + f64::from(i)).collect();
        assert!((spread(&ramp) - 80.0 / 1_050.0).abs() < 1e-9);
        assert_eq!(spread(&[7.0; 10]), 0.0);
        assert_eq!(spread(&[]), 0.0);
        assert_eq!(spread(&[0.0; 10]), 0.0);
    }

    #[test]
    fn high_starts_at_five_percent() {
        assert!(!Noise { spread: 0.05 }.is_high());
        assert!(Noise { spread: 0.051 }.is_high());
        assert_eq!(Noise { spread: 0.0123 }.to_string(), "1.2%");
    }

    #[test]
    fn an_estimate_is_a_finite_share() {
        let noise = Noise::estimate();
        assert!(noise.spread.is_finite() && noise.spread >= 0.0);
    }
}
