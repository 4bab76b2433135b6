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
use crate::entry::{Entry, Limits, Origin, Running};
use crate::events::{Event, Outlet};
use crate::identity::Identity;
use crate::inherited::Listeners;
use crate::notifier::Notifier;
use crate::open::{OpenDisk, Socket};
use crate::placement::{self, Rule};
use crate::refusal::{Class, Refusal};
use crate::spec::{DiskSpec, Names};
use crate::wait::either;

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
    is_stopping: Cell<bool>,
}

/// How frontends reach a disk.
#[derive(Debug)]
pub(crate) enum Frontends {
    /// They connect to a socket.
    Come(Socket),
    /// The only one is connected.
    IsHere(UnixStream),
}

/// A disk whose id is taken. Dropping it gives the id back.
#[derive(Debug)]
struct Reservation<'a> {
    host: &'a Host,
    entry: Rc<Entry>,
    is_kept: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.host.forget(&self.entry);
        }
    }
}

/// A disk that is open and not served yet. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    reservation: Reservation<'a>,
    open: OpenDisk,
    socket: Socket,
}

impl Prepared<'_> {
    /// Serves the disk from now on.
    pub(crate) fn serve(mut self) -> Result<(), Refusal> {
        let host = self.reservation.host;
        if host.is_stopping() {
            return Err("this process is about to end".to_owned().into());
        }
        host.install(&self.reservation.entry, self.open, Frontends::Come(self.socket))?;
        self.reservation.is_kept = true;
        Ok(())
    }

    /// Closes the disk again. The same as dropping it, but where it may block.
    pub(crate) async fn discard(self) {
        let Self { reservation, open, socket } = self;
        // If there is no thread for that, they are dropped here.
        let _ = reservation.host.context.blocking(move || drop((open, socket))).await;
    }
}

/// What stands in front of the log lines of a disk.
pub(crate) fn log_name(origin: Origin, id: &str) -> String {
    match origin {
        Origin::CommandLine => "vhost-user-blk".to_owned(),
        Origin::File | Origin::Control => format!("vhost-user-blk: {id}"),
    }
}

impl Host {
    pub(crate) fn new(context: LocalHandle, shared: Shared) -> Rc<Self> {
        Rc::new(Self { context, shared, disks: RefCell::default(), is_stopping: Cell::new(false) })
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
        format!("serving {count} {}", if count == 1 { "disk" } else { "disks" })
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

    /// Ends the process in order.
    pub(crate) fn stop(&self) {
        self.is_stopping.set(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.get()
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
        let entry = Entry::new(spec, origin, Identity::default());
        self.claim(&entry, identity)?;
        self.disks.borrow_mut().insert(entry.id().to_owned(), Rc::clone(&entry));
        Ok(entry)
    }

    /// Takes what a disk will use alone.
    fn claim(&self, entry: &Rc<Entry>, identity: Identity) -> Result<(), Refusal> {
        for other in self.disks().iter().filter(|other| !Rc::ptr_eq(other, entry)) {
            if let Some(part) = identity.shares(&other.identity.borrow()) {
                return Err(format!("disks {} and {} have the same {part}", entry.id(), other.id()).into());
            }
        }
        entry.identity.replace(identity);
        Ok(())
    }

    fn forget(&self, entry: &Rc<Entry>) {
        if let Some(need) = entry.need.take() {
            self.shared.budget.remove(need);
        }
        let removed = self.disks.borrow_mut().remove(entry.id());
        drop(removed);
    }

    /// Makes sure that there are enough descriptors for a disk.
    pub(crate) fn afford(&self, entry: &Entry) -> Result<(), String> {
        let (spec, id) = (&entry.spec, entry.id());
        let who = match entry.origin {
            Origin::CommandLine => format!("{} queues", spec.queues),
            Origin::File | Origin::Control => format!("disk {id}, with what is there before,"),
        };
        let need = self.shared.budget.add(spec.descriptors(), spec.queues, &who)?;
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
            let (events, id) = (Arc::clone(&shared.events), id.to_owned());
            image.on_failure(move |error| {
                events.send(Event::DiskFailed { id: id.clone(), error: error.to_string() });
            });
        }
        let device = Arc::new(ServedDisk::new(disk, id.to_owned(), Arc::clone(&shared.events)));
        let rule = match entry.origin {
            Origin::CommandLine => Rule::RoundRobin,
            Origin::File | Origin::Control => shared.rule,
        };
        let places = placement::place(rule, spec.queues, &spec.loops, self.queues_of_loops());
        let loops = Loops::on(shared.threads.iter().cloned(), places)?;
        let served = Served {
            device,
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
            listening: RefCell::new(listening),
            image,
            limit,
            limits: Cell::new(limits),
            is_resizing: Cell::new(false),
        });
        shared.events.send(Event::DiskAdded { id: id.to_owned() });
        Ok(())
    }

