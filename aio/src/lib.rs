//! The event loop.
mod bottom_half;
mod busy_poll;
mod completion;
mod context;
mod handle;
mod handler;
mod io_thread;
mod monitor;
mod notifier;
mod stats;
mod sync;
mod sys;
mod timer;
mod token;
mod wake_gate;

pub use bottom_half::{BottomHalf, BottomHalfHandle};
pub use busy_poll::{BusyPolled, BusyPolling};
pub use completion::{OperationId, Operations, SubmitError};
pub use context::{AioContext, Builder};
pub use handle::Handle;
pub use handler::{AddError, HandlerId, Interest, Readiness, Registration};
pub use io_thread::IoThread;
pub use io_uring;
pub use monitor::{MonitorInfo, MonitorKind, RingInfo, RingSetup};
pub use notifier::{AdoptError, EventNotifier, Method, NotifierRegistration, Reset};
pub use stats::Stats;
pub use timer::{Clock, Timer, VirtualClock};
