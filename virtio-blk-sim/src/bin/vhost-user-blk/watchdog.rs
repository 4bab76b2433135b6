//! The watchdog of the service manager (sd_watchdog_enabled(3)): it restarts the process when it
//! does not hear from it for a while. It hears from it only if every loop of the process answers.

use std::rc::Rc;

use crate::host::Host;

/// Reports at half of the time that the service manager waits, in a task of the main loop. Before
/// each report the main loop asks every I/O loop, and waits for the answers. So a loop that hangs,
/// and one that has ended, let the time run out. Does nothing if there is no watchdog.
pub(crate) fn start(host: &Rc<Host>) {
    let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else { return };
    if !host.shared.notifier.is_connected() {
        return;
    }
    let of_task = Rc::clone(host);
    let task = async move {
        loop {
            if !of_task.loops_turn().await {
                say!("a loop has ended, so the watchdog of the service manager is not fed any more");
                break;
            }
            of_task.shared.notifier.watchdog();
            of_task.context.sleep(time / 2).await;
        }
    };
    drop(host.context.spawn(task).named("watchdog"));
}
