//! The disks of this process, and what can be done with them while they are served.
//!
//! Everything here runs on the main loop. What may block, such as the opening of an image, is done
//! in a thread of its own, so a disk that is slow to open or to end holds up no other one. A table
//! is never borrowed while something is awaited, so all of these functions may run side by side.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::{IoThread, LocalHandle, Reset};
use virtio_blk_sim::metrics::{self, Exporter, Meters};
use virtio_blk_sim::queue::RateLimit;
use virtio_blk_sim::vhost_user::{Loops, ProtocolFeatures, Served, Server};

use crate::descriptors::Budget;
use crate::device::ServedDisk;
use crate::end::End;
use crate::entry::{Entry, Limits, Origin, Running};
use crate::events::{Event, Outlet};
use crate::identity::Identity;
use crate::inherited::Listeners;
use crate::jobs::Jobs;
use crate::notifier::Notifier;
use crate::open::{OpenDisk, Socket};
use crate::placement::{self, Rule};
use crate::refusal::{Class, Refusal};
use crate::spec::DiskSpec;
use crate::values::FileEngine;

/// How often, and how far apart, this process reports that it is ready to a service manager that
/// is behind.
const READY_TRIES: u32 = 500;
const READY_PAUSE: Duration = Duration::from_millis(20);

/// What all disks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) threads: Vec<Arc<IoThread>>,
    pub(crate) rule: Rule,
    pub(crate) reset: Reset,
    pub(crate) budget: Budget,
    pub(crate) events: Arc<Outlet>,
    /// Limits can be set while a disk is served. It costs each request a look at them.
    pub(crate) has_changing_limits: bool,
    /// Counts what the disks do, if somebody wants to know.
    pub(crate) exporter: Option<Rc<Exporter>>,
    pub(crate) inherited: Listeners,
    pub(crate) notifier: Notifier,
}

/// The set of disks.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) context: LocalHandle,
    pub(crate) shared: Shared,
    disks: RefCell<BTreeMap<String, Rc<Entry>>>,
    /// The generation of the next disk.
    generations: Cell<u64>,
    pub(crate) jobs: Jobs,
    pub(crate) end: End,
}

/// How frontends reach a disk.
#[derive(Debug)]
pub(crate) enum Frontends {
    /// They connect to a socket.
    Come(Socket),
    /// The only one is connected.
    IsHere(UnixStream),
}

/// What stands in front of the log lines of a disk.
pub(crate) fn log_name(origin: Origin, id: &str) -> String {
    match origin {
        Origin::CommandLine => "vhost-user-blk".to_owned(),
        Origin::File | Origin::Control => format!("vhost-user-blk: {id}"),
    }
}

/// Whether the loop of a thread has not ended. One that has failed counts as alive until all that
/// it had is dropped, and nothing can start there any more.
fn has_loop(thread: &IoThread) -> bool {
    thread.is_alive() && thread.failure().is_none()
}

impl Host {
    pub(crate) fn new(context: LocalHandle, shared: Shared) -> Rc<Self> {
        Rc::new(Self {
            jobs: Jobs::new(context.clone()),
            context,
            shared,
            disks: RefCell::default(),
            generations: Cell::new(1),
            end: End::default(),
        })
    }

    /// All disks, by id.
    pub(crate) fn disks(&self) -> Vec<Rc<Entry>> {
        self.disks.borrow().values().cloned().collect()
    }

    pub(crate) fn disk(&self, id: &str) -> Result<Rc<Entry>, Refusal> {
        let found = self.disks.borrow().get(id).cloned();
        found.ok_or_else(|| Refusal::new(Class::DiskNotFound, format_args!("there is no disk {id:?}")))
    }

    /// How many disks are served, for the service manager.
    pub(crate) fn status(&self) -> String {
        let count = self.disks.borrow().values().filter(|entry| entry.running().is_some()).count();
        let disks = if count == 1 { "disk" } else { "disks" };
        let threads = &self.shared.threads;
        match threads.iter().filter(|thread| !has_loop(thread)).count() {
            0 => format!("serving {count} {disks}"),
            ended => format!("serving {count} {disks}; {ended} of {} loops have ended", threads.len()),
        }
    }

    /// Tells the service manager that the disks are served, and for the second time, that the
    /// configuration was read.
    pub(crate) async fn notify_ready(&self) {
        for _ in 0..READY_TRIES {
            if self.shared.notifier.ready(&self.status()) {
                return;
            }
            self.context.sleep(READY_PAUSE).await;
        }
    }

    /// Takes the id of a disk, and with it what it will use alone.
    pub(crate) fn reserve(
        &self,
        spec: DiskSpec,
        origin: Origin,
        identity: Identity,
    ) -> Result<Rc<Entry>, Refusal> {
        if self.is_stopping() {
            return Err("this process is about to end".to_owned().into());
        }
        if self.disks.borrow().contains_key(&spec.id) {
            return Err(format!("there is a disk {} already", spec.id).into());
        }
        // The loops of all threads are like this one.
        let monitor = self.context.monitor();
        if spec.engine == FileEngine::IoUring && monitor.ring.is_none() {
            let (kind, reason) = (monitor.kind, &monitor.reason);
            return Err(format!("engine io_uring: the loops have no ring: monitor {kind} ({reason})").into());
        }
        let entry = Entry::new(spec, origin, self.generations.get());
        self.generations.set(entry.generation + 1);
        self.claim(&entry, identity)?;
        self.disks.borrow_mut().insert(entry.id().to_owned(), Rc::clone(&entry));
        Ok(entry)
    }

