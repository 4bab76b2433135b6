//! The scenarios that QEMU tests its GSource with: the context is turned only by iterations of an
//! outer loop.

use crate::outer_loops::OuterLoop;
use crate::setup::Setup;
use crate::support::{Count, Slot};
use aio::{AioContext, BottomHalf, EventNotifier, NotifierRegistration};
use std::rc::Rc;
use std::time::Duration;

/// A bottom half that counts its runs.
fn counted(ctx: &AioContext) -> (BottomHalf, Count) {
    let runs = Count::default();
    let half = ctx.bottom_half({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    (half, runs)
}

/// A notifier whose handler counts, and rings again while `active` is not zero.
struct Active {
    notifier: EventNotifier,
    _bell: NotifierRegistration,
    calls: Count,
    active: Count,
}

impl Active {
    fn new(setup: &Setup, ctx: &AioContext, active: u64) -> Self {
        let (notifier, calls, left) = (setup.notifier(), Count::default(), Count::default());
        left.add(active);
        let bell = ctx.add_notifier(&notifier, {
            let (calls, left, notifier) = (calls.clone(), left.clone(), notifier.clone());
            move |_| {
                calls.bump();
                if calls.get() < left.get() {
                    notifier.notify().unwrap();
                }
            }
        });
        Self { notifier, _bell: bell.unwrap(), calls, active: left }
    }
}

pub(crate) fn flush(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        assert!(!outer.iterate(false));
        outer.ctx.handle().notify();
        while outer.iterate(false) {}
        assert!(!outer.iterate(false));
    });
}

pub(crate) fn bottom_half_schedule(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (half, runs) = counted(&outer.ctx);
        half.schedule();
        assert_eq!(runs.get(), 0);
        assert!(outer.iterate(true));
        assert_eq!(runs.get(), 1);
        assert!(!outer.iterate(false));
        assert_eq!(runs.get(), 1);
    });
}

pub(crate) fn bottom_half_schedules_itself_ten_times(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (runs, slot) = (Count::default(), Slot::new());
        slot.put(outer.ctx.bottom_half({
            let (runs, slot) = (runs.clone(), slot.clone());
            move |_| {
                runs.bump();
                if runs.get() < 10 {
                    slot.with(BottomHalf::schedule);
                }
            }
        }));
        slot.with(BottomHalf::schedule);
        assert_eq!(runs.get(), 0);
        assert!(outer.iterate(false));
        assert_eq!(runs.get(), 1);
        assert!(outer.iterate(true));
        assert_eq!(runs.get(), 2);
        outer.iterate_until(|| runs.get() == 10);
        assert!(!outer.iterate(false));
        assert_eq!(runs.get(), 10);
        drop(slot.take());
    });
}

pub(crate) fn bottom_half_cancel(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (half, runs) = counted(&outer.ctx);
        half.schedule();
        half.cancel();
        assert!(!outer.iterate(false));
        assert_eq!(runs.get(), 0);
    });
}

pub(crate) fn bottom_half_delete(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (half, runs) = counted(&outer.ctx);
        half.schedule();
        drop(half);
        assert!(!outer.iterate(false));
        assert_eq!(runs.get(), 0);
    });
}

pub(crate) fn bottom_halves_delete_themselves(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        // How many times each schedules itself before it deletes itself.
        let wanted = [10, 100, 1, 5];
        let (runs, slots) = (Rc::new([(); 4].map(|()| Count::default())), [(); 4].map(|()| Slot::new()));
        for (i, slot) in slots.iter().enumerate() {
            slot.put(outer.ctx.bottom_half({
                let (runs, slot) = (Rc::clone(&runs), slot.clone());
                move |_| {
                    runs[i].bump();
                    if runs[i].get() < wanted[i] {
                        slot.with(BottomHalf::schedule);
                    } else {
                        drop(slot.take());
                    }
                }
            }));
            slot.with(BottomHalf::schedule);
        }
        while outer.iterate(false) {}
        assert_eq!(runs.each_ref().map(Count::get), wanted);
        assert!(slots.iter().all(|slot| slot.take().is_none()));
    });
}

pub(crate) fn a_notifier_comes_and_goes(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let device = Active::new(setup, &outer.ctx, 0);
        while outer.iterate(false) {}
        assert_eq!(device.calls.get(), 0);
        drop(device);
        while outer.iterate(false) {}
    });
}

pub(crate) fn a_notifier_is_waited_for(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let device = Active::new(setup, &outer.ctx, 1);
        while outer.iterate(false) {}
        assert_eq!(device.calls.get(), 0);
        device.notifier.notify().unwrap();
        outer.iterate_until(|| device.calls.get() == 1);
        while outer.iterate(false) {}
        assert_eq!(device.calls.get(), 1);
        device.notifier.notify().unwrap();
        outer.iterate_until(|| device.calls.get() == 2);
        while outer.iterate(false) {}
        assert_eq!(device.calls.get(), 2);
    });
}

pub(crate) fn a_notifier_that_rings_itself_is_flushed(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let device = Active::new(setup, &outer.ctx, 10);
        assert!(!outer.iterate(false));
        device.notifier.notify().unwrap();
        outer.iterate_until(|| device.calls.get() == 1);
        // Iterations that do not sleep are enough for the rest.
        while outer.iterate(false) {}
        assert_eq!((device.calls.get(), device.active.get()), (10, 10));
        assert!(!outer.iterate(false));
    });
}

/// One notifier without a flush of its own is waited for while another one is active.
pub(crate) fn a_notifier_is_waited_for_beside_another(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let dummy = Active::new(setup, &outer.ctx, 1);
        let device = Active::new(setup, &outer.ctx, 1);
        while outer.iterate(false) {}
        device.notifier.notify().unwrap();
        outer.iterate_until(|| device.calls.get() == 1);
        assert_eq!(dummy.calls.get(), 0);
        dummy.notifier.notify().unwrap();
        device.notifier.notify().unwrap();
        outer.iterate_until(|| dummy.calls.get() == 1 && device.calls.get() == 2);
        while outer.iterate(false) {}
        assert_eq!((dummy.calls.get(), device.calls.get()), (1, 2));
    });
}

pub(crate) fn a_timer_is_armed_again_by_its_callback(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (runs, slot) = (Count::default(), Slot::new());
        slot.put(outer.ctx.timer({
            let (runs, slot) = (runs.clone(), slot.clone());
            move |ctx: &AioContext| {
                runs.bump();
                slot.with(|timer: &aio::Timer| {
                    assert!(!timer.is_pending() && ctx.now_ns() >= 1);
                    if runs.get() < 3 {
                        timer.arm_after(Duration::from_micros(750));
                    }
                });
            }
        }));
        let armed_ns = outer.ctx.now_ns();
        slot.with(|timer| timer.arm_after(Duration::from_micros(750)));
        outer.iterate_until(|| runs.get() == 3);
        assert!(outer.ctx.now_ns() - armed_ns >= 3 * 750_000);
        assert!(!outer.iterate(false));
        drop(slot.take());
    });
}
