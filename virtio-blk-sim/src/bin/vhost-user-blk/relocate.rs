//! Moves the queues of a disk to other loops while it is served.

use crate::entry::Entry;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::wait::unless;

/// Moves queue `n` to loop `loops[n]`. Queues beyond the end of the list stay where they are.
/// Returns whether any has moved. A removal of the disk by force ends that.
pub(crate) async fn relocate(host: &Host, entry: &Entry, loops: &[usize]) -> Result<bool, Refusal> {
    let (running, threads) = (entry.served()?, host.shared.threads.len());
    let queues = running.device().config().num_queues;
    if threads == 0 {
        return Err("this process has no I/O threads to move a disk to".to_owned().into());
    }
    if loops.len() > queues.into() {
        return Err(format!("loops has {} entries, but the disk has {queues} queues", loops.len()).into());
    }
    if let Some(wrong) = loops.iter().find(|place| **place >= threads) {
        return Err(format!("there is no loop {wrong}, only 0 to {}", threads - 1).into());
    }
    host.check_loops(loops)?;
    let mut has_moved = false;
    for (queue, place) in (0..queues).zip(loops) {
        if running.server.loops().place(queue) != Some(*place) {
            let moved = unless(running.server.move_queue(queue, *place), entry.removal.forced()).await;
            match moved {
                Some(moved) => moved?,
                None => {
                    host.let_go(running);
                    return Err(format!("disk {} was removed while it was being moved", entry.id()).into());
                }
            }
            has_moved = true;
        }
    }
    Ok(has_moved)
}
