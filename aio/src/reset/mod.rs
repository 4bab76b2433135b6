//! Who clears a doorbell's eventfd: the matrix of reset methods and monitors.
//!
//! `matrix.rs` is the table. Each method has a file that says how a monitor watches for it, on
//! which monitors it cannot be used and why, and how this kernel is probed for it. A new method is
//! one such file and one row of the table.

mod doorbell;
mod edge;
mod kernel_flag;
mod matrix;
mod method;
mod probe;
mod read;
mod ring_read;
mod ring_read_multishot;

pub(crate) use self::doorbell::Doorbell;
pub(crate) use self::kernel_flag::{AutoresetFlag, autoreset_flag, resets_itself};
pub(crate) use self::matrix::{resolve, unsupported, watch_for};
pub use self::method::{Method, Reset};
pub(crate) use self::probe::Obstacle;
