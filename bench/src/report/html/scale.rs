//! Converts numbers to positions on a drawing, and finds the ticks of an axis.

use crate::report::number::fixed;

/// How numbers are mapped to an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Log,
    /// Like a logarithm on both sides of zero, and linear up to this number around it.
    Symmetric(f64),
}

/// An axis: linear or logarithmic, from numbers to drawing units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    pub(super) fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { kind: Kind::Linear, low, high, from, to }
    }

    /// `low` must be positive; otherwise a millionth of `high` is used.
    pub(super) fn log((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let low = if low > 0.0 { low } else { high / 1e6 };
        let high = if high > low { high } else { low * 10.0 };
        Self { kind: Kind::Log, low, high, from, to }
    }

    /// Differences, of which zero and the sign matter and which span several powers of ten: linear
    /// up to about `around` on both sides of zero, logarithmic beyond.
    pub(super) fn symmetric(around: f64, (low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self { kind: Kind::Symmetric(around), low, high, from, to }
    }

    /// Returns true if a number is on the axis, and not only at its end.
    pub(super) fn has(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The place of a number; numbers outside are placed at the end of the axis.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if value.is_finite() { value.clamp(self.low, self.high) } else { self.low };
        let spread = |value: f64| match self.kind {
            Kind::Linear => value,
            Kind::Log => value.ln(),
            Kind::Symmetric(around) => (value / around).asinh(),
        };
        let share = (spread(value) - spread(self.low)) / (spread(self.high) - spread(self.low));
        self.from + share * (self.to - self.from)
    }

    /// Numbers to label: powers of ten (and twice, five times as much where there are few), or some
    /// five even steps.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.kind == Kind::Log {
            let decades = (self.high / self.low).log10();
            let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let first = self.low.log10().floor() as i32;
            let last = self.high.log10().ceil() as i32;
            let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
            return all.filter(|tick| (self.low..=self.high * 1.000_001).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last.min(first + 20)).map(|count| count as f64 * step).collect()
    }
}

/// A tick's number, without trailing zeros.
pub(super) fn label(value: f64) -> String {
    if value.abs() >= 1e6 {
        return format!("{:.0}M", value / 1e6);
    }
    if value.abs() >= 1e3 {
        return fixed(value, 0);
    }
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_places_between_the_ends() {
        let linear = Scale::linear((0.0, 10.0), (100.0, 200.0));
        assert_eq!((linear.at(0.0), linear.at(5.0), linear.at(99.0)), (100.0, 150.0, 200.0));
        let log = Scale::log((1.0, 100.0), (0.0, 200.0));
        assert!((log.at(10.0) - 100.0).abs() < 1e-9 && log.at(0.0) == 0.0 && log.at(f64::NAN) == 0.0);
        let both = Scale::symmetric(0.01, (-1.0, 1.0), (-100.0, 100.0));
        assert!(both.at(0.0).abs() < 1e-9 && (both.at(0.3) + both.at(-0.3)).abs() < 1e-9);
        // Linear around zero, logarithmic further out.
        assert!((both.at(0.002) / both.at(0.001) - 2.0).abs() < 0.02);
        assert!((both.at(0.8) - both.at(0.4) - (both.at(0.4) - both.at(0.2))).abs() < 0.1);
        assert!(both.has(-1.0) && !both.has(1.1));
        assert!(Scale::log((0.0, 0.0), (0.0, 1.0)).at(5.0).is_finite());
        assert!(Scale::linear((3.0, 3.0), (0.0, 1.0)).at(3.0).is_finite());
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear((0.0, 10.0), (0.0, 1.0)).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(Scale::log((1.0, 20.0), (0.0, 1.0)).ticks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(Scale::log((1.0, 1e5), (0.0, 1.0)).ticks().len(), 6);
        assert_eq!([label(0.05), label(20_000.0), label(-0.0), label(1.0)], ["0.05", "20,000", "0", "1"]);
    }
}
