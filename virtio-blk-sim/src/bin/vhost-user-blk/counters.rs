//! Asks the queues for their counters, without waiting long for a loop that does not answer.

use std::time::Duration;

use virtio_blk_sim::queue::QueueStats;

use crate::entry::Running;
use crate::host::Host;

/// How long the loops get to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The counters of each queue that runs, by its index.
pub(crate) type Counters = Vec<(usize, QueueStats)>;

/// Which loops answer. Those that have ended count as such: their queues have no counters.
pub(crate) struct Answering<'a> {
    host: &'a Host,
    loops: Vec<bool>,
}

impl<'a> Answering<'a> {
    /// Asks all loops at once, and waits for two seconds at most.
    pub(crate) async fn find(host: &'a Host) -> Self {
        Self { host, loops: Self::ask(host).await }
    }

    async fn ask(host: &Host) -> Vec<bool> {
        let asked = host.ask_loops();
        let end = host.context.now_ns().saturating_add(PATIENCE.as_nanos() as u64);
        let mut loops = Vec::with_capacity(asked.len());
        for answer in asked {
            let left = Duration::from_nanos(end.saturating_sub(host.context.now_ns()));
            loops.push(host.context.timeout(left, answer).await.is_ok());
        }
        loops
    }

    /// The counters of a disk; `None` if one of its loops does not answer.
    pub(crate) async fn counters(&mut self, running: &Running) -> Option<Counters> {
        let answers = |index: &usize| self.loops.get(*index).copied().unwrap_or(true);
        if !running.loops().iter().all(answers) {
            return None;
        }
        // A loop can stop answering, or get another queue, after it was asked.
        let counters = self.host.context.timeout(PATIENCE, running.server.query_stats()).await.ok();
        if counters.is_none() {
            // Only once for each loop, and not for each of its disks.
            self.loops = Self::ask(self.host).await;
        }
        counters
    }
}