    /// How many queues each loop has.
    fn queues_of_loops(&self) -> Vec<usize> {
        let mut queues = vec![0; self.shared.threads.len()];
        for running in self.disks().iter().filter_map(|entry| entry.running()) {
            for place in running.loops() {
                if let Some(count) = queues.get_mut(place) {
                    *count += 1;
                }
            }
        }
        queues
    }

    /// Opens a disk and serves it.
    pub(crate) async fn add(&self, spec: DiskSpec, origin: Origin) -> Result<(), Refusal> {
        self.prepare(spec, origin).await?.serve()
    }

    /// Opens a disk.
    pub(crate) async fn prepare(&self, spec: DiskSpec, origin: Origin) -> Result<Prepared<'_>, Refusal> {
        spec.check(Names::Keys, self.shared.threads.len())?;
        self.shared.inherited.check(&spec)?;
        let entry = self.reserve(spec, origin, Identity::default())?;
        let reservation = Reservation { host: self, entry, is_kept: false };
        let entry = &reservation.entry;
        let spec = entry.spec.clone();
        let identity = self.context.blocking(move || Identity::of(&spec)).await?;
        self.claim(entry, identity)?;
        self.afford(entry)?;
        let (spec, name) = (entry.spec.clone(), log_name(origin, entry.id()));
        let open = move || Ok((spec.open(Names::Keys, &name)?, spec.listen(Names::Keys)?));
        let (open, socket) =
            self.context.blocking(open).await?.map_err(|error: String| Refusal::from(error))?;
        let socket = match socket {
            Some(socket) => socket,
            None => match self.shared.inherited.of_disk(entry.id())? {
                Some(listener) => (listener, None),
                None => return Err(format!("disk {} needs a socket", entry.id()).into()),
            },
        };
        Ok(Prepared { reservation, open, socket })
    }

    /// Removes a disk: it takes no more frontends, and the one that is connected is disconnected.
    /// Returns when the requests in flight have ended, and the image is closed. With `force` it
    /// does not wait for them. A removal that waits for them can be forced by another one.
    pub(crate) async fn remove(&self, id: &str, force: bool) -> Result<(), Refusal> {
        let entry = self.disk(id)?;
        let removal = &entry.removal;
        if removal.has_begun.get() {
            if !force {
                return Err(format!("disk {id} is being removed already").into());
            }
            removal.is_forced.set(true);
            removal.changed.wake();
            removal.changed.until(|| removal.is_over.get().then_some(())).await;
            return Ok(());
        }
        let running = entry.served()?;
        removal.has_begun.set(true);
        removal.is_forced.set(force);
        let listening = running.listening.take();
        if let Some((listening, file)) = listening {
            drop(listening);
            // It takes a lock of the directory. If there is no thread for that, it is dropped here.
            let _ = self.context.blocking(move || drop(file)).await;
        }
        if !force {
            let forced = removal.changed.until(|| removal.is_forced.get().then_some(()));
            either(running.server.disconnect(), forced).await;
        }
        if removal.is_forced.get() {
            // Another command may hold the disk and wait for its requests.
            running.server.abandon();
        }
        let image = running.image.clone();
        drop(entry.end());
        drop(running);
        // Closing a file can block, on a network for example.
        let _ = self.context.blocking(move || drop(image)).await;
        if let Some(exporter) = &self.shared.exporter {
            exporter.remove_disk(id);
        }
        self.forget(&entry);
        removal.is_over.set(true);
        removal.changed.wake();
        self.shared.events.send(Event::DiskRemoved { id: id.to_owned() });
        Ok(())
    }

    /// Ends all disks in order. New frontends are not served any more.
    pub(crate) async fn shut_down(&self) {
        self.is_stopping.set(true);
        let running: Vec<_> = self.disks().iter().filter_map(|entry| entry.running()).collect();
        // First of all, or a frontend that comes back would be served until the last disk has
        // ended, and its requests would not be completed. The names go at the end: that takes a
        // lock.
        let listening: Vec<_> = running.iter().filter_map(|running| running.listening.take()).collect();
        let _names: Vec<_> = listening.into_iter().map(|(_, name)| name).collect();
        let ends: Vec<_> = running
            .iter()
            .map(|running| {
                let server = Rc::clone(&running.server);
                self.context.spawn(async move { server.disconnect().await })
            })
            .collect();
        for end in ends {
            // A panic of a device has been reported.
            let _ = end.await;
        }
    }
}
