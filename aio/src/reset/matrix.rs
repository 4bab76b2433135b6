//! The table of methods, and the choice among them.

use super::doorbell::Doorbell;
use super::kernel_flag::embedded_obstacle;
use super::method::{Method, Reset};
use super::probe::Obstacle;
use super::{edge, kernel_flag, read, ring_read, ring_read_multishot};
use crate::monitor::{MonitorKind, Watch};
use std::io;

/// One method: how a monitor watches for it, and why it cannot be used on one (`None` if it can).
struct Row {
    method: Method,
    watch: Watch,
    obstacle: fn(MonitorKind, &Doorbell<'_>) -> Option<Obstacle>,
}

/// Every method. This is the only place where a level-triggered watch and a method meet: `Level` is
/// for those that clear the counter.
const MATRIX: [Row; Method::ALL.len()] = [
    Row { method: Method::Read, watch: read::WATCH, obstacle: read::obstacle },
    Row { method: Method::Edge, watch: edge::WATCH, obstacle: edge::obstacle },
    Row { method: Method::RingRead, watch: ring_read::WATCH, obstacle: ring_read::obstacle },
    Row {
        method: Method::RingReadMultishot,
        watch: ring_read_multishot::WATCH,
        obstacle: ring_read_multishot::obstacle,
    },
    Row { method: Method::KernelFlag, watch: kernel_flag::WATCH, obstacle: kernel_flag::obstacle },
];

/// What [`Reset::Autoreset`] tries, in this order, before it reads after all.
const BEST: [Method; 3] = [Method::Edge, Method::KernelFlag, Method::RingRead];

fn row(method: Method) -> &'static Row {
    // The test below shows that every method has its row.
    MATRIX.iter().find(|row| row.method == method).unwrap_or(&MATRIX[0])
}

/// How a monitor watches a notifier that is reset by `method`.
pub(crate) fn watch_for(method: Method) -> Watch {
    row(method).watch
}

/// The method for a doorbell on a monitor, and why it is not the one hoped for, if so.
/// `embeddable`: an outer loop may sleep in place of the monitor.
///
/// # Errors
/// `Unsupported`, with the reason, if the method that was asked for cannot be used.
pub(crate) fn resolve(
    reset: Reset,
    monitor: MonitorKind,
    embeddable: bool,
    doorbell: &Doorbell<'_>,
) -> io::Result<(Method, Option<Obstacle>)> {
    let obstacle = |method| match (row(method).obstacle)(monitor, doorbell) {
        None if embeddable => embedded_obstacle(method, monitor),
        obstacle => obstacle,
    };
    match reset {
        Reset::Classic => Ok((Method::Read, None)),
        Reset::AutoresetBy(method) => match obstacle(method) {
            None => Ok((method, None)),
            Some(why) => Err(unsupported(why)),
        },
        Reset::Autoreset => match BEST.into_iter().find(|method| obstacle(*method).is_none()) {
            Some(method) => Ok((method, None)),
            // The kernel resets it, so a read(2) that decides whether it was rung finds nothing.
            None if doorbell.has_kernel_flag => {
                Err(unsupported(obstacle(Method::KernelFlag).unwrap_or_default()))
            }
            None => Ok((Method::Read, obstacle(Method::Edge))),
        },
    }
}

pub(crate) fn unsupported(why: impl Into<Obstacle>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_row() {
        assert_eq!(MATRIX.each_ref().map(|row| row.method), Method::ALL);
    }
}
