//! The work of an executor with callbacks of our loop, and no futures: the floor for tasks.

use super::executor::{Executor, LIMIT, Wake};
use super::ours::Aio;
use super::work::{Cannot, EventLoop, clear, eventfd, ring};
use crate::bare::EventFd;
use aio::op::ReadAt;
use aio::{AioContext, Interest, Timer};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

impl<const RING: bool, const EDGE: bool> Executor for Aio<RING, EDGE> {
    /// A bottom half in place of each task.
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot> {
        let wakes = (0..tasks).map(|_| {
            let seen = self.seen.clone();
            let half = self.context.bottom_half(move |_| seen.one_more());
            Box::new(move || half.schedule()) as Wake
        });
        Ok(wakes.collect())
    }

    /// A closure that the next turn calls.
    fn spawn_and_join(&mut self, times: u64) -> io::Result<()> {
        for _ in 0..times {
            let (seen, target) = (self.seen.clone(), self.seen.get() + 1);
            self.context.defer(move |_| seen.one_more());
            self.turn_until(target)?;
        }
        Ok(())
    }

    /// On epoll a handler that stays, on io_uring an operation for each read.
    fn read_in_time(&mut self, times: u64) -> io::Result<()> {
        let timer = Rc::new(self.context.timer(|_| {}));
        if RING {
            let mut read = Some((Arc::new(EventFd::new(0, 0)?), vec![0u8; 8]));
            let done = Rc::new(std::cell::Cell::new(None));
            for _ in 0..times {
                let Some((bell, buffer)) = read.take() else { break };
                let fd = bell.as_raw_fd();
                let (timer, seen, out) = (Rc::clone(&timer), self.seen.clone(), Rc::clone(&done));
                let target = seen.get() + 1;
                timer.arm_after(LIMIT);
                let finished = move |_: &AioContext, (result, bell, buffer): (io::Result<usize>, _, _)| {
                    timer.cancel();
                    out.set(result.ok().map(|_| (bell, buffer)));
                    seen.one_more();
                };
                self.context.start(ReadAt::new(bell, buffer, 0), finished)?;
                ring(fd);
                self.turn_until(target)?;
                read = done.take();
            }
            return read.map(drop).ok_or_else(|| io::Error::other("the read failed"));
        }
        let bell = eventfd()?;
        let (handled, timer_of, seen) = (Arc::clone(&bell), Rc::clone(&timer), self.seen.clone());
        let _handler = self.context.add_borrowed_fd(&bell, Interest::READABLE, move |_, _| {
            clear(&handled);
            timer_of.cancel();
            seen.one_more();
        })?;
        self.repeat(times, 1, || arm_and_ring(&timer, bell.as_raw_fd()))
    }
}

fn arm_and_ring(timer: &Timer, fd: std::os::fd::RawFd) {
    timer.arm_after(LIMIT);
    ring(fd);
}
