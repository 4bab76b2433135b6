//! Bare operations on an eventfd: system calls without a library, the ways to wait for an eventfd
//! built on them, and what they cost on one thread. Event loops are compared with these.

mod epoll;
mod method;
mod operation;
mod readiness;
mod ring;
mod ring_waiter;
mod syscall;
mod waiter;

pub(crate) use epoll::EpollFd;
pub(crate) use method::Method;
pub(crate) use operation::{Operation, OperationSample, cost_of_a_read, one_thread};
#[cfg(feature = "peers")]
pub(crate) use ring::Ring;
pub(crate) use syscall::{Calls, EventFd, clock_ns};
#[cfg(feature = "peers")]
pub(crate) use syscall::{check, retry};
pub(crate) use waiter::{Patience, Waiter};
