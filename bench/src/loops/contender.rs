//! The event loops that are compared.

use super::executor;
use super::our_tasks::Tasks;
use super::ours::Aio;
use super::peers::calloop::Calloop;
use super::peers::compio::Compio;
use super::peers::event_manager::Manager;
use super::peers::eventp::Eventp;
use super::peers::mio::Mio;
use super::peers::monoio::Monoio;
use super::peers::polling::Polling;
use super::peers::tokio::Tokio;
use super::raw_epoll::RawEpoll;
use super::raw_ring::RawRing;
use super::task_work::TaskWork;
use super::work::{Cannot, Timed, Visit, Work, visit};
use std::fmt;

/// An event loop and a way of using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Raw(Monitor, Reset),
    Ours(Monitor, Reset),
    /// Our loop with tasks instead of callbacks, edge-triggered.
    Tasks(Monitor),
    Peer(Peer, Reset),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Monitor {
    Epoll,
    IoUring,
}

/// Who clears an eventfd that has woken its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// Nobody: the loop is edge-triggered.
    Edge,
    /// The handler, or the loop on its behalf, with a read(2).
    Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Mio,
    Polling,
    Calloop,
    EventManager,
    Eventp,
    Tokio,
    Compio,
    Monoio,
}

impl Contender {
    /// The bare calls, then our loop, then the others.
    pub(super) fn all() -> impl Iterator<Item = Contender> {
        const WAYS: [(Monitor, Reset); 4] = [
            (Monitor::Epoll, Reset::Edge),
            (Monitor::Epoll, Reset::Read),
            (Monitor::IoUring, Reset::Edge),
            (Monitor::IoUring, Reset::Read),
        ];
        let raw = WAYS.map(|(monitor, reset)| Contender::Raw(monitor, reset));
        let ours = WAYS.map(|(monitor, reset)| Contender::Ours(monitor, reset));
        let peers = Peer::ALL
            .into_iter()
            .flat_map(|peer| [Reset::Read, Reset::Edge].map(|reset| Contender::Peer(peer, reset)));
        let tasks = [Monitor::Epoll, Monitor::IoUring].map(Contender::Tasks);
        raw.into_iter().chain(ours).chain(tasks).chain(peers)
    }

    pub(super) fn is_peer(self) -> bool {
        matches!(self, Contender::Peer(..))
    }

    /// Whether this one has a row for `work`, be it a reason why it cannot do it.
    pub(super) fn has_row(self, work: Work) -> bool {
        use Contender::{Ours, Peer as Other, Raw, Tasks};
        const UNREAD_IMPOSSIBLE: [Peer; 2] = [Peer::Compio, Peer::Monoio];
        const EXECUTORS: [Peer; 3] = [Peer::Tokio, Peer::Compio, Peer::Monoio];
        match (work, self) {
            (Work::Tasks(_), Raw(..) | Ours(_, Reset::Read)) => false,
            (Work::Tasks(_), Ours(_, Reset::Edge) | Tasks(_)) => true,
            (Work::Tasks(_), Other(peer, Reset::Read)) => EXECUTORS.contains(&peer),
            (Work::Tasks(it), Other(peer, Reset::Edge)) => {
                peer == Peer::Tokio && matches!(it, TaskWork::Rung { .. })
            }
            (_, Tasks(_)) => false,
            (Work::Bells { .. } | Work::Churn { .. }, _) => true,
            // That they cannot leave an eventfd unread is said in the rows above.
            (_, Other(peer, Reset::Edge)) => !UNREAD_IMPOSSIBLE.contains(&peer),
            _ => true,
        }
    }

    /// The variants of our loop that are compared with this one, on epoll and on io_uring: for bare
    /// calls the variant that makes the same calls, for peers the edge-triggered variants, which
    /// run tasks where the peers have to.
    pub(super) fn ours(self, work: Work) -> Vec<(Monitor, Contender)> {
        match self {
            Contender::Ours(..) | Contender::Tasks(_) => Vec::new(),
            Contender::Raw(monitor, reset) => vec![(monitor, Contender::Ours(monitor, reset))],
            Contender::Peer(..) => [Monitor::Epoll, Monitor::IoUring]
                .map(|monitor| match work {
                    Work::Tasks(_) => (monitor, Contender::Tasks(monitor)),
                    _ => (monitor, Contender::Ours(monitor, Reset::Edge)),
                })
                .to_vec(),
        }
    }

    /// What a task is compared with: the callback that does the same.
    pub(super) fn callback(self) -> Option<Contender> {
        match self {
            Contender::Tasks(monitor) => Some(Contender::Ours(monitor, Reset::Edge)),
            _ => None,
        }
    }

