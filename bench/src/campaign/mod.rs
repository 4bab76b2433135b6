//! Campaigns: named cases that are measured in turn, and become the rows of a report.

mod calibrated;
mod cases;
mod growing;
mod repeater;
mod watch;

pub(crate) use calibrated::calibrated;
pub(crate) use cases::{Campaign, Case, Collected, run, settle_rows};
pub(crate) use repeater::Repeater;
#[cfg(test)]
pub(crate) use watch::StepsLeft;
pub(crate) use watch::Watch;
