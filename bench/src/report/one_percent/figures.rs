//! Shares and times as people read them.

use crate::measure::{Estimate, Interval};
use crate::report::number::{fixed, number, range};

/// A share as a percentage, with two decimals below one percent: `+9.8%`, `0.21%`.
pub(crate) fn share(share: f64) -> String {
    let percent = share * 100.0;
    format!("{}%", fixed(percent, if percent.abs() < 0.995 { 2 } else { 1 }))
}

/// A share and its interval: `9.8% (8.9% to 10.8%)`.
pub(crate) fn estimate(estimate: Estimate) -> String {
    let interval =
        estimate.interval.map(|Interval { low, high }| format!(" ({} to {})", share(low), share(high)));
    format!("{}{}", share(estimate.median), interval.unwrap_or_default())
}

/// A time and its interval: `283 ns (263 to 305)`.
pub(crate) fn nanoseconds(estimate: Estimate) -> String {
    let interval = estimate.interval.map(|interval| format!(" ({})", range(interval, number)));
    format!("{} ns{}", number(estimate.median), interval.unwrap_or_default())
}
