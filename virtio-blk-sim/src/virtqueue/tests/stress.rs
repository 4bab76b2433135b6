//! A driver thread and a device thread that sleep for real, each woken by nothing but the notifications that
//! the other half says are due. One lost kick or interrupt and the run hangs.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::*;

/// An eventfd's manners without the syscalls: rings coalesce, a wait takes them all.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    /// Far longer than any scheduling delay: whoever waits this long was not told.
    fn wait(&self, who: &str) {
        let rung = self.rung.lock().unwrap();
        let (mut rung, timeout) = self
            .wake
            .wait_timeout_while(rung, Duration::from_secs(60), |rung| !*rung)
            .unwrap();
        assert!(!timeout.timed_out(), "{who} was never told of work");
        *rung = false;
    }
}

struct Counts {
    kicks: u32,
    interrupts: u32,
}

/// `chains` requests through a queue of 16, up to `depth` of them in flight.
fn run(event_idx: bool, depth: u16, chains: u32) -> Counts {
    let ram = three_regions();
    let config = QueueConfig {
        event_idx,
        ..QueueConfig::at(GuestAddress(RINGS), 16)
    };
    // The indices wrap on the way.
    let mut driver = DriverQueue::starting_at(ram.map().unwrap(), config, 65_000).unwrap();
    let mut device = DeviceQueue::resume(ram.memory().clone(), config, 65_000, 65_000).unwrap();
    let (kick, call) = (Bell::default(), Bell::default());
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
                let response: u32 = guest
                    .read_obj(GuestAddress(0x9000 + 8 * u64::from(head)))
                    .unwrap();
                assert_eq!(
                    response,
                    slots[usize::from(head)],
                    "the response is there before the used entry"
                );
                taken += 1;
            }
            while added < chains && driver.in_flight() < depth && driver.free_descriptors() >= 2 {
                let head = next_head(&mut driver);
                guest
                    .write_obj(added, GuestAddress(0x8000 + 8 * u64::from(head)))
                    .unwrap();
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
            if taken < chains && !driver.enable_interrupts() {
                call.wait("the guest");
            }
        }
        let interrupts = device_side.join().unwrap();
        assert_eq!((driver.in_flight(), driver.free_descriptors()), (0, 16));
        Counts { kicks, interrupts }
    })
}

/// Adds a request of 4 bytes and a response of 4 at addresses that go with its head.
fn next_head(driver: &mut DriverQueue) -> u16 {
    // The buffers are not looked at before `publish`, so the descriptors may be corrected until then.
    let head = driver
        .add(&[(GuestAddress(0x8000), 4)], &[(GuestAddress(0x9000), 4)])
        .unwrap()
        .unwrap();
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
            let Counts { kicks, interrupts } = run(event_idx, depth, chains);
            assert!(kicks > 0 && kicks <= chains, "{kicks} kicks");
            assert!(interrupts > 0 && interrupts <= chains, "{interrupts} interrupts");
        }
    }
}
