//! The GSource itself: memory that GLib allocates and frees, and the four functions that it calls.
#![expect(unsafe_code, reason = "the safe API of the crate glib has no prepare, check and dispatch")]

use crate::turn::{Sleep, Turn};
use aio::{AioContext, Embedded};
use glib::ffi::{self, GFALSE, GSource, GSourceFunc, GSourceFuncs, GTRUE, gboolean, gpointer};
use glib::thread_guard::ThreadGuard;
use glib::translate::{FromGlibPtrFull, IntoGlib, ToGlibPtr};
use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// A context in the main loop. Dropping it takes the context out, also from one of its callbacks;
/// the context can be attached again when that callback has returned.
#[must_use = "dropping it takes the context out of the main loop"]
#[derive(Debug)]
pub struct Attached {
    source: glib::Source,
    /// The last reference is dropped in the home thread, where the context is.
    _home: PhantomData<Rc<()>>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.source.destroy();
    }
}

/// Attaches `context` to the main context that is the calling thread's default
/// (`g_main_context_ref_thread_default`). Does not block. The source has a reference to the
/// context.
///
/// From then on, iterations of that main context turn `context`. They must be in this thread: if
/// another thread iterates the main context, the process aborts.
///
/// If the context fails (see [`Embedded::prepare`] and [`AioContext::poll`]), the source is removed
/// and `on_error` is called, once, from an iteration.
///
/// # Errors
/// What [`Embedded::new`] returns, or `ResourceBusy` if another thread owns the main context.
pub fn attach(
    context: &Rc<AioContext>,
    priority: glib::Priority,
    on_error: impl FnOnce(io::Error) + 'static,
) -> io::Result<Attached> {
    let main = glib::MainContext::ref_thread_default();
    let _owned = main.acquire().map_err(|error| io::Error::new(io::ErrorKind::ResourceBusy, error))?;
    let turn = Turn::new(Embedded::new(Rc::clone(context))?, Box::new(on_error));
    let fd = turn.embedded().as_raw_fd();

    let functions = (&raw const FUNCTIONS).cast_mut();
    // SAFETY: GLib only reads the functions, which are static. The size is that of `Source`, whose
    // first field is the GSource. Its alignment is at most that of malloc(3).
    let pointer = unsafe { ffi::g_source_new(functions, size_of::<Source>() as u32) };
    // SAFETY: the new source belongs to this thread alone, and has room for the two fields, which
    // are not initialised yet. `finalize` drops the turn. The descriptor is open until then,
    // because the turn holds the context.
    unsafe {
        let source = pointer.cast::<Source>();
        (&raw mut (*source).turn).write(ThreadGuard::new(turn));
        (&raw mut (*source).tag).write(ffi::g_source_add_unix_fd(pointer, fd, ffi::G_IO_IN));
    }
    // SAFETY: a valid source, and a name that GLib copies.
    unsafe {
        ffi::g_source_set_name(pointer, c"AioContext".as_ptr());
        ffi::g_source_set_priority(pointer, priority.into_glib());
        ffi::g_source_set_can_recurse(pointer, GTRUE);
    }
    // SAFETY: a valid source that is not attached yet, and a live main context, which takes a
    // reference of its own. `Attached` takes the one from g_source_new.
    let source = unsafe {
        ffi::g_source_attach(pointer, main.to_glib_none().0);
        glib::Source::from_glib_full(pointer)
    };
    Ok(Attached { source, _home: PhantomData })
}

/// What GLib allocates for a source.
#[repr(C)]
struct Source {
    source: GSource,
    turn: ThreadGuard<Turn>,
    /// Names the descriptor in calls of g_source_query_unix_fd.
    tag: gpointer,
}

const _: () = assert!(align_of::<Source>() <= 16, "GLib allocates with malloc(3)");

static FUNCTIONS: GSourceFuncs = GSourceFuncs {
    prepare: Some(prepare),
    check: Some(check),
    dispatch: Some(dispatch),
    finalize: Some(finalize),
    closure_callback: None,
    closure_marshal: None,
};

/// Panics, and so aborts, in another thread than the context's.
///
/// # Safety
/// `source` is one that `attach` has made, and is not finalized during `'a`. GLib holds a reference
/// while it calls a function of the source.
unsafe fn turn<'a>(source: *mut GSource) -> &'a Turn {
    // SAFETY: `attach` has initialised the field, and only `finalize` changes it.
    unsafe { &(*source.cast::<Source>()).turn }.get_ref()
}

unsafe extern "C" fn prepare(source: *mut GSource, timeout_ms: *mut c_int) -> gboolean {
    // SAFETY: GLib calls this with a source of `attach`.
    let sleep = unsafe { turn(source) }.prepare();
    let (ms, is_ready) = match sleep {
        Sleep::Ms(ms) => (ms, GFALSE),
        Sleep::Failed => (0, GTRUE),
    };
    // SAFETY: a place of GLib's for this result; the documentation allows NULL for other callers.
    if let Some(timeout_ms) = unsafe { timeout_ms.as_mut() } {
        *timeout_ms = ms;
    }
    is_ready
}

unsafe extern "C" fn check(source: *mut GSource) -> gboolean {
    // SAFETY: GLib calls this with a source of `attach`, which has initialised the tag, and not
    // after the source was destroyed, which is when the tag becomes invalid.
    let events = unsafe { ffi::g_source_query_unix_fd(source, (*source.cast::<Source>()).tag) };
    // SAFETY: as above.
    unsafe { turn(source) }.check(events != 0).into_glib()
}

unsafe extern "C" fn dispatch(source: *mut GSource, _: GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: GLib calls this with a source of `attach`, and keeps it until this returns.
    unsafe { turn(source) }.dispatch().into_glib()
}

unsafe extern "C" fn finalize(source: *mut GSource) {
    // SAFETY: GLib calls this once, for a source of `attach` that nobody refers to any more.
    unsafe { (&raw mut (*source.cast::<Source>()).turn).drop_in_place() };
}
