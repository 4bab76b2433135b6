//! An image with metadata, attached to a loop: each request is a task.
//!
//! A queue has at most as many requests in flight as it has entries, so there are at most as many
//! tasks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, BottomHalf, LocalHandle};

use super::FormattedImage;
use super::current::{OnLoop, Panicked};
use crate::blk::backend::done::Done;
use crate::blk::device::{FinishedRequest, PendingRequest};
use crate::loop_thread;

/// How long to wait for an operation that was cancelled, before looking again.
const CANCELLING: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(in crate::blk::backend) struct FormattedEngine {
    image: Arc<FormattedImage>,
    local: LocalHandle,
    answers: Rc<Answers>,
}

/// What has finished in a turn.
#[derive(Debug)]
struct Answers {
    finished: Rc<RefCell<Vec<FinishedRequest>>>,
    /// Runs after all that complete in the turn, so that they form one batch.
    deliver: BottomHalf,
}

impl FormattedEngine {
    pub(in crate::blk::backend) fn new(
        image: Arc<FormattedImage>,
        context: &AioContext,
        done: Rc<Done>,
    ) -> Self {
        loop_thread::note(context);
        let finished: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();
        let source = Rc::clone(&finished);
        let batch = RefCell::default();
        let deliver = context.bottom_half(move |context| {
            let mut batch = batch.borrow_mut();
            std::mem::swap(&mut *source.borrow_mut(), &mut *batch);
            done(context, &mut batch);
        });
        let answers = Rc::new(Answers { finished, deliver });
        Self { image, local: context.local_handle(), answers }
    }

    /// The request is answered later.
    #[cold] // for the other backends, whose code this would otherwise be part of
    pub(in crate::blk::backend) fn submit(&self, request: PendingRequest) {
        let image = Arc::clone(&self.image);
        let (local, answers) = (self.local.clone(), Rc::clone(&self.answers));
        let task = self.local.spawn(async move {
            let answer = serve(&image, &local, request).await;
            answers.finished.borrow_mut().push(answer);
            answers.deliver.schedule();
        });
        drop(task.named("image"));
    }
}

async fn serve(image: &FormattedImage, local: &LocalHandle, request: PendingRequest) -> FinishedRequest {
    let mut request = Arc::new(request);
    let result = match OnLoop::new(local.clone(), image.carry_out(&mut request)).await {
        Ok(result) => result,
        Err(Panicked) => {
            image.health.broken();
            image.health.check_change()
        }
    };
    // Operations that use its memory are over, except after a panic, which cancels them.
    loop {
        match Arc::try_unwrap(request) {
            Ok(request) => return request.finish(result),
            Err(shared) => request = shared,
        }
        local.sleep(CANCELLING).await;
    }
}
