//! compio's runtime on io_uring: a task for each notifier, which awaits an eight-byte read(2) of it
//! in the kernel, and a main task that signals them and waits until they have answered.
//!
//! Settings, as the documentation of its `ProactorBuilder` recommends: `coop_taskrun` ("optimize
//! performance for most cases") with `taskrun_flag`. The submission queue has an entry for each
//! registration, up to 16,384. Everything else has its default.

use crate::bare::EventFd;
use crate::loops::executor::{Executor, LIMIT, Wake, rung_in_time};
use crate::loops::signal::{Main, Signal, answer_signal};
use crate::loops::work::{Cannot, EventLoop, LATER, Seen, Waker, later, others_at, ring};
use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::AsyncRead;
use compio::runtime::fd::AsyncFd;
use compio::runtime::{JoinHandle, Runtime, RuntimeBuilder};
use compio::time::{sleep, timeout};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

/// `UNREAD`: not possible, and refused.
pub(crate) struct Compio<const UNREAD: bool> {
    /// Tasks end when their handles are dropped.
    tasks: Vec<JoinHandle<()>>,
    timer: Option<Sleep>,
    others: Vec<Sleep>,
    runtime: Runtime,
    main: Main,
    seen: Seen,
}

type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// The task of one notifier: answers `once`, or until it is dropped.
async fn answer(bell: AsyncFd<Arc<EventFd>>, main: Main, seen: Seen, once: bool) {
    // The operation owns the buffer while it is in flight, and gives it back.
    let mut buffer = [0u8; 8];
    loop {
        let BufResult(result, given_back) = (&bell).read(buffer).await;
        buffer = given_back;
        if result.is_err() {
            break;
        }
        seen.one_more();
        main.tell(&seen);
        if once {
            break;
        }
    }
}

impl<const UNREAD: bool> Compio<UNREAD> {
    fn spawn(&self, bell: &Arc<EventFd>, once: bool) -> io::Result<JoinHandle<()>> {
        let bell = AsyncFd::new(Arc::clone(bell))?;
        Ok(self.runtime.spawn(answer(bell, self.main.clone(), self.seen.clone(), once)))
    }

    /// A sleep that is armed, which its first poll does.
    fn armed(delay: Duration) -> Sleep {
        let mut sleep: Sleep = Box::pin(sleep(delay));
        let _ = sleep.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        sleep
    }
}

impl<const UNREAD: bool> EventLoop for Compio<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = JoinHandle<()>;

    fn open(registrations: usize, seen: Seen) -> io::Result<Self> {
        if UNREAD {
            return Err(io::Error::other(ONE_SHOT));
        }
        let mut driver = ProactorBuilder::new();
        driver.capacity(registrations.next_power_of_two().clamp(1_024, 16_384) as u32);
        driver.coop_taskrun(true).taskrun_flag(true);
        let runtime = RuntimeBuilder::new().with_proactor(driver).build()?;
        Ok(Self { tasks: Vec::new(), timer: None, others: Vec::new(), runtime, main: Main::default(), seen })
    }

    /// Blocking: a read in the kernel waits only then.
    fn bell() -> io::Result<Self::Bell> {
        EventFd::new(0, 0).map(Arc::new)
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        self.runtime.enter(|| self.spawn(bell, false))
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        self.runtime.enter(|| drop(key));
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.turn_until(self.seen.get() + 1)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn turn_until(&mut self, target: u64) -> io::Result<()> {
        self.runtime.block_on(self.main.wait(&self.seen, target));
        Ok(())
    }

    /// In one `block_on`, because entering the runtime is not part of a turn.
    fn repeat(&mut self, times: u64, events: u64, act: impl FnMut()) -> io::Result<()> {
        let act = RefCell::new(act);
        self.runtime.block_on(async {
            for _ in 0..times {
                let target = self.seen.get() + events;
                act.borrow_mut()();
                self.main.wait(&self.seen, target).await;
            }
        });
        Ok(())
    }

    fn churn(&mut self, bell: &Self::Bell, times: u64) -> io::Result<()> {
        self.runtime.block_on(async {
            for _ in 0..times {
                let target = self.seen.get() + 1;
                let task = self.spawn(bell, true)?;
                ring(bell.as_raw_fd());
                self.main.wait(&self.seen, target).await;
                task.await.map_err(io::Error::from)?;
            }
            Ok(())
        })
    }

    /// A task that waits for a flag: compio has no such primitive of its own, but its tasks may be
    /// woken from any thread.
    fn waker(&mut self) -> Result<Waker, Cannot> {
        let signal = Signal::default();
        let task = answer_signal(signal.clone(), self.main.clone(), self.seen.clone());
        self.tasks.push(self.runtime.enter(|| self.runtime.spawn(task)));
        Ok(Box::new(move || signal.set()))
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        self.runtime.enter(|| {
            self.others = (0..others).map(|index| Self::armed(others_at(index))).collect();
            self.timer = Some(Self::armed(LATER));
        });
        Ok(())
    }

    /// To change its deadline a sleep is dropped and made again: compio gives no access to the
    /// timer of one.
    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        self.timer = None;
        self.timer = Some(Self::armed(delay));
        Ok(())
    }

    fn rearm_for_later(&mut self, times: u64) -> io::Result<()> {
        let runtime = self.runtime.clone();
        runtime.enter(|| (0..times).try_for_each(|n| self.rearm(later(n))))
    }

    fn expire(&mut self, _: u64) -> io::Result<()> {
        Err(io::Error::other("a sleep that is over when it starts never reaches its timers"))
    }
}

impl<const UNREAD: bool> Executor for Compio<UNREAD> {
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot> {
        let wakes = (0..tasks).map(|_| {
            let signal = Signal::default();
            let task = answer_signal(signal.clone(), self.main.clone(), self.seen.clone());
            self.tasks.push(self.runtime.enter(|| self.runtime.spawn(task)));
            Box::new(move || signal.set()) as Wake
        });
        Ok(wakes.collect())
    }

    fn spawn_and_join(&mut self, times: u64) -> io::Result<()> {
        self.runtime.block_on(async {
            for _ in 0..times {
                let seen = self.seen.clone();
                self.runtime.spawn(async move { seen.one_more() }).await.map_err(io::Error::from)?;
            }
            Ok(())
        })
    }

    fn read_in_time(&mut self, times: u64) -> io::Result<()> {
        let bell = Self::bell()?;
        self.runtime.block_on(async {
            let fd = bell.as_raw_fd();
            let bell = AsyncFd::new(bell)?;
            for _ in 0..times {
                let read = async { (&bell).read([0u8; 8]).await.0 };
                rung_in_time(fd, timeout(LIMIT, read)).await?;
            }
            Ok(())
        })
    }
}

/// Why an eventfd is always read.
pub(super) const ONE_SHOT: &str =
    "its polls are one-shot, so an eventfd that nobody reads would be ready again at once";
