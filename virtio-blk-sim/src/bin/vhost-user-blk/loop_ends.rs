//! Loops that end by themselves: a callback has panicked, or the kernel has failed the loop. The
//! process goes on without it. The frontends of the queues that ran there are disconnected by their
//! servers; when they come back, their queues run on the loops that are left.

use std::rc::Rc;

use aio::IoThread;

use crate::events::Event;
use crate::host::Host;
use crate::placement;

/// Watches all I/O threads, in tasks of the main loop.
pub(crate) fn watch(host: &Rc<Host>) {
    for (index, thread) in host.shared.threads.iter().enumerate() {
        // It does nothing, and is dropped with its loop.
        let end = thread.handle().spawn(|_| std::future::pending::<()>());
        let (host, thread) = (Rc::clone(host), std::sync::Arc::clone(thread));
        let context = host.context.clone();
        let task = async move {
            let _ = end.await;
            ended(&host, index, &thread);
        };
        drop(context.spawn(task).named("loop end"));
    }
}

/// Reports the end, and gives the queues of the loop other places.
fn ended(host: &Host, index: usize, thread: &IoThread) {
    // Otherwise it was stopped.
    let Some(error) = thread.failure() else { return };
    let name = thread.name();
    tracing::error!(
        target: "vhost-user-blk",
        "loop {index} ({name}) has ended: {error}; the frontends that used it are disconnected, and served by \
         the other loops when they come back"
    );
    let (thread, error) = (name.to_owned(), error.to_string());
    host.shared.events.send(Event::LoopEnded { index, thread, error });
    for running in host.disks().iter().filter_map(|entry| entry.running()) {
        let loops = running.server.loops();
        for queue in (0..running.queues()).filter(|queue| loops.place(*queue) == Some(index)) {
            let place = placement::place(host.shared.rule, 1, &[], host.queues_of_loops());
            if let Some(place) = place.first() {
                // The loop exists. If it ends now, too, the server takes the next one.
                let _ = loops.set_place(queue, *place);
            }
        }
    }
    host.shared.notifier.status(&host.status());
}
