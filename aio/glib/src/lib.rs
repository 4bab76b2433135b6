//! An [`AioContext`](aio::AioContext) as a GSource: in a GLib main loop, beside GLib's own sources.
//!
//! QEMU runs its AioContext in the same way (`aio_get_g_source`). The program beside this library
//! (`main.rs`) is a complete example.
//!
//! ```
//! use aio::{AioContext, EventNotifier, Reset};
//! use std::rc::Rc;
//!
//! fn main() -> std::io::Result<()> {
//!     let main_loop = glib::MainLoop::new(None, false);
//!     let context = Rc::new(AioContext::builder().embeddable().build()?);
//!     let priority = glib::Priority::DEFAULT;
//!     let attached = aio_glib::attach(&context, priority, |error| panic!("{error}"))?;
//!
//!     let kick = EventNotifier::new(Reset::Autoreset)?;
//!     let quit = main_loop.clone();
//!     let _doorbell = context.add_notifier(&kick, move |_| quit.quit())?;
//!     let guest = std::thread::spawn(move || kick.notify());
//!     main_loop.run();
//!     drop(attached);
//!     guest.join().expect("the guest does not panic")
//! }
//! ```
//!
//! # What differs from other outer loops
//!
//! * **Time-outs.** GLib's prepare function gives a time-out in milliseconds. It is rounded up, so
//!   a timer is up to 1 ms late and never early. `g_source_set_ready_time` is finer in newer
//!   versions of GLib, but each call costs a wake-up of the main loop.
//! * **Priorities** are GLib's: a source that is ready holds up all sources of lower priority. A
//!   context that always has something to do (a bottom half that schedules itself) holds them up
//!   for ever, and is held up by sources of higher priority. One dispatch is one turn, which runs
//!   what was there at its start, so sources of the same priority take turns with the context.
//! * **Nested loops.** A callback of the context may run a main loop of the same main context, and
//!   the context goes on in there (`g_source_set_can_recurse`).
//! * **Panics.** A panic in a callback aborts the process, as it does in all callbacks of the crate
//!   `glib`, because it must not unwind through C. Catch it in the callback if it has to go on.
//! * **Work for other sources.** If the main loop wakes for another source, and the context's
//!   descriptor is not readable and its deadline has not passed, no system call is made for the
//!   context.

mod source;
mod turn;

pub use source::{Attached, attach};
