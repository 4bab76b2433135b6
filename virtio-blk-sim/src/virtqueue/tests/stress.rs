//! A driver thread and a device thread that really sleep. Each is woken only by the notifications
//! that the other half asks for, so one lost kick or interrupt makes the run hang.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::*;

/// Much longer than any scheduling delay: a side that waits this long was not notified.
const NEVER_TOLD: Duration = Duration::from_secs(60);

/// Behaves like an eventfd, without system calls: signals coalesce, and a wait consumes them all.
trait Bell: Default + Sync {
    fn ring(&self);
    fn wait(&self, who: &str);
    /// Time passes before a side looks whether it may sleep; `seed` changes with every call.
    fn dawdle(seed: u32);
}

/// Sleeps, so that both sides go through all their states as threads of a real device do.
#[derive(Default)]
struct SleepingBell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell for SleepingBell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn wait(&self, who: &str) {
        let rung = self.rung.lock().unwrap();
        let (mut rung, timeout) = self.wake.wait_timeout_while(rung, NEVER_TOLD, |rung| !*rung).unwrap();
        assert!(!timeout.timed_out(), "{who} was never told of work");
        *rung = false;
    }

    fn dawdle(_: u32) {}
}

/// Spins, so that both sides are awake and meet within nanoseconds of each other, millions of
/// times: this is what finds a missing fence (in an optimised build, where the window is a few
/// instructions wide).
#[derive(Default)]
struct SpinningBell {
    rung: AtomicBool,
}

impl Bell for SpinningBell {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
    }

    fn wait(&self, who: &str) {
        let deadline = Instant::now() + NEVER_TOLD;
        // The load first: a swap in the loop would keep the cache line from the ringer.
        while !self.rung.load(Ordering::Relaxed) || !self.rung.swap(false, Ordering::Acquire) {
            for _ in 0..1000 {
                if self.rung.load(Ordering::Relaxed) {
                    break;
                }
                std::hint::spin_loop();
            }
            if !self.rung.load(Ordering::Relaxed) {
                assert!(Instant::now() < deadline, "{who} was never told of work");
                thread::yield_now();
            }
        }
    }

    fn dawdle(seed: u32) {
        // Knuth's multiplicative hash: the top bits differ from call to call.
        for step in 0..seed.wrapping_mul(2_654_435_761) >> 25 {
            black_box(step);
        }
    }
}

struct Counts {
    kicks: u32,
    interrupts: u32,
}

/// `chains` requests through a queue of 16, up to `depth` of them in flight.
fn run<B: Bell>(event_idx: bool, depth: u16, chains: u32) -> Counts {
    let ram = three_regions();
    let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(RINGS), 16) };
    // The indices wrap on the way.
    let mut driver = DriverQueue::starting_at(ram.map().unwrap(), config, 65_000).unwrap();
    let mut device = DeviceQueue::resume(ram.memory().clone(), config, 65_000, 65_000).unwrap();
    let (kick, call) = (B::default(), B::default());
    thread::scope(|scope| {
        let device_side = scope.spawn(|| {
            let mut interrupts = 0;
            let mut served = 0;
            let mut chain = device.new_chain();
            while served < chains {
                device.disable_kicks();
                while device.pop(&mut chain).unwrap() {
                    let mut request = [0; 4];
                    assert_eq!(chain.readable().copy_to(0, &mut request), 4);
                    assert_eq!(chain.writable().copy_from(0, &request), 4);
                    device.push(chain.head(), 4).unwrap();
                    served += 1;
                    // Batches of changing size, so that publish meets the guest in all its states.
                    if served % 3 == 0 && device.publish() {
                        interrupts += 1;
                        call.ring();
                    }
                }
                if device.publish() {
                    interrupts += 1;
                    call.ring();
                }
                B::dawdle(served);
                if served < chains && !device.enable_kicks() {
                    kick.wait("the device");
                }
            }
            interrupts
        });
        let guest = ram.map().unwrap();
        let mut kicks = 0;
        let (mut added, mut taken) = (0_u32, 0_u32);
        let mut slots = [0_u32; 16];
        while taken < chains {
            driver.disable_interrupts();
            while let Some((head, written)) = driver.pop_used().unwrap() {
                assert_eq!(written, 4);
                let response: u32 = guest.read_obj(GuestAddress(0x9000 + 8 * u64::from(head))).unwrap();
                assert_eq!(response, slots[usize::from(head)], "the response is there before the used entry");
                taken += 1;
            }
            while added < chains && driver.in_flight() < depth && driver.free_descriptors() >= 2 {
                let head = next_head(&mut driver);
                guest.write_obj(added, GuestAddress(0x8000 + 8 * u64::from(head))).unwrap();
                slots[usize::from(head)] = added;
                added += 1;
                if added % 5 == 0 && driver.publish() {
                    kicks += 1;
                    kick.ring();
                }
            }
            if driver.publish() {
                kicks += 1;
                kick.ring();
            }
            B::dawdle(taken.wrapping_mul(3));
            if taken < chains && !driver.enable_interrupts() {
                call.wait("the guest");
            }
        }
        let interrupts = device_side.join().unwrap();
        assert_eq!((driver.in_flight(), driver.free_descriptors()), (0, 16));
        Counts { kicks, interrupts }
    })
}

/// Adds a request of 4 bytes and a response of 4 bytes, at addresses that depend on its head.
fn next_head(driver: &mut DriverQueue) -> u16 {
    // The buffers are not looked at before `publish`, so the descriptors may be corrected until
    // then.
    let head = driver.add(&[(GuestAddress(0x8000), 4)], &[(GuestAddress(0x9000), 4)]).unwrap().unwrap();
    let mut request = driver.read_desc(head).unwrap();
    let mut response = driver.read_desc(request.next).unwrap();
    request.addr += 8 * u64::from(head);
    response.addr += 8 * u64::from(head);
    driver.write_desc(request.next, response);
    driver.write_desc(head, request);
    head
}

#[test]
fn no_kick_and_no_interrupt_is_lost() {
    const CHAINS: u32 = 200_000;
    for event_idx in [true, false] {
        for depth in [1, 2, 8] {
            let chains = if depth == 8 { CHAINS } else { CHAINS / 10 };
            let Counts { kicks, interrupts } = run::<SleepingBell>(event_idx, depth, chains);
            assert!(kicks > 0 && kicks <= chains, "{kicks} kicks");
            assert!(interrupts > 0 && interrupts <= chains, "{interrupts} interrupts");
        }
    }
}

#[test]
fn no_kick_and_no_interrupt_is_lost_between_two_that_are_wide_awake() {
    let chains = if cfg!(debug_assertions) { 50_000 } else { 250_000 };
    for event_idx in [true, false] {
        for depth in [1, 2] {
            let Counts { kicks, interrupts } = run::<SpinningBell>(event_idx, depth, chains);
            assert!(kicks > 0 && kicks <= chains, "{kicks} kicks");
            assert!(interrupts > 0 && interrupts <= chains, "{interrupts} interrupts");
        }
    }
}
