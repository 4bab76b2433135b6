//! A context inside calloop.
//!
//! calloop watches the context's descriptor beside its own sources; `prepare` gives the time-out of
//! its dispatch. Any of its callbacks may use the context.

use aio::{AioContext, Embedded, EventNotifier, Reset};
use calloop::generic::Generic;
use calloop::timer::{TimeoutAction, Timer};
use calloop::{EventLoop, Interest, Mode, PostAction};
use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

const KICKS: u64 = 1_000;
const TICKS: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let context = Rc::new(AioContext::builder().embeddable().build()?);
    println!("{}: {}", context.monitor().kind, context.monitor().reason);
    let embedded = Rc::new(Embedded::new(Rc::clone(&context))?);

    let mut event_loop = EventLoop::<u32>::try_new()?;
    // calloop needs nothing but the wake-up: the context is turned below.
    let readable = Generic::new(Rc::clone(&embedded), Interest::READ, Mode::Level);
    event_loop.handle().insert_source(readable, |_, _, _| Ok(PostAction::Continue))?;

    // A source of calloop's own, whose callback gives the context work. (A bottom half that is
    // scheduled twice before it runs would run once.)
    let ran = Rc::new(Cell::new(0));
    let (user, count) = (Rc::clone(&context), Rc::clone(&ran));
    event_loop.handle().insert_source(
        Timer::from_duration(Duration::from_micros(500)),
        move |_, _, ticks| {
            let count = Rc::clone(&count);
            user.defer(move |_| count.set(count.get() + 1));
            *ticks += 1;
            if *ticks < TICKS {
                TimeoutAction::ToDuration(Duration::from_micros(500))
            } else {
                TimeoutAction::Drop
            }
        },
    )?;

    // The device: a guest kicks, and waits for the answer.
    let (answer, answered) = std::sync::mpsc::channel();
    let (kick, kicks) = (EventNotifier::new(Reset::Autoreset)?, Rc::new(Cell::new(0)));
    let _doorbell = context.add_notifier(&kick, {
        let kicks = Rc::clone(&kicks);
        move |_| {
            kicks.set(kicks.get() + 1);
            // The guest may have ended.
            let _ = answer.send(());
        }
    })?;
    let guest = std::thread::spawn(move || {
        for _ in 0..KICKS {
            kick.notify()?;
            if answered.recv().is_err() {
                break;
            }
        }
        std::io::Result::Ok(())
    });

    let (mut ticks, mut iterations) = (0, 0);
    while kicks.get() < KICKS || ran.get() < TICKS {
        iterations += 1;
        let prepared = embedded.prepare()?;
        event_loop.dispatch(prepared.timeout(), &mut ticks)?;
        if embedded.check()? {
            embedded.dispatch()?;
        }
    }
    guest.join().expect("the guest does not panic")?;
    println!("{iterations} iterations; {:?}", context.stats());
    assert_eq!((kicks.get(), ran.get()), (KICKS, TICKS));
    // Nobody polls. An interrupted sleep doubles an iteration.
    assert!(iterations <= 2 * (KICKS + 2 * u64::from(TICKS) + 10), "{iterations} iterations");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
