//! A steady-state turn does not allocate. Allocations are counted per thread, because the test
//! harness has other threads.

use crate::{Doorbell, doorbells, monitors};
use aio::io_uring::opcode;
use aio::{AioContext, EventNotifier, Interest, MonitorKind, Reset};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Barrier;

struct Counting;

thread_local! {
    // Constant and without a destructor: may be used inside the allocator at any time.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: the system's allocator, with a counter that does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, handed on; also below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the calling thread allocates in `work`.
pub(crate) fn during(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Runs turns until every queue has reached its final size, then counts the allocations of a
/// hundred turns.
pub(crate) fn steady(mut turn: impl FnMut()) -> u64 {
    (0..20).for_each(|_| turn());
    during(|| (0..100).for_each(|_| turn()))
}

#[test]
fn the_allocator_counts() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(7)))), 1);
    assert_eq!(during(|| assert_eq!(std::hint::black_box(1) + 1, 2)), 0);
}

#[test]
fn doorbells_with_every_method() {
    for bell in doorbells() {
        assert_eq!(steady(|| bell.turn()), 0, "{} with {}", bell.kind, bell.method);
    }
}

#[test]
fn descriptors() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let reader = Rc::new(reader);
        let input = Rc::clone(&reader);
        let _fd = ctx
            .add_borrowed_fd(&reader, Interest::READABLE, move |_, ready| {
                assert!(ready.is_readable());
                assert_eq!((&*input).read(&mut [0; 8]).unwrap(), 1);
            })
            .unwrap();
        let allocations = steady(|| {
            writer.write_all(b"x").unwrap();
            assert!(ctx.poll(true).unwrap());
        });
        assert_eq!(allocations, 0, "{kind}");
    }
}

#[test]
fn timers_armed_again_by_their_own_callback() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let timer = Rc::new(RefCell::new(None::<aio::Timer>));
        let again = Rc::clone(&timer);
        // Due at once, in the next turn.
        let rearm = move |_: &AioContext| again.borrow().as_ref().unwrap().arm_at(1);
        *timer.borrow_mut() = Some(ctx.timer(rearm));
        timer.borrow().as_ref().unwrap().arm_at(1);
        let before = ctx.stats().timers;
        assert_eq!(steady(|| assert!(ctx.poll(true).unwrap())), 0, "{kind}");
        assert_eq!(ctx.stats().timers - before, 120, "{kind}");
    }
}

#[test]
fn bottom_halves_of_the_home_thread() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let halves: Vec<_> = (0..10).map(|_| ctx.bottom_half(|_| ())).collect();
        let allocations = steady(|| {
            halves.iter().for_each(aio::BottomHalf::schedule);
            assert!(ctx.poll(true).unwrap());
        });
        assert_eq!(allocations, 0, "{kind}");
        assert_eq!(ctx.stats().bottom_halves, 1200, "{kind}");
    }
}

#[test]
fn bottom_halves_scheduled_by_another_thread() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        // Whether the loop sleeps and is woken by its own notifier is up to the scheduler; any
        // notifier allocates what that needs once.
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let _kick = ctx.add_notifier(&kick, |_| ()).unwrap();
        kick.notify().unwrap();
        assert!(ctx.poll(true).unwrap());
        let half = ctx.bottom_half(|_| ());
        let handle = half.handle();
        let turn = Barrier::new(2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                steady(|| {
                    turn.wait();
                    handle.schedule();
                })
            });
            let home = steady(|| {
                turn.wait();
                // Sleeps or not, as the two threads happen to meet; a wake-up may be left from the
                // last time.
                while !ctx.poll(true).unwrap() {}
            });
            assert_eq!((home, other.join().unwrap()), (0, 0), "{kind}");
        });
        assert_eq!(ctx.stats().bottom_halves, 120, "{kind}");
    }
}

#[test]
fn operations_with_a_shared_callback() {
    let Some((_, builder)) = monitors().into_iter().find(|(k, _)| *k == MonitorKind::IoUring) else {
        return;
    };
    let ctx = builder.build().unwrap();
    let done = Rc::new(Cell::new(0));
    let count = Rc::clone(&done);
    let nops = ctx
        .operations(move |_, result, request: [u64; 4]| {
            assert_eq!((result, request), (0, [7; 4]));
            count.set(count.get() + 1);
        })
        .unwrap();
    let allocations = steady(|| {
        for _ in 0..8 {
            // SAFETY: a NOP points to nothing.
            unsafe { nops.submit(opcode::Nop::new().build(), [7; 4]) }.unwrap();
        }
        assert!(ctx.poll(true).unwrap());
    });
    assert_eq!((allocations, done.get()), (0, 8 * 120));
}

/// All of the above in one loop.
#[test]
fn everything_in_one_turn() {
    for Doorbell { kind, ctx, kick, .. } in doorbells() {
        let half = ctx.bottom_half(|_| ());
        let timer = ctx.timer(|_| ());
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let _fd = ctx.add_borrowed_fd(&reader, Interest::READABLE, |_, _| ()).unwrap();
        let allocations = steady(|| {
            kick.notify().unwrap();
            half.schedule();
            timer.arm_at(1);
            assert!(ctx.poll(true).unwrap());
        });
        assert_eq!(allocations, 0, "{kind}");
    }
}
