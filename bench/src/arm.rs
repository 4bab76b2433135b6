//! The arms of a comparison: how the loop waits (monitor) and who clears an eventfd (reset).

use std::fmt;
use std::str::FromStr;

/// The system call that the loop uses to wait for its file descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Monitor {
    Poll,
    Epoll,
    IoUring,
}

/// Who resets an event notifier's eventfd after a wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reset {
    /// A read(2) per wake-up: the baseline.
    Classic,
    /// No reset: the monitor is edge-triggered.
    Edge,
    /// A read by the ring, re-armed after each completion.
    RingRead,
    /// A multishot read by the ring.
    RingReadMultishot,
    /// The kernel resets the counter, as EFD_AUTORESET proposes.
    KernelFlag,
}

/// A monitor and a reset that it supports. Written `monitor/reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arm {
    monitor: Monitor,
    reset: Reset,
}

impl Monitor {
    pub(crate) const ALL: [Monitor; 3] = [Monitor::Poll, Monitor::Epoll, Monitor::IoUring];

    /// The resets that this monitor supports, the baseline first.
    pub(crate) fn resets(self) -> &'static [Reset] {
        match self {
            // poll(2) has no edge-triggered mode: an eventfd that nobody reads stays ready.
            Monitor::Poll => &[Reset::Classic, Reset::KernelFlag],
            Monitor::Epoll => &[Reset::Classic, Reset::Edge, Reset::KernelFlag],
            Monitor::IoUring => {
                &[Reset::Classic, Reset::Edge, Reset::RingRead, Reset::RingReadMultishot, Reset::KernelFlag]
            }
        }
    }

    /// The name of the monitor in the `aio` crate.
    pub(crate) fn kind(self) -> aio::MonitorKind {
        match self {
            Monitor::Poll => aio::MonitorKind::Poll,
            Monitor::Epoll => aio::MonitorKind::Epoll,
            Monitor::IoUring => aio::MonitorKind::IoUring,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Monitor::Poll => "poll",
            Monitor::Epoll => "epoll",
            Monitor::IoUring => "io_uring",
        }
    }
}

impl Reset {
    pub(crate) const ALL: [Reset; 5] =
        [Reset::Classic, Reset::Edge, Reset::RingRead, Reset::RingReadMultishot, Reset::KernelFlag];

    fn name(self) -> &'static str {
        match self {
            Reset::Classic => "classic",
            Reset::Edge => "edge",
            Reset::RingRead => "ring-read",
            Reset::RingReadMultishot => "ring-read-multishot",
            Reset::KernelFlag => "kernel-flag",
        }
    }
}

impl From<Reset> for aio::Reset {
    fn from(reset: Reset) -> Self {
        match reset {
            Reset::Classic => aio::Reset::Classic,
            Reset::Edge => aio::Reset::AutoresetBy(aio::Method::Edge),
            Reset::RingRead => aio::Reset::AutoresetBy(aio::Method::RingRead),
            Reset::RingReadMultishot => aio::Reset::AutoresetBy(aio::Method::RingReadMultishot),
            Reset::KernelFlag => aio::Reset::AutoresetBy(aio::Method::KernelFlag),
        }
    }
}

impl Arm {
    /// Returns `None` if the monitor does not support the reset.
    pub(crate) fn new(monitor: Monitor, reset: Reset) -> Option<Self> {
        monitor.resets().contains(&reset).then_some(Self { monitor, reset })
    }

    /// Every possible arm: monitor by monitor, each one's baseline first.
    pub(crate) fn all() -> impl Iterator<Item = Arm> {
        let of = |monitor: Monitor| monitor.resets().iter().map(move |&reset| Arm { monitor, reset });
        Monitor::ALL.into_iter().flat_map(of)
    }

    pub(crate) fn monitor(self) -> Monitor {
        self.monitor
    }

    pub(crate) fn reset(self) -> Reset {
        self.reset
    }

