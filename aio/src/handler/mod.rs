//! Handlers: what the loop calls when a descriptor is ready.
//!
//! A handler lives in a slot of a slab and is named by a [`Token`](crate::token::Token). Readiness
//! is collected as bits in the handler, which is queued once. So a nested poll that sees the same
//! readiness again merges it with what its parent collected, and dispatches it in the parent's
//! place.
//!
//! Generic over the action, that is, over what is done with a ready handler.

mod entry;
mod table;

pub(crate) use self::entry::{Handler, HandlerRef, Processing};
pub(crate) use self::table::{Handlers, Live};
