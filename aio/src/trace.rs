//! Events for the crate `tracing`, behind the feature of that name. Without it these functions
//! compile to nothing.
//!
//! Where QEMU has a trace event for the same thing (util/trace-events), the event has its name.

/// Defines a function for each event, whose arguments are the fields.
macro_rules! events {
    ($($(#[$doc:meta])* $level:ident $name:ident($($field:ident: $type:ty),*);)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name($($field: $type),*) {
                #[cfg(feature = "tracing")]
                tracing::event!(
                    name: stringify!($name), target: "aio", tracing::Level::$level, { $($field),* }
                );
                #[cfg(not(feature = "tracing"))]
                let _ = ($($field,)*);
            }
        )*
    };
}

events! {
    /// A turn has ended. Not in QEMU.
    TRACE aio_poll(blocking: bool, progress: bool);
    /// A callback has returned. `own_ns` is its time without nested turns. Not in QEMU.
    TRACE aio_dispatch(kind: &str, name: Option<&str>, took_ns: u64, own_ns: u64);
    /// A callback held the loop up for longer than the limit of the hook. Not in QEMU.
    WARN slow_callback(kind: &str, name: Option<&str>, took_ns: u64, own_ns: u64, limit_ns: u64);
    /// The loop begins to look for work in memory.
    TRACE run_poll_handlers_begin(max_ns: u64, timeout_ns: Option<u64>);
    /// It has found some, or the window has passed.
    TRACE run_poll_handlers_end(progress: bool);
    /// A thread has written to the loop's eventfd. Not in QEMU.
    TRACE aio_notify();
    /// Work was given to the worker threads.
    TRACE thread_pool_submit_aio(job: u64);
    /// The callback of work that has ended, or was cancelled, begins.
    TRACE thread_pool_complete_aio(job: u64);
    /// Work was cancelled before it began.
    TRACE thread_pool_cancel_aio(job: u64);
}

/// Returns true if somebody listens to the events of every turn.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::enabled!(target: "aio", tracing::Level::TRACE);
    #[cfg(not(feature = "tracing"))]
    false
}
