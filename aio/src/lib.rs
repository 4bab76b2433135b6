//! QEMU's AioContext for device emulators in Rust: one thread, one loop, over ppoll(2), epoll(7) or
//! io_uring(7).
//!
//! An emulated device waits for doorbells (ioeventfds, a vhost-user peer's kicks), sockets, timers,
//! completions of its I/O, and work that other threads hand it. [`AioContext`] waits for all of
//! them in one system call, and then calls the closures that were registered. What sets it apart
//! from a general event loop:
//!
//! * **Doorbells without read(2).** An eventfd that is polled level-triggered has to be read after
//!   each wake-up. An [`EventNotifier`] with [`Reset::Autoreset`] is never read: the loop gets
//!   edges from epoll or from a multishot POLL_ADD, or lets the ring do the reading. One system
//!   call for each wake-up instead of two.
//! * **Doorbells with a maximum** ([`BoundedNotifier`]): a producer that is too fast sleeps, is
//!   refused, or is told when there is room again, as with `EFD_IOC_SET_MAXIMUM`, on a stock
//!   kernel.
//! * **Busy polling that learns** ([`BusyPolling`], [`BusyPolled`]): look at the virtqueue for some
//!   microseconds before sleeping, with the guest's kicks switched off meanwhile. Zero system calls
//!   for a request.
//! * **io_uring operations on the loop's own ring** ([`AioContext::submit`]), which ride on its
//!   next wait and own their buffers until they complete.
//! * **Bottom halves** ([`BottomHalf`]), scheduled lock-free from any thread; **timers**
//!   ([`Timer`]) with nanosecond deadlines, on real time or on a virtual clock that an emulator
//!   stops and steps.
//! * **Nested turns**: any callback may call [`AioContext::poll`] and wait for something.
//!
//! It is no async runtime and no network library: callbacks, one thread, Linux only. For futures
//! take tokio or compio; for a portable readiness API take mio.
//!
//! # Example
//!
//! A device thread: a doorbell, a timer, and work from outside.
//!
//! ```
//! use aio::{AioContext, EventNotifier, Reset};
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! let ctx = AioContext::new()?;                               // the best monitor of this kernel
//! println!("{}: {}", ctx.monitor().kind, ctx.monitor().reason);
//!
//! let kicks = Rc::new(Cell::new(0));
//! let seen = Rc::clone(&kicks);
//! let kick = EventNotifier::new(Reset::Autoreset)?;           // hand this fd to KVM_IOEVENTFD
//! let doorbell = ctx.add_notifier(&kick, move |_| seen.set(seen.get() + 1))?;
//! println!("reset by {}", doorbell.method());                 // edge, on a stock kernel
//!
//! let expired = Rc::new(Cell::new(false));
//! let flag = Rc::clone(&expired);
//! let timer = ctx.timer(move |_| flag.set(true));
//! timer.arm_after(Duration::from_micros(250));
//!
//! let guest = std::thread::spawn(move || kick.notify());      // any thread rings
//! let handle = ctx.handle();                                  // and hands work over
//! handle.schedule(|ctx| println!("in the loop: {:?}", ctx.stats()));
//!
//! while kicks.get() == 0 || !expired.get() {
//!     ctx.poll(true)?;                                        // or ctx.run(), until handle.stop()
//! }
//! guest.join().expect("the guest does not panic")?;
//! assert_eq!(ctx.stats().syscalls_read, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # One turn
//!
//! ```text
//! poll(blocking)
//!   timeout    0 if something is due already, else the time to the next timer
//!   busy poll  devices look at their memory; their doorbells stay off
//!   prepare    notify_me += 1; somebody notified us?  then do not sleep       (see "Threads")
//!   wait       ppoll | epoll_wait | io_uring_enter: the one system call, which also
//!              arms, cancels and submits
//!   accept     notified = false
//!   run        completions  ─►  bottom halves  ─►  handlers  ─►  timers
//!   returns    true if a callback ran
//! ```
//!
//! A bottom half that a handler or a timer schedules runs in the next turn. A timer that its own
//! callback arms in the past runs in the next turn. A nested turn runs what its parents had
//! collected and not yet run, each exactly once. The order among bottom halves, and among handlers,
//! is not specified.
//!
//! # Two kinds of source
//!
//! | | [fd handler](AioContext::add_fd) | [notifier](AioContext::add_notifier) |
//! |---|---|---|
//! | for | sockets, pipes, devices | doorbells: ioeventfd, irqfd, kicks, completions |
//! | called | in each turn in which the descriptor is ready | at least once after the last ring; perhaps once for many, perhaps for nothing |
//! | who clears it | the callback, by reading or writing | the loop, or nobody: [`Reset`] |
//! | memory | – | what was written before the ring is visible (Acquire) |
//!
//! How a notifier is reset, by monitor. A method that cannot be had is an error if it was asked for
//! by name ([`Reset::AutoresetBy`]), and a fallback with a [reason](NotifierRegistration::fallback)
//! if not.
//!
//! | [`Method`] | poll | epoll | io_uring |
//! |---|---|---|---|
//! | [`Read`](Method::Read) ([`Reset::Classic`]) | ppoll, read(2) | level, read(2) | one-shot POLL_ADD, read(2) |
//! | [`Edge`](Method::Edge) | – | EPOLLET | multishot POLL_ADD |
//! | [`RingRead`](Method::RingRead) | – | – | READ, armed again by the next enter |
//! | [`RingReadMultishot`](Method::RingReadMultishot) | – | – | READ_MULTISHOT (Linux 6.7) |
//! | [`KernelFlag`](Method::KernelFlag) (patched kernel) | ppoll | level | – |
//!
//! # Threads
//!
//! | thread | may |
//! |---|---|
//! | home thread (made the context) | everything; `AioContext`, registrations, timers, bottom halves stay on it |
//! | any, with a [`Handle`] | [`notify`](Handle::notify), [`schedule`](Handle::schedule) a closure, [`stop`](Handle::stop) |
//! | any, with a [`BottomHalfHandle`] | [`schedule`](BottomHalfHandle::schedule), [`cancel`](BottomHalfHandle::cancel) |
//! | any, another process, KVM | ring an [`EventNotifier`] |
//! | any, another process | [`notify`](BoundedNotifier::notify) and [`take`](BoundedNotifier::take) of a [`BoundedNotifier`] |
//!
//! Waking the loop costs its waker one write(2) if the loop sleeps or is about to, and nothing if
//! it is awake.
//!
//! # System calls
//!
//! | | poll | epoll | io_uring |
//! |---|---|---|---|
//! | a turn that may sleep | ppoll | epoll_wait, epoll_pwait2 for a timer | io_uring_enter |
//! | a turn that only looks | ppoll | epoll_wait | io_uring_enter, none if it [tells](RingInfo::tells) and has nothing |
//! | add, change, remove an fd handler | fstat to add | epoll_ctl | fstat to add; the rest rides on the next enter |
//! | add, remove a notifier | none | epoll_ctl | rides on the next enter; an enter to remove a ring read |
//! | a classic notifier that rang | read | read | read |
//! | an autoreset notifier that rang | (read) | none | none |
//! | timers, bottom halves | none | none | none |
//! | an operation | – | – | rides on the next enter |
//! | a bounded notifier's count, [atomic](BoundedMethod::Atomic) | as its doorbell | as its doorbell | as its doorbell |
//! | the same, by the kernel or by credit | read, (write) | read, (write) | read, (write) |
//!
//! Nothing is allocated in a steady turn, and no work grows with the number of registered
//! descriptors, except inside ppoll(2). [`AioContext::stats`] counts every one of these calls.
//!
//! # Kernels
//!
//! Linux 5.15 for io_uring (each newer flag is used where the kernel has it, see [`RingInfo`]);
//! 5.11 for epoll with nanosecond timeouts, which are rounded up to milliseconds before. Where
//! io_uring is switched off, or locked memory is short, a context without a [chosen
//! monitor](Builder::monitor) takes epoll and says why.

mod agenda;
mod bottom_half;
mod busy_poll;
mod completion;
mod context;
mod handler;
mod io_thread;
mod monitor;
mod notifier;
mod refused;
mod reset;
mod stats;
mod sync;
mod sys;
mod timer;
mod token;
mod turn_queue;
mod wake_gate;

pub use busy_poll::BusyPolling;
pub use context::{
    AioContext, BottomHalf, BottomHalfHandle, BoundedRegistration, Builder, BusyPolled, Handle, HandlerId,
    NotifierRegistration, OperationId, Operations, Registration, Timer, WritableRegistration,
};
pub use io_thread::IoThread;
pub use io_uring;
pub use monitor::{Interest, MonitorInfo, MonitorKind, Readiness, RingInfo, RingSetup};
pub use notifier::{BoundedBuilder, BoundedMethod, BoundedNotifier, BoundedStats, Counting, EventNotifier};
pub use refused::Refused;
pub use reset::{Method, Reset};
pub use stats::Stats;
pub use timer::{Clock, VirtualClock};
