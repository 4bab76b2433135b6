//! Four queues of a device, balanced over two loops while their guests kick them.
//!
//! ```text
//! cargo run --release -p aio-context --example queue_rebalance -- [KICKS]
//! ```
//!
//! Each queue is a [`Movable`] device: a doorbell, and a count of requests that stands for its ring
//! in guest memory. All of them begin on the first loop. A timer of the main thread looks at how
//! busy each loop is and moves a queue from the busier one to the other. Each queue also takes part
//! in one guest time, by a timer on a clock that both loops share, and takes its deadline with it.
//! At the end every request must have been served, whichever loop did it.
//!
//! KICKS: how many requests each guest makes (default 20000).

use aio::{
    AioContext, Clock, EventNotifier, Home, Hosted, IoThread, Movable, NotifierRegistration, Reset, Timer,
    VirtualClock,
};
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const QUEUES: usize = 4;
const LOOPS: usize = 2;
/// How often a queue's timer expires in guest time.
const TICK_NS: u64 = 200_000;

/// What guest and device share.
#[derive(Default)]
struct Ring {
    made: AtomicU64,
    served: AtomicU64,
    ticks: AtomicU64,
}

struct Queue {
    ring: Arc<Ring>,
    kick: EventNotifier,
    /// Requests served on each loop, by the number that a thread's name ends with.
    load: Arc<[AtomicU64; LOOPS]>,
    next_tick_ns: Cell<u64>,
}

/// The index of the loop that the calling thread has.
fn this_loop() -> Option<usize> {
    std::thread::current().name()?.rsplit('-').next()?.parse().ok()
}

impl Queue {
    fn serve(&self) {
        let made = self.ring.made.load(Ordering::Acquire);
        let served = self.ring.served.swap(made, Ordering::Release);
        if let Some(load) = this_loop().and_then(|index| self.load.get(index)) {
            load.fetch_add(made - served, Ordering::Relaxed);
        }
    }

    fn tick(&self, timer: &Timer) {
        self.ring.ticks.fetch_add(1, Ordering::Relaxed);
        self.next_tick_ns.set(self.next_tick_ns.get() + TICK_NS);
        timer.arm_at(self.next_tick_ns.get());
    }
}

impl Movable for Queue {
    type Attached = (NotifierRegistration, Timer);

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<Self::Attached> {
        let doorbell = context.add_notifier(&self.kick, home.callback(|queue, _| queue.serve()))?;
        let tick = home.timer_callback(|queue, _, timer| queue.tick(timer));
        let ticker = context.timer_with_on(Clock::Virtual, tick);
        // The same deadline as on the last loop: both have the same clock.
        ticker.arm_at(self.next_tick_ns.get());
        Ok((doorbell, ticker))
    }
}

fn main() -> ExitCode {
    let kicks = match std::env::args().nth(1).map(|text| text.parse()) {
        None => 20_000,
        Some(Ok(kicks)) => kicks,
        Some(Err(_)) => {
            eprintln!("usage: queue_rebalance [KICKS]");
            return ExitCode::from(2);
        }
    };
    match run(kicks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("queue_rebalance: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(kicks: u64) -> Result<(), Box<dyn Error>> {
    let guest_time = Arc::new(VirtualClock::new());
    let builder = AioContext::builder().virtual_clock(Arc::clone(&guest_time));
    let threads = (0..LOOPS)
        .map(|index| IoThread::spawn(&format!("queue-io-{index}"), builder.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    let [first, second] = &threads[..] else { return Err("two loops".into()) };
    let load: Arc<[AtomicU64; LOOPS]> = Arc::default();

    let mut queues = Vec::new();
    for _ in 0..QUEUES {
        let (ring, kick) = (Arc::<Ring>::default(), EventNotifier::new(Reset::Autoreset)?);
        let queue = Queue {
            ring: Arc::clone(&ring),
            kick: kick.clone(),
            load: Arc::clone(&load),
            next_tick_ns: Cell::new(TICK_NS),
        };
        let hosted = Arc::new(Hosted::new(queue));
        hosted.move_to(first.handle());
        queues.push((hosted, ring, kick));
    }
    guest_time.start();

    let guests: Vec<_> = queues
        .iter()
        .map(|(_, ring, kick)| {
            let (ring, kick) = (Arc::clone(ring), kick.clone());
            std::thread::spawn(move || -> io::Result<()> {
                for request in 1..=kicks {
                    ring.made.store(request, Ordering::Release);
                    kick.notify()?;
                    // A few requests in flight, as a driver has them.
                    while request > ring.served.load(Ordering::Acquire) + 16 {
                        std::thread::yield_now();
                    }
                }
                Ok(())
            })
        })
        .collect();

    // The balance is looked at on a loop of its own, here.
    let balancer = AioContext::new()?;
    let moves = std::rc::Rc::new(Cell::new(0u64));
    let _look = balancer.interval(Duration::from_micros(500), {
        let (moves, hosted) = (std::rc::Rc::clone(&moves), queues.iter().map(|q| Arc::clone(&q.0)));
        let hosted: Vec<_> = hosted.collect();
        let (handles, load) = ([first.handle().clone(), second.handle().clone()], Arc::clone(&load));
        let last = Cell::new([0; LOOPS]);
        move |_, _| {
            let now = load.each_ref().map(|served| served.load(Ordering::Relaxed));
            let [a, b] = [0, 1].map(|i| now[i] - last.get()[i]);
            last.set(now);
            let [from, to] = if a >= b { [&handles[0], &handles[1]] } else { [&handles[1], &handles[0]] };
            if let Some(queue) = hosted.iter().find(|queue| queue.is_on(from)) {
                queue.move_to(to);
                moves.set(moves.get() + 1);
            }
        }
    });
    while guests.iter().any(|guest| !guest.is_finished()) {
        balancer.poll(true)?;
    }
    for guest in guests {
        guest.join().map_err(|_| "a guest panicked")??;
    }
    for (index, (_, ring, _)) in queues.iter().enumerate() {
        while ring.served.load(Ordering::Acquire) < kicks {
            std::thread::yield_now();
        }
        println!("queue {index}: {kicks} requests, {} ticks", ring.ticks.load(Ordering::Relaxed));
    }
    let [a, b] = load.each_ref().map(|served| served.load(Ordering::Relaxed));
    println!("{} moves; {a} requests on the first loop, {b} on the second", moves.get());
    if a + b != kicks * QUEUES as u64 {
        return Err(format!("{a} + {b} requests, not {}", kicks * QUEUES as u64).into());
    }
    Ok(())
}