    /// Does the work once. The error is the reason why there is no such row.
    pub(super) fn visit(self, work: Visit) -> Result<Timed, Cannot> {
        use Monitor::{Epoll, IoUring};
        use Reset::{Edge, Read};
        if let Work::Tasks(tasks) = work.work {
            return self.visit_tasks(tasks, work);
        }
        match self {
            Contender::Tasks(_) => Err("a row of its own has its tasks".to_owned()),
            Contender::Raw(Epoll, Edge) => visit::<RawEpoll<true>>(work),
            Contender::Raw(Epoll, Read) => visit::<RawEpoll<false>>(work),
            Contender::Raw(IoUring, Edge) => visit::<RawRing<true>>(work),
            Contender::Raw(IoUring, Read) => visit::<RawRing<false>>(work),
            Contender::Ours(Epoll, Edge) => visit::<Aio<false, true>>(work),
            Contender::Ours(Epoll, Read) => visit::<Aio<false, false>>(work),
            Contender::Ours(IoUring, Edge) => visit::<Aio<true, true>>(work),
            Contender::Ours(IoUring, Read) => visit::<Aio<true, false>>(work),
            Contender::Peer(Peer::Mio, Edge) => visit::<Mio<true>>(work),
            Contender::Peer(Peer::Mio, Read) => visit::<Mio<false>>(work),
            Contender::Peer(Peer::Polling, Edge) => visit::<Polling<true>>(work),
            Contender::Peer(Peer::Polling, Read) => visit::<Polling<false>>(work),
            Contender::Peer(Peer::Calloop, Edge) => visit::<Calloop<true>>(work),
            Contender::Peer(Peer::Calloop, Read) => visit::<Calloop<false>>(work),
            Contender::Peer(Peer::EventManager, Edge) => visit::<Manager<true>>(work),
            Contender::Peer(Peer::EventManager, Read) => visit::<Manager<false>>(work),
            Contender::Peer(Peer::Eventp, Edge) => visit::<Eventp<true>>(work),
            Contender::Peer(Peer::Eventp, Read) => visit::<Eventp<false>>(work),
            Contender::Peer(Peer::Tokio, Edge) => visit::<Tokio<true>>(work),
            Contender::Peer(Peer::Tokio, Read) => visit::<Tokio<false>>(work),
            Contender::Peer(Peer::Compio, Edge) => visit::<Compio<true>>(work),
            Contender::Peer(Peer::Compio, Read) => visit::<Compio<false>>(work),
            Contender::Peer(Peer::Monoio, Edge) => visit::<Monoio<true>>(work),
            Contender::Peer(Peer::Monoio, Read) => visit::<Monoio<false>>(work),
        }
    }

    fn visit_tasks(self, work: TaskWork, visit: Visit) -> Result<Timed, Cannot> {
        use Monitor::{Epoll, IoUring};
        use Reset::{Edge, Read};
        use executor::visit as visit_with;
        match self {
            Contender::Ours(Epoll, Edge) => visit_with::<Aio<false, true>>(work, visit),
            Contender::Ours(IoUring, Edge) => visit_with::<Aio<true, true>>(work, visit),
            Contender::Tasks(Epoll) => visit_with::<Tasks<false>>(work, visit),
            Contender::Tasks(IoUring) => visit_with::<Tasks<true>>(work, visit),
            Contender::Peer(Peer::Tokio, Edge) => visit_with::<Tokio<true>>(work, visit),
            Contender::Peer(Peer::Tokio, Read) => visit_with::<Tokio<false>>(work, visit),
            Contender::Peer(Peer::Compio, Read) => visit_with::<Compio<false>>(work, visit),
            Contender::Peer(Peer::Monoio, Read) => visit_with::<Monoio<false>>(work, visit),
            _ => Err("it runs no futures".to_owned()),
        }
    }
}

impl Peer {
    const ALL: [Peer; 8] = [
        Peer::Mio,
        Peer::Polling,
        Peer::Calloop,
        Peer::EventManager,
        Peer::Eventp,
        Peer::Tokio,
        Peer::Compio,
        Peer::Monoio,
    ];

