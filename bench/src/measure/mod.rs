//! How samples are taken and compared.
//!
//! The arms are visited in interleaved rounds, A B B A, so that whatever drifts (clock frequency,
//! neighbours on the host) affects all arms alike. With more than two arms each round goes
//! forwards and then backwards. An arm's value in a round is the mean of its two visits, which
//! cancels a linear drift within the round. Arms are compared round by round: the median of the
//! paired differences, with a bootstrap interval. A round that was disturbed from outside is left
//! out. Everything but [`interleave`] and [`Witness`] is a pure function of the samples.

mod bootstrap;
mod comparison;
mod disturbance;
mod latency;
mod many;
mod plan;
mod raw;
mod rounds;
mod statistics;
mod verdict;

pub(crate) use bootstrap::{Estimate, Interval, MIN_VALUES, of_two};
pub(crate) use comparison::{Better, Comparison, saved};
pub(crate) use disturbance::{Cause, Disturbed, Witness, gaps, install as watch_for_stops};
pub(crate) use latency::{Encoded, from_base64, latencies, quantile_us, to_base64};
pub(crate) use many::{hold_together, settle};
pub(crate) use plan::{Growth, Plan};
#[cfg(test)]
pub(crate) use raw::Visit;
pub(crate) use raw::{LeftOut, Raw};
pub(crate) use rounds::{Measured, Metric, Recording, Sample, analyse, find, interleave, sample};
pub(crate) use statistics::{Summary, median, quantile, sorted};
pub(crate) use verdict::{ASKED, Verdict, is_narrow};