    /// The system calls of one wake-up.
    pub(crate) fn description(self) -> &'static str {
        match (self.monitor, self.reset) {
            (Monitor::Poll, Reset::Classic) => "ppoll, then read(2)",
            (Monitor::Epoll, Reset::Classic) => "epoll_wait level-triggered, then read(2)",
            (Monitor::IoUring, Reset::Classic) => "one-shot POLL_ADD, then read(2)",
            (Monitor::Epoll, Reset::Edge) => "epoll_wait edge-triggered, never read",
            (Monitor::IoUring, Reset::Edge) => "multishot POLL_ADD, never read",
            (_, Reset::Edge) => "edges, never read",
            (_, Reset::RingRead) => "IORING_OP_READ, re-armed by the next io_uring_enter",
            (_, Reset::RingReadMultishot) => "IORING_OP_READ_MULTISHOT into provided buffers",
            (Monitor::Poll, Reset::KernelFlag) => "ppoll, the kernel resets",
            (Monitor::Epoll, Reset::KernelFlag) => "epoll_wait level-triggered, the kernel resets",
            (Monitor::IoUring, Reset::KernelFlag) => "POLL_ADD, the kernel resets",
        }
    }

    /// What the arm requires of the kernel.
    pub(crate) fn requirement(self) -> &'static str {
        match (self.monitor, self.reset) {
            (_, Reset::KernelFlag) => "a kernel with the EFD_AUTORESET patch",
            (Monitor::Poll, _) => "any Linux",
            (Monitor::Epoll, _) => "Linux 5.11",
            (Monitor::IoUring, Reset::RingReadMultishot) => "Linux 6.7, io_uring enabled",
            (Monitor::IoUring, _) => "Linux 5.15, io_uring enabled",
        }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.monitor, self.reset))
    }
}

/// The error for a text that is not an arm: a sentence that names the valid choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ParseArmError(String);

impl FromStr for Arm {
    type Err = ParseArmError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((monitor, reset)) = text.split_once('/') else {
            let message =
                format!("'{text}' is not an arm; write monitor/reset, such as epoll/edge ('bench list')");
            return Err(ParseArmError(message));
        };
        let Some(monitor) = Monitor::ALL.into_iter().find(|candidate| candidate.name() == monitor) else {
            let monitors = join(&Monitor::ALL);
            return Err(ParseArmError(format!("'{monitor}' is not a monitor; choose one of {monitors}")));
        };
        let Some(reset) = Reset::ALL.into_iter().find(|candidate| candidate.name() == reset) else {
            let resets = join(&Reset::ALL);
            return Err(ParseArmError(format!("'{reset}' is not a reset; choose one of {resets}")));
        };
        Arm::new(monitor, reset).ok_or_else(|| {
            ParseArmError(format!("{monitor} cannot do {reset}; it can do {}", join(monitor.resets())))
        })
    }
}

fn join<T: fmt::Display>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_can_be_parsed_from_its_name() {
        assert_eq!(Arm::all().count(), 10);
        for arm in Arm::all() {
            assert_eq!(arm.to_string().parse(), Ok(arm));
            assert!(!arm.description().is_empty() && !arm.requirement().is_empty());
        }
        assert_eq!(Arm::all().next().unwrap().to_string(), "poll/classic");
    }

    #[test]
    fn an_invalid_arm_is_refused_with_the_valid_choices() {
        let refused = |text: &str| text.parse::<Arm>().unwrap_err().to_string();
        assert_eq!(
            refused("epoll"),
            "'epoll' is not an arm; write monitor/reset, such as epoll/edge ('bench list')"
        );
        assert_eq!(refused("kqueue/edge"), "'kqueue' is not a monitor; choose one of poll, epoll, io_uring");
        assert!(refused("epoll/level").starts_with("'level' is not a reset; choose one of classic, edge"));
        assert_eq!(refused("poll/edge"), "poll cannot do edge; it can do classic, kernel-flag");
        assert!(refused("").contains("is not an arm"));
        assert!(refused("EPOLL/edge").contains("is not a monitor"));
    }

    #[test]
    fn only_possible_arms_can_be_created() {
        assert!(Arm::new(Monitor::Epoll, Reset::RingRead).is_none());
        let arm = Arm::new(Monitor::IoUring, Reset::RingRead).unwrap();
        assert_eq!((arm.monitor(), arm.reset()), (Monitor::IoUring, Reset::RingRead));
    }
}