    fn name(self) -> &'static str {
        match self {
            Peer::Mio => "mio",
            Peer::Polling => "polling",
            Peer::Calloop => "calloop",
            Peer::EventManager => "event-manager",
            Peer::Eventp => "eventp",
            Peer::Tokio => "tokio",
            Peer::Compio => "compio",
            Peer::Monoio => "monoio",
        }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Monitor::Epoll => "epoll",
            Monitor::IoUring => "io_uring",
        })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Contender::Raw(monitor, Reset::Edge) => format!("raw {monitor}, unread"),
            Contender::Raw(monitor, Reset::Read) => format!("raw {monitor}, read"),
            Contender::Ours(monitor, Reset::Edge) => format!("aio {monitor}/edge"),
            Contender::Ours(monitor, Reset::Read) => format!("aio {monitor}/classic"),
            Contender::Tasks(monitor) => format!("aio {monitor}/edge, task"),
            Contender::Peer(peer, Reset::Read) => peer.name().to_owned(),
            Contender::Peer(peer, Reset::Edge) => format!("{}, unread", peer.name()),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::Work;
    use super::*;
    use crate::machine::Placement;

    fn visited(contender: Contender, work: Work) -> Result<u64, String> {
        let visit = Visit { work, times: 3, placement: Placement { guest: 0, device: 0 }, mark: |_| {} };
        contender.visit(visit).map(|timed| timed.elapsed.as_nanos() as u64)
    }

    #[test]
    fn every_contender_does_the_work_or_reports_the_reason() {
        let works = [
            Work::Bells { registered: 1, ready: 1 },
            Work::Bells { registered: 5, ready: 1 },
            Work::Bells { registered: 5, ready: 5 },
            Work::Churn { registered: 2 },
            Work::Wake,
        ];
        let tasks = [
            TaskWork::Rung { tasks: 5, ready: 1 },
            TaskWork::Rung { tasks: 5, ready: 5 },
            TaskWork::Woken { tasks: 5, ready: 1 },
            TaskWork::Woken { tasks: 5, ready: 5 },
            TaskWork::Spawn,
            TaskWork::Timeout,
        ]
        .map(Work::Tasks);
        let timers = [Work::Rearm { armed: 5 }, Work::Expire { armed: 5 }];
        for contender in Contender::all() {
            // Without io_uring these loops cannot be created.
            let needs_ring = matches!(
                contender,
                Contender::Raw(Monitor::IoUring, _)
                    | Contender::Ours(Monitor::IoUring, _)
                    | Contender::Tasks(Monitor::IoUring)
                    | Contender::Peer(Peer::Compio | Peer::Monoio, _)
            );
            for work in works.into_iter().chain(tasks).filter(|&work| contender.has_row(work)) {
                match visited(contender, work) {
                    Ok(_) => {}
                    Err(why) if why.contains("one-shot") => {
                        let one_shot = Contender::Peer(Peer::Compio, Reset::Edge);
                        assert!(
                            contender == one_shot || contender == Contender::Peer(Peer::Monoio, Reset::Edge)
                        );
                    }
                    Err(why) if needs_ring => eprintln!("{contender}, {work}: cannot: {why}"),
                    Err(why) => panic!("{contender}, {work}: {why}"),
                }
            }
            if matches!(contender, Contender::Tasks(_)) {
                continue;
            }
            let without = [Peer::Mio, Peer::Polling, Peer::EventManager, Peer::Eventp];
            let has_timers = !matches!(contender, Contender::Peer(peer, _) if without.contains(&peer));
            for work in timers.into_iter().filter(|&work| contender.has_row(work)) {
                match visited(contender, work) {
                    Err(why) if why.contains("over when it starts") => {
                        assert!(matches!(contender, Contender::Peer(Peer::Compio, _)), "{contender}: {why}");
                    }
                    Ok(_) => assert!(has_timers, "{contender}"),
                    Err(why) if needs_ring => eprintln!("{contender}, {work}: cannot: {why}"),
                    Err(why) => assert!(!has_timers && why.contains("no timers"), "{contender}: {why}"),
                }
            }
            assert!(visited(contender, Work::WakeAcross).is_err(), "one CPU is not two");
        }
    }

    #[test]
    fn what_a_peer_cannot_do_has_a_reason() {
        let why = |peer, reset, work| visited(Contender::Peer(peer, reset), work).unwrap_err();
        for peer in [Peer::Compio, Peer::Monoio] {
            let unread = why(peer, Reset::Edge, Work::Bells { registered: 1, ready: 1 });
            assert!(unread.contains("one-shot"), "{unread}");
        }
        assert_eq!(why(Peer::Mio, Reset::Read, Work::Tasks(TaskWork::Spawn)), "it runs no futures");
        assert!(Contender::all().filter(|it| it.has_row(Work::Tasks(TaskWork::Spawn))).count() == 7);
    }

    #[test]
    fn every_contender_has_a_name_and_what_it_is_compared_with() {
        let all: Vec<Contender> = Contender::all().collect();
        let mut names: Vec<String> = all.iter().map(Contender::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for contender in &all {
            let works = [Work::Wake, Work::Tasks(TaskWork::Spawn)].into_iter();
            let mut ours = works.flat_map(|work| contender.ours(work));
            assert!(ours.all(|(_, ours)| all.contains(&ours)), "{contender}");
            assert!(contender.callback().is_none_or(|callback| all.contains(&callback)), "{contender}");
        }
    }
}
