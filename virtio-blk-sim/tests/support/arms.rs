//! The combinations of monitor and reset method that a device can run on.

use aio::{AioContext, Method, MonitorKind, Reset};

/// A monitor and a reset method of its notifiers.
pub(crate) type Arm = (MonitorKind, Reset);

/// Every monitor with every reset method that it supports on this kernel.
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
    assert!(arms.len() >= 2, "poll and epoll with read(2) work everywhere");
    arms
}
