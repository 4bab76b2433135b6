//! Numbers as people read them.

use crate::measure::Interval;

/// A number with as many decimals as give it three significant digits, and separators between
/// thousands.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = if magnitude >= 99.95 {
        0
    } else if magnitude >= 9.995 {
        1
    } else {
        2
    };
    fixed(value, decimals)
}

/// A number with `decimals` decimals and separators between thousands.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (sign, digits) = match text.strip_prefix('-') {
        // A number that rounds to zero has no sign.
        Some(digits) if digits.chars().any(|c| c.is_ascii_digit() && c != '0') => ("-", digits),
        Some(digits) => ("", digits),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = String::with_capacity(text.len() + whole.len() / 3);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// As [`number`], with a plus sign if it is positive: a difference.
pub(crate) fn signed(value: f64) -> String {
    let text = number(value);
    if value > 0.0 && text.chars().any(|c| c.is_ascii_digit() && c != '0') {
        format!("+{text}")
    } else {
        text
    }
}

/// A ratio as a change in percent: 0.9 is `-10.0%`.
pub(crate) fn percent(ratio: f64) -> String {
    let change = (ratio - 1.0) * 100.0;
    let text = fixed(change, 1);
    if change > 0.0 && text != "0.0" { format!("+{text}%") } else { format!("{text}%") }
}

/// Both ends of an interval, each formatted by `format`.
pub(crate) fn range(interval: Interval, format: impl Fn(f64) -> String) -> String {
    format!("{} to {}", format(interval.low), format(interval.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits_and_thousands() {
        let cases = [
            (0.0, "0.00"),
            (1.0, "1.00"),
            (12.345, "12.3"),
            (99.96, "100"),
            (123.4, "123"),
            (999.6, "1,000"),
            (1_234_567.8, "1,234,568"),
            (-1_234.0, "-1,234"),
            (-0.001, "0.00"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(fixed(1_234.567, 2), "1,234.57");
        assert_eq!(fixed(-100_000.0, 0), "-100,000");
    }

    #[test]
    fn differences_have_signs() {
        assert_eq!(signed(93.2), "+93.2");
        assert_eq!(signed(-93.2), "-93.2");
        assert_eq!(signed(0.0), "0.00");
        assert_eq!(signed(0.001), "0.00");
        assert_eq!(percent(1.041), "+4.1%");
        assert_eq!(percent(0.9), "-10.0%");
        assert_eq!(percent(1.0), "0.0%");
        assert_eq!(percent(1.0001), "0.0%");
        assert_eq!(range(Interval { low: -2.0, high: 1.0 }, signed), "-2.00 to +1.00");
    }
}
