//! A disk that stores nothing and takes a fixed time per request. Used to make an iteration of the
//! event loop as long as a test or benchmark needs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::spin_loop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aio::{AioContext, Timer};

use super::Null;
use super::engine::Done;
use crate::blk::device::{FinishedRequest, PendingRequest};

/// Completes every request with status OK, a fixed time after it was submitted.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// How long a request takes.
    pub latency: Duration,
    /// Spend the time on the CPU, one request after the other, like a device that computes. If
    /// false, requests wait in parallel on the loop's timers, like on a disk.
    pub spin: bool,
}

#[derive(Debug)]
pub(super) struct DelayEngine {
    delay: Delay,
    null: Null,
    timer: Timer,
    /// In the order of their deadlines, because every request takes equally long.
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
