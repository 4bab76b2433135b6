//! A device in a GLib program: `aio-glib [MONITOR [KICKS]]`.
//!
//! One `MainLoop` serves a doorbell, a timer, a bottom half that another thread schedules, and a
//! time-out of GLib's own. MONITOR is poll, epoll or io_uring.

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use glib::ControlFlow;
use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

const TICKS: u32 = 5;

/// Quits the main loop when all parts of the program are done.
struct Parts {
    left: Cell<u32>,
    main_loop: glib::MainLoop,
}

impl Parts {
    fn done(&self) {
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 {
            self.main_loop.quit();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut builder = AioContext::builder().embeddable();
    if let Some(name) = arguments.next() {
        let kind = MonitorKind::ALL.into_iter().find(|kind| kind.to_string() == name);
        builder = builder.monitor(kind.ok_or("the monitors are poll, epoll and io_uring")?);
    }
    let kicks: u64 = arguments.next().map_or(Ok(1_000), |kicks| kicks.parse())?;

    let context = Rc::new(builder.build()?);
    println!("{}: {}", context.monitor().kind, context.monitor().reason);
    let main_loop = glib::MainLoop::new(None, false);
    let parts = Rc::new(Parts { left: Cell::new(4), main_loop: main_loop.clone() });
    let failure = Rc::new(Cell::new(None));
    let (failed, quit) = (Rc::clone(&failure), main_loop.clone());
    let attached = aio_glib::attach(&context, glib::Priority::DEFAULT, move |error| {
        failed.set(Some(error));
        quit.quit();
    })?;

    // A doorbell: a guest kicks, and waits for the answer.
    let (answer, answered) = mpsc::channel();
    let (kick, seen) = (EventNotifier::new(Reset::Autoreset)?, Rc::new(Cell::new(0)));
    let (count, part) = (Rc::clone(&seen), Rc::clone(&parts));
    let _doorbell = context.add_notifier(&kick, move |_| {
        count.set(count.get() + 1);
        if count.get() == kicks {
            part.done();
        }
        // The guest may have ended.
        let _ = answer.send(());
    })?;

    // A timer.
    let part = Rc::clone(&parts);
    let timer = context.timer(move |_| part.done());
    timer.arm_after(Duration::from_millis(5));

    // A bottom half, which the guest's thread schedules when it has had all its answers.
    let part = Rc::clone(&parts);
    let reset = context.bottom_half(move |_| part.done());
    let schedule = reset.handle();
    let guest = std::thread::spawn(move || {
        for _ in 0..kicks {
            kick.notify()?;
            if answered.recv().is_err() {
                break;
            }
        }
        schedule.schedule();
        std::io::Result::Ok(())
    });

    // GLib's own time-out, which gives the context work.
    let (user, part, mut ticks) = (Rc::clone(&context), Rc::clone(&parts), 0);
    glib::timeout_add_local(Duration::from_millis(1), move || {
        ticks += 1;
        if ticks < TICKS {
            return ControlFlow::Continue;
        }
        let part = Rc::clone(&part);
        user.defer(move |_| part.done());
        ControlFlow::Break
    });

    main_loop.run();
    drop(attached);
    if let Some(error) = failure.take() {
        return Err(error.into());
    }
    guest.join().expect("the guest does not panic")?;
    println!("{} kicks; {:?}", seen.get(), context.stats());
    Ok(())
}
