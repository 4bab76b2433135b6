//! The loops that a device can be on.

use aio::{AioContext, Method, MonitorKind, Reset};

/// A monitor and who resets its notifiers.
pub(crate) type Arm = (MonitorKind, Reset);

/// Every monitor with every way to reset a notifier that it has on this kernel.
pub(crate) fn arms() -> Vec<Arm> {
    let mut arms = Vec::new();
    for kind in MonitorKind::ALL {
        for method in Method::ALL {
            let reset = Reset::AutoresetBy(method);
            match AioContext::builder().monitor(kind).reset(reset).build() {
                Ok(_) => arms.push((kind, reset)),
                Err(e) => eprintln!("skipped: {kind} with {method}: {e}"),
            }
        }
    }
    assert!(arms.len() >= 2, "at least poll and epoll with read(2) are everywhere");
    arms
}
