//! monoio's runtime on io_uring: a task for each notifier, which awaits an eight-byte read(2) of it
//! in the kernel, and a main task that signals them and waits until they have answered.
//!
//! Settings: the defaults of its `RuntimeBuilder` with timers, and a submission queue with an entry
//! for each registration, up to 16,384. Its feature `legacy` (epoll) is left out, which saves a
//! branch in each operation, and `sync` is in, which wakes from other threads need.

use super::compio::ONE_SHOT;
use crate::bare::EventFd;
use crate::loops::executor::{Executor, LIMIT, Wake, rung_in_time};
use crate::loops::signal::{Main, Signal, answer_signal};
use crate::loops::work::{Cannot, EventLoop, LATER, Seen, Waker, others_at, ring};
use monoio::fs::File;
use monoio::task::JoinHandle;
use monoio::time::{Instant, Sleep, TimeDriver, sleep, timeout};
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::Context;
use std::time::Duration;

/// `UNREAD`: not possible, and refused.
pub(crate) struct Monoio<const UNREAD: bool> {
    /// The notifier of `churn`, which is registered again and again.
    again: Option<Rc<Doorbell>>,
    timer: Option<Pin<Box<Sleep>>>,
    others: Vec<Pin<Box<Sleep>>>,
    runtime: Runtime<TimeDriver<IoUringDriver>>,
    main: Main,
    seen: Seen,
}

/// An eventfd before it is registered: monoio's file then owns it.
pub(crate) struct Bell {
    fd: RawFd,
    owned: Mutex<Option<OwnedFd>>,
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

/// An eventfd that a task reads.
pub(crate) struct Doorbell {
    file: File,
    /// The task ends when it has answered the next time: monoio cannot abort a task.
    last: Cell<bool>,
}

/// The task of one notifier.
async fn answer(bell: Rc<Doorbell>, main: Main, seen: Seen) {
    // The operation owns the buffer while it is in flight, and gives it back.
    let mut buffer = Box::new([0u8; 8]);
    loop {
        // An eventfd has no position.
        let (result, given_back) = bell.file.read_at(buffer, 0).await;
        buffer = given_back;
        if result.is_err() {
            break;
        }
        seen.one_more();
        main.tell(&seen);
        if bell.last.get() {
            break;
        }
    }
}

/// Starts a task for a notifier. Only in the runtime.
fn listen(bell: &Rc<Doorbell>, main: &Main, seen: &Seen) -> JoinHandle<()> {
    monoio::spawn(answer(Rc::clone(bell), main.clone(), seen.clone()))
}

/// Only in the runtime.
fn adopt(bell: &Bell) -> io::Result<Rc<Doorbell>> {
    let owned = bell.owned.lock().ok().and_then(|mut owned| owned.take());
    let owned = owned.ok_or_else(|| io::Error::other("registered twice"))?;
    Ok(Rc::new(Doorbell { file: File::from_std(owned.into())?, last: Cell::new(false) }))
}

impl<const UNREAD: bool> EventLoop for Monoio<UNREAD> {
    type Bell = Bell;
    type Key = (Rc<Doorbell>, JoinHandle<()>);

    fn open(registrations: usize, seen: Seen) -> io::Result<Self> {
        if UNREAD {
            return Err(io::Error::other(ONE_SHOT));
        }
        let entries = registrations.next_power_of_two().clamp(1_024, 16_384) as u32;
        let runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(entries).enable_timer().build()?;
        Ok(Self { again: None, timer: None, others: Vec::new(), runtime, main: Main::default(), seen })
    }

    /// Blocking: a read in the kernel waits only then.
    fn bell() -> io::Result<Self::Bell> {
        let owned = OwnedFd::from(EventFd::new(0, 0)?);
        Ok(Bell { fd: owned.as_raw_fd(), owned: Mutex::new(Some(owned)) })
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let Self { runtime, main, seen, .. } = self;
        runtime.block_on(async {
            let doorbell = adopt(bell)?;
            let task = listen(&doorbell, main, seen);
            Ok((doorbell, task))
        })
    }

