//! QEMU's AioContext for device emulators in Rust: one thread, one loop, over ppoll(2), epoll(7) or
//! io_uring(7).
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let ctx = aio::AioContext::new()?;
//! let handle = ctx.handle();
//! let kick = aio::EventNotifier::new(aio::Reset::Autoreset)?;
//! let _doorbell = ctx.add_notifier(&kick, move |_| handle.stop())?;
//! kick.notify()?; // from any thread, another process, or KVM
//! ctx.run()
//! # }
//! ```
//!
//! An emulated device waits for doorbells (ioeventfds, a vhost-user peer's kicks), sockets, timers,
//! completions of its I/O, and work from other threads. [`AioContext`] waits for all of them in one
//! system call, and then calls the closures that were registered. Compared with a general event
//! loop it adds:
//!
//! * **Doorbells without read(2).** An eventfd that is polled level-triggered has to be read after
//!   each wake-up. An [`EventNotifier`] with [`Reset::Autoreset`] is never read: the loop gets
//!   edges from epoll or from a multishot POLL_ADD, or lets the ring do the reading. Each wake-up
//!   costs one system call instead of two.
//! * **Doorbells with a maximum** ([`BoundedNotifier`]): a producer that is too fast sleeps, gets
//!   an error, or gets a callback when there is room again. The semantics are those of
//!   `EFD_IOC_SET_MAXIMUM`, but a stock kernel is enough.
//! * **Adaptive busy polling** ([`BusyPolling`], [`BusyPolled`]): the loop polls the virtqueue for
//!   some microseconds before it sleeps, with the guest's kicks switched off meanwhile. A request
//!   found this way costs no system call.
//! * **io_uring operations on the loop's own ring** ([`AioContext::start`] and [`op`]): files,
//!   sockets, messages with descriptors. They are submitted with its next wait, and own their
//!   buffers until they complete.
//! * **Bottom halves** ([`BottomHalf`]), scheduled lock-free from any thread; **timers**
//!   ([`Timer`], [periodic](AioContext::interval) ones) with nanosecond deadlines, on real time or
//!   on a virtual clock that the emulator can stop and step, for all loops of a VM at once.
//! * **Nested turns**: any callback may call [`AioContext::poll`] to wait for something.
//! * **Futures** ([`AioContext::spawn`], [`AioContext::block_on`]) on the same loop, beside the
//!   callbacks: they await doorbells, descriptors, times, and operations of the ring.
//! * **Blocking work in worker threads** ([`AioContext::spawn_blocking`]), with the callback at
//!   home.
//! * **Loops in threads** ([`IoThread`]), and **devices that move from loop to loop** ([`Hosted`]),
//!   without losing a ring.
//! * **A loop inside another one** ([`Embedded`]): GLib's, tokio's, or your own. To it the context
//!   is one descriptor and one deadline.
//! * **Devices in the shape of event-manager** ([`subscriber`]): one `process(&mut self)` for all
//!   descriptors of a device, which may turn the loop and is not entered again.
//! * **A loop that can be looked into**: names, a [dump](AioContext::dump) of everything, a
//!   [profile](AioContext::set_profiling), and a hook for [slow
//!   callbacks](AioContext::on_slow_callback), which cost nothing while they are off.
//!
//! It is no network library: it uses one thread and runs on Linux only. For a portable readiness
//! API use mio.
//!
//! [`guide`] builds devices step by step, and [`coming_from`] has tables for those who know another
//! event loop.
//!
//! # Example
//!
//! A device thread with a doorbell, a timer, and work from other threads.
//!
//! ```
//! use aio::{AioContext, EventNotifier, Reset};
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! let ctx = AioContext::new()?; // the best monitor of this kernel
//! println!("{}: {}", ctx.monitor().kind, ctx.monitor().reason);
//!
//! let kicks = Rc::new(Cell::new(0));
//! let seen = Rc::clone(&kicks);
//! let kick = EventNotifier::new(Reset::Autoreset)?; // hand this fd to KVM_IOEVENTFD
//! let doorbell = ctx.add_notifier(&kick, move |_| seen.set(seen.get() + 1))?;
//! println!("reset by {}", doorbell.method()); // edge, on a stock kernel
//!
//! let expired = Rc::new(Cell::new(false));
//! let flag = Rc::clone(&expired);
//! let timer = ctx.timer(move |_| flag.set(true));
//! timer.arm_after(Duration::from_micros(250));
//!
//! let guest = std::thread::spawn(move || kick.notify()); // any thread can ring
//! let handle = ctx.handle(); // and schedule work
//! handle.schedule(|ctx| println!("in the loop: {:?}", ctx.stats()));
//!
//! while kicks.get() == 0 || !expired.get() {
//!     ctx.poll(true)?; // or ctx.run(), until handle.stop()
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
//!   prepare    notify_me += 1; did somebody notify the loop?  then do not sleep   (see "Threads")
//!   wait       ppoll | epoll_wait | io_uring_enter: the one system call, which also
//!              arms, cancels and submits
//!   accept     notified = false
//!   run        completions  ─►  bottom halves  ─►  handlers  ─►  timers  ─►  tasks
//!   returns    true if a callback ran or a task was polled
//! ```
//!
//! A bottom half that a handler or a timer schedules runs in the next turn. A timer that its own
//! callback arms in the past runs in the next turn. Tasks come last, so one that a handler or a
//! timer wakes runs in the same turn, without another system call. A turn polls the tasks that are
//! ready then, 1024 at most; if they are fewer than 64, also those that become ready meanwhile, up
//! to 64 polls. The rest is left to the next turn, which does not sleep. A nested turn also runs
//! what its parent turns have collected but not yet run; each item runs exactly once. The order
//! among handlers is not specified. Bottom halves and closures that one thread schedules run in the
//! order in which it scheduled them.
//!
//! # Closing a descriptor
//!
//! A handler owns its descriptor. If yours is [borrowed](AioContext::add_borrowed_fd), drop the
//! [`Registration`] first, then close the descriptor. When dropping the registration returns, the
//! loop and the kernel behind it have no reference to the file any more: a peer sees the close at
//! once, and the address of a listener can be bound again. Only the eventfd of a notifier may be
//! held until the next turn. When dropping an [`AioContext`] returns, nothing of it is held, except
//! by operations that could not be cancelled within ten seconds.
//!
//! # Two kinds of source
//!
//! | | [fd handler](AioContext::add_fd) | [notifier](AioContext::add_notifier) |
//! |---|---|---|
//! | for | sockets, pipes, devices | doorbells: ioeventfd, irqfd, kicks, completions |
//! | called | in each turn in which the descriptor is ready | at least once after the last ring; one call may stand for many rings, and spurious calls are possible |
//! | who clears it | the callback, by reading or writing | the loop, or nobody: [`Reset`] |
//! | memory | – | what was written before the ring is visible (Acquire) |
//!
//! The next table shows how a notifier is reset with each monitor. If a method is not available,
//! this is an error if it was requested by name ([`Reset::AutoresetBy`]); otherwise the loop falls
//! back to another method and reports the [reason](NotifierRegistration::fallback).
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
//! | home thread (made the context) | everything; `AioContext`, registrations, timers and bottom halves cannot leave it |
//! | home thread, if another event loop sleeps there | turn an [`Embedded`] context: [`prepare`](Embedded::prepare), [`check`](Embedded::check), [`dispatch`](Embedded::dispatch) |
//! | any, with a [`Handle`] | [`notify`](Handle::notify), [`schedule`](Handle::schedule) a closure, [`stop`](Handle::stop) |
//! | any, with the `Waker` of a task | wake it |
//! | any, with a [`BottomHalfHandle`] | [`schedule`](BottomHalfHandle::schedule), [`cancel`](BottomHalfHandle::cancel) |
//! | any, with a [`TimerHandle`] | [`arm_at`](TimerHandle::arm_at), [`arm_after`](TimerHandle::arm_after), [`cancel`](TimerHandle::cancel) |
//! | any, with the [`VirtualClock`] of one or more loops | read, start, stop and step it |
//! | any, with a [`SubscribersHandle`](subscriber::SubscribersHandle) | [`schedule`](subscriber::SubscribersHandle::schedule) a closure that gets the [`Subscribers`](subscriber::Subscribers) |
//! | any, with a [`Hosted`] device | [`move_to`](Hosted::move_to) another loop |
//! | any, with an [`IoThread`] | [`run`](IoThread::run) a closure there and wait for its result, [`stop`](IoThread::stop) it; not while the loop waits for this thread |
//! | any, another process, KVM | ring an [`EventNotifier`] |
//! | any, another process | [`notify`](BoundedNotifier::notify) and [`take`](BoundedNotifier::take) of a [`BoundedNotifier`] |
//! | a worker thread | run what [`spawn_blocking`](AioContext::spawn_blocking) or [`blocking`](AioContext::blocking) was given |
//!
//! Waking the loop costs the waking thread one write(2) if the loop sleeps or is about to sleep,
//! and no system call if it is awake, or if somebody has written since it last looked for work.
//!
//! An [`IoThread`] whose callback panics ends. [`Handle::schedule`] then returns false, and
//! [`IoThread::on_exit`], [`is_alive`](IoThread::is_alive) and [`stop`](IoThread::stop) report it.
//!
//! After fork(2) a loop belongs to the parent. In the child it is inert: see [`AioContext`].
//!
//! # System calls
//!
//! | | poll | epoll | io_uring |
//! |---|---|---|---|
//! | a turn that may sleep | ppoll | epoll_wait, epoll_pwait2 for a timer | io_uring_enter |
//! | a turn that only looks | ppoll | epoll_wait | io_uring_enter, none if the ring [tells](RingInfo::tells) and has nothing |
//! | add an fd handler | fstat, for a socket or a pipe; else an epoll probe, too | epoll_ctl | as poll, and part of the next enter |
//! | change, remove an fd handler | none | epoll_ctl | part of the next enter; an enter to remove |
//! | add, remove a notifier | none | epoll_ctl | part of the next enter; an enter to remove a ring read |
//! | a classic notifier that rang | read | read | read |
//! | an autoreset notifier that rang | (read) | none | none |
//! | timers, bottom halves, tasks | none | none | none |
//! | a descriptor or a notifier of a [`subscriber`] | as a handler | as a handler | as a handler |
//! | an [`AsyncFd`] that is awaited | none | epoll_ctl, unless it was awaited in its last turn, too | part of the next enter |
//! | a [`Ringer`] | as [`EventNotifier::notify`] | the same | part of the next enter if the loop sleeps in it; else the same |
//! | blocking work | futex, clone3 for a new thread; a write by the worker if the loop sleeps | the same | the same |
//! | an operation | – | – | part of the next enter |
//! | register a file, a buffer or a group of buffers; unregister it | – | – | io_uring_register |
//! | a bounded notifier's count, [atomic](BoundedMethod::Atomic) | as its doorbell | as its doorbell | as its doorbell |
//! | the same, by the kernel or by credit | read, (write) | read, (write) | read, (write) |
//! | a device that moves | a write to each loop that sleeps; then to remove and to add | the same | the same |
//! | [`Embedded::prepare`] | none | none | io_uring_enter if something is to be submitted |
//! | [`Embedded::check`] | ppoll, and epoll_wait if that finds nothing | epoll_wait | io_uring_enter if something is to be submitted, or memory tells of task work |
//! | with [`Builder::embeddable`]: add, change, remove a handler | an epoll_ctl more | nothing more | nothing more |
//!
//! A turn in the steady state allocates nothing, and its cost does not grow with the number of
//! registered descriptors, except inside ppoll(2). [`AioContext::stats`] counts the calls of this
//! table, except for io_uring_register, the epoll probe, and those for blocking work.
//!
//! # Features
//!
//! None is on by default.
//!
//! | | |
//! |---|---|
//! | `raw-sqe` | operations whose SQE you make yourself: `AioContext::submit`, `submit_multishot`, `submit_chain` and `operations`. The crate `io-uring` is then part of the API, and is re-exported |
//! | `tracing` | events of the target `aio` for the crate `tracing`. If a subscriber takes TRACE, each turn sends `aio_poll` and each callback `aio_dispatch` with kind, name, time and own time. `slow_callback` is a warning; it is sent only while there is a hook ([`on_slow_callback`](AioContext::on_slow_callback)), whose limit it has. Busy polling and the worker threads have the names of QEMU's trace events: `run_poll_handlers_begin`, `run_poll_handlers_end`, `thread_pool_submit_aio`, `thread_pool_complete_aio`, `thread_pool_cancel_aio` |
//! | `metrics` | `Metrics`: counters, figures and worker threads as OpenMetrics text, and as a collector of the crate `prometheus-client` |
//!
//! # Kernels
//!
//! Linux 5.15 for io_uring (each newer flag is used where the kernel has it, see [`RingInfo`]);
//! 5.11 for epoll with nanosecond timeouts; on older kernels they are rounded up to milliseconds.
//! If io_uring is disabled, or there is too little locked memory, a context without a [chosen
//! monitor](Builder::monitor) uses epoll and reports the reason.

