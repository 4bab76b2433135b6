//! The analysis of the rows of `bench one-percent`: the model, its outcomes, explanations and
//! sentences. Pure functions of a report's rows, so the terminal, the page and Markdown agree.

mod cell;
mod explain;
mod figures;
pub(crate) mod lab;
mod line;
mod model;
mod words;

pub(crate) use cell::{Cell, Disk, and_its_read};
pub(crate) use explain::is_the_level;
pub(crate) use figures::{estimate, share};
pub(crate) use lab::Savings;
pub(crate) use line::{Line, WITH_LEVEL};
#[cfg(test)]
pub(crate) use model::tests as samples;
pub(crate) use model::{Outcome, Prediction, UNREAD_CPU_NS, outcomes};
pub(crate) use words::{PROPOSED_ITERATION_US, PROPOSED_SHARE, asked, conclusions, reference};
