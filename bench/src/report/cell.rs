//! Cells that more than one table has.

use super::table::{Cell, Tint};
use crate::measure::{Comparison, MIN_VALUES, Verdict};

/// The verdict in its colour, and why there is none where there are too few rounds.
pub(crate) fn verdict(versus: &Comparison) -> Cell {
    match versus.verdict {
        Verdict::Faster => Cell::tinted("faster", Tint::Green),
        Verdict::Slower => Cell::tinted("slower", Tint::Red),
        none if versus.pairs < MIN_VALUES => {
            format!("{none} ({} of {MIN_VALUES} rounds)", versus.pairs).into()
        }
        none => none.to_string().into(),
    }
}
