//! Removes a disk.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::JoinHandle;

use crate::entry::{Entry, Running};
use crate::events::Event;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::wait::unless;

/// How long a removal by force waits for each thing that can block, such as the closing of a file
/// on a network. Then that goes on in the background.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a command waits for a removal that it has forced.
const END: Duration = Duration::from_secs(2);

impl Host {
    /// Removes a disk: it takes no more frontends, and the one that is connected is disconnected.
    /// Returns when the requests in flight have ended, and the image is closed. With `force` it
    /// does not wait for them, and returns in about a second at the latest. A removal that waits
    /// can be forced by another one, and a disk that is being opened can be removed by force.
    pub(crate) async fn remove(&self, id: &str, force: bool) -> Result<(), Refusal> {
        self.remove_entry(&self.disk(id)?, force).await
    }

    /// The same with a disk that was looked up before: another one may have its id by now.
    pub(crate) async fn remove_entry(&self, entry: &Rc<Entry>, force: bool) -> Result<(), Refusal> {
        let (id, removal) = (entry.id(), &entry.removal);
        if removal.has_begun.get() || entry.running().is_none() {
            if !force {
                let state = if removal.has_begun.get() { "being removed already" } else { entry.state() };
                return Err(format!("disk {id} is {state}").into());
            }
            removal.force();
            // A disk that is added along with others has to wait for them.
            let is_over = self.context.timeout(END, removal.over()).await.is_ok();
            let late = || format!("disk {id} is {} still, and will be gone soon", entry.state()).into();
            return if is_over { Ok(()) } else { Err(late()) };
        }
        self.remove_served(entry, force).await
    }

    async fn remove_served(&self, entry: &Rc<Entry>, force: bool) -> Result<(), Refusal> {
        let (removal, running) = (&entry.removal, entry.served()?);
        removal.has_begun.set(true);
        if force {
            removal.force();
        }
        let listening = running.listening.take();
        if let Some((listening, file)) = listening {
            drop(listening);
            // It takes a lock of the directory.
            wait_for(self, entry, self.jobs.discard(file)).await;
        }
        unless(running.server.disconnect(), removal.forced()).await;
        if removal.is_forced.get() {
            // Another command may hold the disk and wait for its requests.
            running.server.abandon();
        }
        let closed = (running.image.clone(), Arc::clone(&running.device));
        drop(entry.end());
        drop(running);
        wait_for(self, entry, self.jobs.discard(closed)).await;
        if let Some(exporter) = &self.shared.exporter {
            exporter.remove_disk(entry.id());
        }
        self.forget(entry);
        self.shared.events.send(Event::DiskRemoved { disk: entry.subject() });
        Ok(())
    }

    /// Drops what a command holds of a disk that was removed by force meanwhile. The last reference
    /// closes the image, which can block, so that is done in a thread.
    pub(crate) fn let_go(&self, running: Rc<Running>) {
        let closed = (running.image.clone(), Arc::clone(&running.device));
        drop(running);
        drop(self.jobs.discard(closed));
    }
}

/// Waits for something that blocks; not long if the removal is forced.
async fn wait_for(host: &Host, entry: &Entry, end: JoinHandle<()>) {
    let long = async {
        entry.removal.forced().await;
        host.context.sleep(PATIENCE).await;
    };
    let _ = unless(end, long).await;
}
