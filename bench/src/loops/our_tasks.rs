//! Our own loop with tasks instead of callbacks: one for each notifier, which awaits its doorbell,
//! and a main task that signals them and waits until they have answered.

use super::executor::{Executor, LIMIT, Wake, rung_in_time};
use super::signal::{Main, Signal, answer_signal};
use super::work::{Cannot, EventLoop, Seen, clear, eventfd};
use crate::bare::EventFd;
use aio::op::ReadAt;
use aio::{AioContext, EventNotifier, Interest, JoinHandle, Method, MonitorKind, Reset};
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// `RING`: on io_uring, else on epoll. Notifiers are edge-triggered.
pub(super) struct Tasks<const RING: bool> {
    /// Those that run until the loop is dropped.
    tasks: Vec<JoinHandle<()>>,
    context: AioContext,
    main: Main,
    seen: Seen,
}

const RESET: Reset = Reset::AutoresetBy(Method::Edge);

impl<const RING: bool> EventLoop for Tasks<RING> {
    type Bell = EventNotifier;
    type Key = JoinHandle<()>;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let monitor = if RING { MonitorKind::IoUring } else { MonitorKind::Epoll };
        let context = AioContext::builder().monitor(monitor).reset(RESET).build()?;
        Ok(Self { tasks: Vec::new(), context, main: Main::default(), seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        EventNotifier::new(RESET)
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let mut doorbell = self.context.doorbell(bell)?;
        let (main, seen) = (self.main.clone(), self.seen.clone());
        Ok(self.context.spawn(async move {
            loop {
                doorbell.rung().await;
                seen.one_more();
                main.tell(&seen);
            }
        }))
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
        self.context.block_on(self.main.wait(&self.seen, target))
    }

    /// In one `block_on`, as the executors that it is compared with.
    fn repeat(&mut self, times: u64, events: u64, act: impl FnMut()) -> io::Result<()> {
        let act = RefCell::new(act);
        self.context.block_on(async {
            for _ in 0..times {
                let target = self.seen.get() + events;
                act.borrow_mut()();
                self.main.wait(&self.seen, target).await;
            }
        })
    }
}

impl<const RING: bool> Executor for Tasks<RING> {
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot> {
        let wakes = (0..tasks).map(|_| {
            let signal = Signal::default();
            let task = answer_signal(signal.clone(), self.main.clone(), self.seen.clone());
            self.tasks.push(self.context.spawn(task));
            Box::new(move || signal.set()) as Wake
        });
        Ok(wakes.collect())
    }

    fn spawn_and_join(&mut self, times: u64) -> io::Result<()> {
        self.context.block_on(async {
            for _ in 0..times {
                let seen = self.seen.clone();
                self.context.spawn(async move { seen.one_more() }).await.map_err(io::Error::other)?;
            }
            Ok(())
        })?
    }

    /// On io_uring an operation of the ring; on epoll the descriptor is awaited, and then read.
    fn read_in_time(&mut self, times: u64) -> io::Result<()> {
        if RING {
            let bell = Arc::new(EventFd::new(0, 0)?);
            let fd = bell.as_raw_fd();
            return self.context.block_on(async {
                let mut buffer = vec![0u8; 8];
                for _ in 0..times {
                    let read = self.context.perform(ReadAt::new(Arc::clone(&bell), buffer, 0));
                    let mut given_back = None;
                    let read = async {
                        let (result, _, buffer) = read.await;
                        given_back = Some(buffer);
                        result
                    };
                    rung_in_time(fd, self.context.timeout(LIMIT, read)).await?;
                    buffer = given_back.unwrap_or_default();
                }
                Ok(())
            })?;
        }
        let bell = self.context.async_fd(eventfd()?).map_err(|refused| refused.error)?;
        let fd = bell.get_ref().as_raw_fd();
        self.context.block_on(async {
            for _ in 0..times {
                let read = async {
                    let mut ready = bell.ready(Interest::READABLE).await?;
                    clear(ready.get_ref());
                    ready.clear_ready();
                    Ok(size_of::<u64>())
                };
                rung_in_time(fd, self.context.timeout(LIMIT, read)).await?;
            }
            Ok(())
        })?
    }
}
