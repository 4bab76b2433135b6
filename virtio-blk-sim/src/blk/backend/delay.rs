//! A disk that stores nothing and takes a chosen time: for making an iteration of the loop as long as one likes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::spin_loop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aio::{AioContext, Timer};

use super::done::Done;
use super::null::Null;
use crate::blk::device::{FinishedRequest, PendingRequest};

/// Answers Ok to everything, a fixed time after it was asked.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// How long a request takes.
    pub latency: Duration,
    /// Spend the time on the CPU, one request after the other, as a device that computes does. Otherwise requests wait
    /// side by side, on the loop's timers, as for a disk.
    pub spin: bool,
}

#[derive(Debug)]
pub(super) struct DelayEngine {
    delay: Delay,
    null: Null,
    timer: Timer,
    /// In the order of their deadlines, since every request takes equally long.
    waiting: RefCell<VecDeque<(u64, PendingRequest)>>,
}

impl DelayEngine {
    pub(super) fn new(delay: Delay, context: &AioContext, done: Rc<Done>) -> Rc<Self> {
        Rc::new_cyclic(|engine: &std::rc::Weak<Self>| {
            let engine = engine.clone();
            let batch = RefCell::new(Vec::new());
            let timer = context.timer(move |context| {
                if let Some(engine) = engine.upgrade() {
                    let mut batch = batch.borrow_mut();
                    engine.take_expired(context.now_ns(), &mut batch);
                    done(context, &mut batch);
                }
            });
            Self { delay, null: Null::default(), timer, waiting: RefCell::default() }
        })
    }

    pub(super) fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        if self.delay.spin {
            let begin = Instant::now();
            while begin.elapsed() < self.delay.latency {
                spin_loop();
            }
            return Some(self.null.execute(request));
        }
        let latency_ns = u64::try_from(self.delay.latency.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = self.timer.now_ns().saturating_add(latency_ns);
        self.waiting.borrow_mut().push_back((deadline_ns, request));
        self.timer.anticipate_at(deadline_ns);
        None
    }

    fn take_expired(&self, now_ns: u64, finished: &mut Vec<FinishedRequest>) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some((deadline_ns, request)) = waiting.pop_front() {
            if deadline_ns > now_ns {
                self.timer.arm_at(deadline_ns);
                waiting.push_front((deadline_ns, request));
                return;
            }
            finished.push(self.null.execute(request));
        }
    }
}
