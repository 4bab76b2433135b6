//! A context inside tokio's current-thread runtime.
//!
//! One task drives the context. Other tasks of the same thread use it as they like: they schedule
//! bottom halves, arm timers and ring doorbells, and the driving task is woken when it has to turn.
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]

use aio::{AioContext, Embedded, EventNotifier, Reset};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Turns the context for ever. tokio watches the descriptor edge-triggered, so the loop looks once
/// more (`check`) before it sleeps.
async fn drive(context: Embedded<Rc<AioContext>>, wakes: Rc<Cell<u64>>) -> io::Result<()> {
    // SAFETY: the descriptor stays open and the same as long as the context lives, and `fd` holds
    // the context.
    let fd = unsafe { AsyncFd::register_with_interest(context, Interest::READABLE) }?;
    loop {
        let context = fd.get_ref();
        let prepared = context.prepare()?;
        if context.check()? {
            context.dispatch()?;
            // Lets the other tasks run, and tokio look at its descriptors.
            tokio::task::yield_now().await;
            continue;
        }
        if prepared.ready_now {
            continue;
        }
        wakes.set(wakes.get() + 1);
        match prepared.timeout() {
            None => fd.readable().await?.clear_ready(),
            Some(timeout) => {
                if let Ok(ready) = tokio::time::timeout(timeout, fd.readable()).await {
                    ready?.clear_ready();
                }
            }
        }
    }
}

const KICKS: u64 = 1_000;
const HALVES: u64 = 100;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run())
}

async fn run() -> io::Result<()> {
    let context = Rc::new(AioContext::builder().embeddable().build()?);
    println!("{}: {}", context.monitor().kind, context.monitor().reason);
    let wakes = Rc::new(Cell::new(0));
    let driver = drive(Embedded::new(Rc::clone(&context))?, Rc::clone(&wakes));
    let driver = tokio::task::spawn_local(driver);

    // A doorbell that a guest in another thread rings, and that wakes a task.
    let (kick, seen) = (EventNotifier::new(Reset::Autoreset)?, Rc::new(Notify::new()));
    let _doorbell = context.add_notifier(&kick, {
        let seen = Rc::clone(&seen);
        move |_| seen.notify_one()
    })?;
    let (answer, answered) = std::sync::mpsc::channel();
    let guest = std::thread::spawn(move || {
        for _ in 0..KICKS {
            kick.notify()?;
            if answered.recv().is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    for _ in 0..KICKS {
        seen.notified().await;
        // The guest may have ended.
        let _ = answer.send(());
    }

    // Bottom halves that a task schedules, while the driving task sleeps.
    let (ran, done) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
    let half = context.bottom_half({
        let (ran, done) = (Rc::clone(&ran), Rc::clone(&done));
        move |_| {
            ran.set(ran.get() + 1);
            done.notify_one();
        }
    });
    for _ in 0..HALVES {
        half.schedule();
        done.notified().await;
    }

    // A timer of the context, armed by a task.
    let expired = Rc::new(Notify::new());
    let timer = context.timer({
        let expired = Rc::clone(&expired);
        move |_| expired.notify_one()
    });
    timer.arm_after(Duration::from_millis(2));
    expired.notified().await;

    guest.join().expect("the guest does not panic")?;
    assert!(!driver.is_finished(), "it drives for ever");
    driver.abort();
    println!("{} sleeps; {:?}", wakes.get(), context.stats());
    assert_eq!(ran.get(), HALVES);
    // Nobody polls: a sleep is for a kick, a bottom half, or the timer.
    assert!(wakes.get() <= 2 * (KICKS + HALVES) + 20, "{} sleeps", wakes.get());
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
