//! tokio's current-thread runtime: a task for each notifier, and a main task that signals them and
//! waits until they have answered.
#![expect(unsafe_code, reason = "AsyncFd requires a promise about the descriptor")]

use crate::bare::EventFd;
use crate::loops::executor::{Executor, LIMIT, Wake, rung_in_time};
use crate::loops::signal::{Main, Signal, answer_signal};
use crate::loops::work::{Cannot, EventLoop, LATER, Seen, Waker, clear, eventfd, others_at, ring};
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, timeout};

pub(crate) struct Tokio<const UNREAD: bool> {
    runtime: Runtime,
    timer: Option<Pin<Box<Sleep>>>,
    others: Vec<Pin<Box<Sleep>>>,
    main: Main,
    seen: Seen,
}

/// The task of one notifier: answers `once`, or until it is aborted.
async fn answer<const UNREAD: bool>(bell: AsyncFd<Arc<EventFd>>, main: Main, seen: Seen, once: bool) {
    while let Ok(mut ready) = bell.readable().await {
        if !UNREAD {
            clear(bell.get_ref());
        }
        ready.clear_ready();
        seen.one_more();
        main.tell(&seen);
        if once {
            break;
        }
    }
}

impl<const UNREAD: bool> Tokio<UNREAD> {
    fn spawn(&self, bell: &Arc<EventFd>, once: bool) -> io::Result<JoinHandle<()>> {
        // SAFETY: `AsRawFd` of an `Arc` of an owned descriptor gives the same open one for as long
        // as the `Arc` lives.
        let bell = unsafe { AsyncFd::register_with_interest(Arc::clone(bell), Interest::READABLE) }?;
        Ok(self.runtime.spawn(answer::<UNREAD>(bell, self.main.clone(), self.seen.clone(), once)))
    }
}

impl<const UNREAD: bool> EventLoop for Tokio<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = JoinHandle<()>;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, timer: None, others: Vec::new(), main: Main::default(), seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let _inside = self.runtime.enter();
        self.spawn(bell, false)
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        key.abort();
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
                // The task ends when it has answered; its registration ends with it.
                let task = self.spawn(bell, true)?;
                ring(bell.as_raw_fd());
                self.main.wait(&self.seen, target).await;
                task.await.map_err(io::Error::other)?;
            }
            Ok(())
        })
    }

    /// A task that waits for a `Notify`, as tokio's users wake one from another thread.
    fn waker(&mut self) -> Result<Waker, Cannot> {
        let woken = Arc::new(tokio::sync::Notify::default());
        let (waiting, main, seen) = (Arc::clone(&woken), self.main.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            loop {
                waiting.notified().await;
                seen.one_more();
                main.tell(&seen);
            }
        });
        Ok(Box::new(move || woken.notify_one()))
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        let _inside = self.runtime.enter();
        self.others = (0..others).map(|index| Box::pin(sleep(others_at(index)))).collect();
        self.timer = Some(Box::pin(sleep(LATER)));
        // A sleep is armed by its first poll.
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        for sleep in self.others.iter_mut().chain(&mut self.timer) {
            let _ = sleep.as_mut().poll(&mut nobody);
        }
        Ok(())
    }

    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + delay);
        }
        Ok(())
    }

    fn expire(&mut self, times: u64) -> io::Result<()> {
        let Some(mut timer) = self.timer.take() else { return Ok(()) };
        self.runtime.block_on(async {
            for _ in 0..times {
                timer.as_mut().reset(Instant::now());
                timer.as_mut().await;
                self.seen.one_more();
            }
        });
        self.timer = Some(timer);
        Ok(())
    }
}

impl<const UNREAD: bool> Executor for Tokio<UNREAD> {
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot> {
        let wakes = (0..tasks).map(|_| {
            let signal = Signal::default();
            self.runtime.spawn(answer_signal(signal.clone(), self.main.clone(), self.seen.clone()));
            Box::new(move || signal.set()) as Wake
        });
        Ok(wakes.collect())
    }

    fn spawn_and_join(&mut self, times: u64) -> io::Result<()> {
        self.runtime.block_on(async {
            for _ in 0..times {
                let seen = self.seen.clone();
                tokio::spawn(async move { seen.one_more() }).await.map_err(io::Error::other)?;
            }
            Ok(())
        })
    }

    fn read_in_time(&mut self, times: u64) -> io::Result<()> {
        let bell = eventfd()?;
        self.runtime.block_on(async {
            let fd = bell.as_raw_fd();
            // SAFETY: as in `spawn`.
            let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
            for _ in 0..times {
                let read = async {
                    let mut ready = bell.readable().await?;
                    clear(bell.get_ref());
                    ready.clear_ready();
                    Ok(size_of::<u64>())
                };
                rung_in_time(fd, timeout(LIMIT, read)).await?;
            }
            Ok(())
        })
    }
}
