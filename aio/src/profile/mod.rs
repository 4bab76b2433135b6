//! Names of callbacks, and what is counted for each of them while a loop is profiled.
//!
//! Handlers, timers, bottom halves and tasks have a [`Slot`] for a [`Record`], which is made when
//! it is first needed. The usual turn never looks at it. What a record has counted outlives it in
//! [`Ended`].

mod ended;
mod figures;
mod record;

pub(crate) use self::ended::Ended;
pub use self::figures::{CallbackKind, Figures};
pub(crate) use self::figures::{Tally, Took};
pub(crate) use self::record::{Name, Record, Slot};