mod agenda;
mod bottom_half;
mod busy_poll;
pub mod coming_from;
mod completion;
mod context;
mod embed;
mod executor;
pub mod guide;
mod handler;
mod io_thread;
mod monitor;
mod moving;
mod notifier;
mod observe;
pub mod op;
mod profile;
mod refused;
mod request;
mod reset;
mod stats;
pub mod subscriber;
mod sync;
mod sys;
mod task;
mod timer;
mod token;
mod trace;
mod turn_queue;
mod wake_gate;
mod worker_pool;

pub use busy_poll::BusyPolling;
pub use context::{
    AioContext, Blocking, BlockingError, BottomHalf, BottomHalfHandle, BoundedRegistration, Builder,
    BusyPolled, FixedBuffer, FixedFile, Handle, HandlerId, LocalHandle, NotifierRegistration, OperationId,
    OperationPool, Prepared, Registration, Ringer, SlowCallback, Timer, TimerHandle, WritableRegistration,
};
#[cfg(feature = "raw-sqe")]
pub use context::{Link, Operations};
pub use embed::Embedded;
pub use executor::{AsyncFd, Doorbell, Elapsed, JoinHandle, Perform, ReadyGuard, RemoteJoinHandle, Sleep};
pub use io_thread::{IoThread, IoThreadError};
#[cfg(feature = "raw-sqe")]
pub use io_uring;
pub use monitor::{Interest, MonitorInfo, MonitorKind, Readiness, RingInfo, RingSetup};
pub use moving::{Home, Hosted, Movable, MovableFd, MovableNotifier, Stay};
pub use notifier::{BoundedBuilder, BoundedMethod, BoundedNotifier, BoundedStats, Counting, EventNotifier};
#[cfg(feature = "metrics")]
pub use observe::Metrics;
pub use observe::{
    BottomHalfEntry, BottomHalfState, Dump, EndedEntry, HandlerEntry, OperationEntry, TaskEntry, TaskState,
    TimerEntry, WorkerLoad,
};
pub use profile::{CallbackKind, Figures};
pub use refused::Refused;
pub use reset::{Method, Reset};
pub use stats::Stats;
pub use task::JoinError;
pub use timer::{Clock, VirtualClock};
