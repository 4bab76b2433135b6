//! How an engine returns what it finished.

use aio::AioContext;

use crate::blk::device::FinishedRequest;

/// Takes what was finished out of the vector, in a turn of the loop.
pub type Done = dyn Fn(&AioContext, &mut Vec<FinishedRequest>);