    /// Takes what a disk will use alone.
    pub(crate) fn claim(&self, entry: &Rc<Entry>, identity: Identity) -> Result<(), Refusal> {
        for other in self.disks().iter().filter(|other| !Rc::ptr_eq(other, entry)) {
            if let Some(part) = identity.shares(&other.identity.borrow()) {
                return Err(format!("disks {} and {} have the same {part}", entry.id(), other.id()).into());
            }
        }
        entry.identity.replace(identity);
        Ok(())
    }

    /// Takes back what a disk has reserved: its id is free again.
    pub(crate) fn forget(&self, entry: &Rc<Entry>) {
        if let Some(need) = entry.need.take() {
            self.shared.budget.remove(need);
        }
        let removed = self.disks.borrow_mut().remove(entry.id());
        drop(removed);
        entry.removal.end();
    }

    /// Checks that loops that were chosen by hand have not ended.
    pub(crate) fn check_loops(&self, loops: &[usize]) -> Result<(), Refusal> {
        let threads = &self.shared.threads;
        let ended = |index: &&usize| threads.get(**index).is_some_and(|thread| !has_loop(thread));
        match loops.iter().find(ended) {
            Some(index) => Err(format!("loop {index} has ended").into()),
            None => Ok(()),
        }
    }

    /// Makes sure that there are enough descriptors for a disk with so many files. What it has
    /// taken before counts no more.
    pub(crate) fn afford(&self, entry: &Entry, files: usize) -> Result<(), String> {
        let (spec, id) = (&entry.spec, entry.id());
        let who = match entry.origin {
            Origin::CommandLine => format!("{} queues", spec.queues),
            Origin::File | Origin::Control => format!("disk {id}, with what is there before,"),
        };
        if let Some(before) = entry.need.take() {
            self.shared.budget.remove(before);
        }
        let need = self.shared.budget.add(spec.descriptors(files), spec.queues, &who)?;
        entry.need.set(Some(need));
        Ok(())
    }

    /// Serves a disk that is open.
    ///
    /// # Errors
    /// Returns why its socket cannot be watched.
    pub(crate) fn install(&self, entry: &Entry, open: OpenDisk, frontends: Frontends) -> Result<(), Refusal> {
        let (spec, shared, id) = (&entry.spec, &self.shared, entry.id());
        let limits = Limits::of(spec);
        let limit = (shared.has_changing_limits || !limits.is_none())
            .then(|| Arc::new(RateLimit::new(limits.iops, limits.bps)));
        let OpenDisk { disk, image } = open;
        let meters = shared.exporter.is_some().then(|| Meters::new(spec.queues));
        let disk = match &meters {
            Some(meters) => disk.metered(meters),
            None => disk,
        };
        if let Some(image) = &image {
            let (events, disk) = (Arc::clone(&shared.events), entry.subject());
            image.on_failure(move |error| {
                events.send(Event::DiskFailed { disk: disk.clone(), error: error.to_string() });
            });
        }
        let device = Arc::new(ServedDisk::new(disk, entry.subject(), Arc::clone(&shared.events)));
        let rule = match entry.origin {
            Origin::CommandLine => Rule::RoundRobin,
            Origin::File | Origin::Control => shared.rule,
        };
        let places = placement::place(rule, spec.queues, &spec.loops, self.queues_of_loops());
        let loops = Loops::on(shared.threads.iter().cloned(), places)?;
        let served = Served {
            device: Arc::clone(&device),
            limit: limit.clone(),
            reset: shared.reset,
            withheld: ProtocolFeatures::NONE,
            throttles: true,
        };
        let server = Server::new(served, loops);
        let listening = match frontends {
            Frontends::Come((listener, file)) => Some((server.listen(&self.context, listener)?, file)),
            Frontends::IsHere(stream) => {
                server.serve(&self.context, stream)?;
                None
            }
        };
        if let (Some(exporter), Some(meters)) = (&shared.exporter, &meters) {
            let server = Rc::downgrade(&server);
            exporter.add_disk(id, meters, move || {
                let frontends = |server: Rc<Server<ServedDisk>>| {
                    let throttled = server.throttled();
                    metrics::Frontends {
                        is_connected: server.is_connected(),
                        sessions: server.sessions(),
                        throttled_messages: throttled.messages,
                        throttled_connections: throttled.connections,
                    }
                };
                server.upgrade().map_or_else(metrics::Frontends::default, frontends)
            });
        }
        entry.start(Running {
            server,
            device,
            listening: RefCell::new(listening),
            image,
            limit,
            limits: Cell::new(limits),
            is_resizing: Cell::new(false),
        });
        shared.events.send(Event::DiskAdded { disk: entry.subject() });
        Ok(())
    }

    /// How many queues each loop has, `None` for a loop that has ended.
    pub(crate) fn queues_of_loops(&self) -> Vec<Option<usize>> {
        let threads = self.shared.threads.iter();
        let mut queues: Vec<_> = threads.map(|thread| has_loop(thread).then_some(0)).collect();
        for running in self.disks().iter().filter_map(|entry| entry.running()) {
            for place in running.loops() {
                if let Some(Some(count)) = queues.get_mut(place) {
                    *count += 1;
                }
            }
        }
        queues
    }
}
