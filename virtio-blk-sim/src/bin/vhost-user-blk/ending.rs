//! The end of the process: in order, or by force.

use std::rc::Rc;
use std::sync::Arc;

use aio::{IoThread, RemoteJoinHandle};

use crate::host::Host;
use crate::wait::unless;

/// How the disks have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All requests were answered, and the images are closed.
    InOrder,
    /// Somebody wanted it not to wait. There may be requests in flight, and threads that wait for
    /// storage.
    ByForce,
}

impl Host {
    /// Ends the process in order.
    pub(crate) fn stop(&self) {
        self.end.want();
    }

    /// Ends the process without waiting for requests in flight, or for storage.
    pub(crate) fn stop_by_force(&self) {
        self.end.force();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.end.is_wanted()
    }

    /// Ends all disks. New frontends are not served any more. The loop turns meanwhile, so this can
    /// be forced while it waits.
    pub(crate) async fn shut_down(&self) -> Ended {
        self.stop();
        match unless(self.end_in_order(), self.end.forced()).await {
            Some(()) => Ended::InOrder,
            None => {
                for running in self.disks().iter().filter_map(|entry| entry.running()) {
                    running.server.abandon();
                }
                Ended::ByForce
            }
        }
    }

    async fn end_in_order(&self) {
        let entries = self.disks();
        let running: Vec<_> = entries.iter().filter_map(|entry| entry.running()).collect();
        // First of all, or a frontend that comes back would be served until the last disk has
        // ended, and its requests would not be completed. The names go at the end: that takes a
        // lock.
        let listening: Vec<_> = running.iter().filter_map(|running| running.listening.take()).collect();
        let _names: Vec<_> = listening.into_iter().map(|(_, name)| name).collect();
        let ends: Vec<_> = running
            .iter()
            .map(|running| {
                let server = Rc::clone(&running.server);
                self.context.spawn(async move { server.disconnect().await })
            })
            .collect();
        for end in ends {
            // A panic of a device has been reported.
            let _ = end.await;
        }
        // What is dropped after the last turn of the loop could not be interrupted.
        let closed: Vec<_> =
            running.into_iter().map(|it| (it.image.clone(), Arc::clone(&it.device))).collect();
        entries.iter().for_each(|entry| drop(entry.end()));
        let _ = self.jobs.discard(closed).await;
        self.jobs.done().await;
        self.loops_turn().await;
    }

    /// Asks each I/O loop to turn. Its answer is an error if it has ended.
    pub(crate) fn ask_loops(&self) -> Vec<RemoteJoinHandle<()>> {
        let ask = |thread: &Arc<IoThread>| thread.handle().spawn(|_| async {});
        self.shared.threads.iter().map(ask).collect()
    }

    /// Waits until each I/O loop has turned once, except for those that have ended. Returns whether
    /// none has ended.
    pub(crate) async fn loops_turn(&self) -> bool {
        let mut all = true;
        for answer in self.ask_loops() {
            all &= answer.await.is_ok();
        }
        all
    }
}