    fn remove(&mut self, (bell, task): Self::Key) -> io::Result<()> {
        bell.last.set(true);
        ring(bell.file.as_raw_fd());
        self.runtime.block_on(task);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.turn_until(self.seen.get() + 1)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn turn_until(&mut self, target: u64) -> io::Result<()> {
        let Self { runtime, main, seen, .. } = self;
        runtime.block_on(main.wait(seen, target));
        Ok(())
    }

    /// In one `block_on`, because entering the runtime is not part of a turn.
    fn repeat(&mut self, times: u64, events: u64, act: impl FnMut()) -> io::Result<()> {
        let Self { runtime, main, seen, .. } = self;
        let act = RefCell::new(act);
        runtime.block_on(async {
            for _ in 0..times {
                let target = seen.get() + events;
                act.borrow_mut()();
                main.wait(seen, target).await;
            }
        });
        Ok(())
    }

    fn churn(&mut self, bell: &Self::Bell, times: u64) -> io::Result<()> {
        let Self { runtime, main, seen, again, .. } = self;
        runtime.block_on(async {
            // To register is to start a task that reads.
            let doorbell = match again.take() {
                Some(doorbell) => doorbell,
                None => adopt(bell)?,
            };
            doorbell.last.set(true);
            for _ in 0..times {
                let target = seen.get() + 1;
                let task = listen(&doorbell, main, seen);
                ring(bell.as_raw_fd());
                main.wait(seen, target).await;
                task.await;
            }
            *again = Some(doorbell);
            Ok(())
        })
    }

    /// A task that waits for a flag: monoio has no such primitive of its own, but its tasks may be
    /// woken from any thread.
    fn waker(&mut self) -> Result<Waker, Cannot> {
        let Self { runtime, main, seen, .. } = self;
        let signal = Signal::default();
        let task = answer_signal(signal.clone(), main.clone(), seen.clone());
        runtime.block_on(async { drop(monoio::spawn(task)) });
        Ok(Box::new(move || signal.set()))
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        let armed = |delay| {
            let mut sleep = Box::pin(sleep(delay));
            // A sleep is armed by its first poll.
            let _ = sleep.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
            sleep
        };
        self.runtime.block_on(async {
            self.others = (0..others).map(|index| armed(others_at(index))).collect();
            self.timer = Some(armed(LATER));
        });
        Ok(())
    }

    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + delay);
        }
        Ok(())
    }

    /// A sleep of its own each time: one that was reset from a late deadline to an early one has
    /// been seen never to end.
    fn expire(&mut self, times: u64) -> io::Result<()> {
        let Self { runtime, seen, .. } = self;
        runtime.block_on(async {
            for _ in 0..times {
                sleep(Duration::ZERO).await;
                seen.one_more();
            }
        });
        Ok(())
    }
}

impl<const UNREAD: bool> Executor for Monoio<UNREAD> {
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot> {
        let Self { runtime, main, seen, .. } = self;
        let wakes = runtime.block_on(async {
            let wakes = (0..tasks).map(|_| {
                let signal = Signal::default();
                drop(monoio::spawn(answer_signal(signal.clone(), main.clone(), seen.clone())));
                Box::new(move || signal.set()) as Wake
            });
            wakes.collect()
        });
        Ok(wakes)
    }

    fn spawn_and_join(&mut self, times: u64) -> io::Result<()> {
        let Self { runtime, seen, .. } = self;
        runtime.block_on(async {
            for _ in 0..times {
                let seen = seen.clone();
                monoio::spawn(async move { seen.one_more() }).await;
            }
        });
        Ok(())
    }

    fn read_in_time(&mut self, times: u64) -> io::Result<()> {
        self.runtime.block_on(async {
            let file = File::from_std(OwnedFd::from(EventFd::new(0, 0)?).into())?;
            let mut buffer = Box::new([0u8; 8]);
            for _ in 0..times {
                let mut given_back = None;
                let read = async {
                    let (result, buffer) = file.read_at(buffer, 0).await;
                    given_back = Some(buffer);
                    result
                };
                rung_in_time(file.as_raw_fd(), timeout(LIMIT, read)).await?;
                buffer = given_back.unwrap_or_default();
            }
            Ok(())
        })
    }
}
