//! The output of a run: rows of results, as text for people ([`table`]), as JSON for programs
//! ([`json`]), and made from the JSON report as Markdown and as a page ([`html`]).

pub(crate) mod answer;
pub(crate) mod compared;
pub(crate) mod csv;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod markdown;
mod metric;
pub(crate) mod number;
pub(crate) mod one_percent;
mod row;
pub(crate) mod rows;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod saved;
mod sink;
pub(crate) mod table;
mod terminal;
pub(crate) mod versus;
mod whole_file;

pub(crate) use row::{FLOOR, Missing, Report, Row};
pub(crate) use sink::Sink;
pub(crate) use terminal::{Stream, complain, header};
