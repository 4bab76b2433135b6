//! The log of dirty pages: every page that the device writes has its bit, whatever writes it, and
//! the log can be switched while rings run.

mod interop;
mod pages;
mod precopy;
mod refused;
mod rig;
