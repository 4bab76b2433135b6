//! SIGHUP with a configuration file: the file is read again, and what has changed is done.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::config::{self, Config, ConfiguredDisk, DaemonSpec};
use crate::entry::{Entry, Limits, Origin};
use crate::host::Host;
use crate::relocate::relocate;
use crate::resize::resize;

/// The file, and whether it is being read.
#[derive(Debug)]
pub(crate) struct Reloader {
    path: PathBuf,
    /// As it was at the start.
    daemon: DaemonSpec,
    is_busy: Cell<bool>,
    /// Another signal came meanwhile.
    is_asked_again: Cell<bool>,
    /// Of the last reading that has changed something. What an earlier one has left to do later is
    /// not done any more.
    number: Cell<u64>,
}

/// How long one reading of the file waits for the requests of disks that go, for disks that come
/// after them, and for changes of those that stay.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it waits for the file with the names of the images, and for each image that is opened.
/// When that is over, nothing has changed.
const OPENING: Duration = Duration::from_secs(30);

/// What has to be done.
struct Plan {
    /// These have nothing in common with a disk that goes.
    new: Vec<ConfiguredDisk>,
    successors: Vec<Successor>,
    kept: Vec<(Rc<Entry>, ConfiguredDisk)>,
    gone: Vec<Rc<Entry>>,
}

/// A disk that takes the id, the image or the socket of disks that go.
struct Successor {
    disk: ConfiguredDisk,
    after: Vec<Rc<Entry>>,
}

/// What may take long. With the id of its disk.
enum Step {
    Change(String),
    Removal(String),
    Addition(String),
}

#[derive(Debug, Default)]
struct Counts {
    added: usize,
    removed: usize,
    changed: usize,
    /// The disks whose change waits, for their requests or for storage.
    changing: Vec<String>,
    /// The disks that wait for their requests.
    going: Vec<String>,
    /// The disks that wait for others to go.
    coming: Vec<String>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed, changing, going, coming } = self;
        write!(f, "{added} disks added, {removed} removed, {changed} changed")?;
        if !changing.is_empty() {
            write!(f, "; still being changed: {}", changing.join(", "))?;
        }
        if !going.is_empty() {
            write!(f, "; still being removed: {}", going.join(", "))?;
        }
        if !coming.is_empty() {
            write!(f, "; to be added after that: {}", coming.join(", "))?;
        }
        Ok(())
    }
}

impl Reloader {
    pub(crate) fn new(path: &Path, daemon: DaemonSpec) -> Rc<Self> {
        let (is_busy, is_asked_again) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { path: path.to_owned(), daemon, is_busy, is_asked_again, number: Cell::new(0) })
    }

    /// Reads the file again, in a task. If that is being done, it is done once more afterwards.
    pub(crate) fn ask(self: &Rc<Self>, host: &Rc<Host>) {
        if self.is_busy.replace(true) {
            self.is_asked_again.set(true);
            return;
        }
        let (this, of_host) = (Rc::clone(self), Rc::clone(host));
        let task = async move {
            loop {
                this.is_asked_again.set(false);
                of_host.shared.notifier.reloading();
                match this.reload(&of_host).await {
                    Ok(counts) => say!("the configuration was read again: {counts}"),
                    Err(error) => say!("the configuration is unchanged: {error}"),
                }
                of_host.notify_ready().await;
                if !this.is_asked_again.get() {
                    break;
                }
            }
            this.is_busy.set(false);
        };
        drop(host.context.spawn(task).named("configuration"));
    }

    /// An error is returned only before anything has changed.
    async fn reload(self: &Rc<Self>, host: &Rc<Host>) -> Result<Counts, String> {
        let (path, inherited) = (self.path.clone(), host.shared.inherited.clone());
        let read = host.jobs.run(move || config::read(&path, &inherited));
        let read = host.context.timeout(OPENING, read).await;
        let read = read.map_err(|_| late("it, or an image that it names, cannot be read"))?;
        let config = read.map_err(|error| error.to_string())??;
        let plan = self.plan(host, config)?;
        let mut prepared = Vec::new();
        for ConfiguredDisk { spec, place, .. } in plan.new {
            let id = spec.id.clone();
            let opened = host.context.timeout(OPENING, host.prepare(spec, Origin::File)).await;
            match opened.unwrap_or_else(|_| Err(late("its image or its socket cannot be opened").into())) {
                Ok(disk) => prepared.push((id, disk)),
                Err(error) => {
                    for (_, disk) in prepared {
                        disk.discard().await;
                    }
                    return Err(format!("{place}: disk {id}: {error}"));
                }
            }
        }
        let mut counts = Counts::default();
        for (id, disk) in prepared {
            match disk.serve() {
                Ok(()) => counts.added += 1,
                Err(error) => say!("disk {id} is not served: {error}"),
            }
        }
        self.exchange(host, plan.kept, plan.gone, plan.successors, &mut counts).await;
        Ok(counts)
    }

    /// Changes disks, removes others, and adds those that take their images or sockets, side by
    /// side. What takes longer than [`PATIENCE`] goes on in the background.
    async fn exchange(
        self: &Rc<Self>,
        host: &Rc<Host>,
        kept: Vec<(Rc<Entry>, ConfiguredDisk)>,
        gone: Vec<Rc<Entry>>,
        successors: Vec<Successor>,
        counts: &mut Counts,
    ) {
        let number = self.number.get() + 1;
        self.number.set(number);
        let is_late = Rc::new(Cell::new(false));
        let mut steps = Vec::new();
        for (entry, disk) in kept {
            let (this, host, is_late) = (Rc::clone(self), Rc::clone(host), Rc::clone(&is_late));
            let (context, id) = (host.context.clone(), entry.id().to_owned());
            let task = async move {
                let is_latest = || this.number.get() == number;
                change(&host, &entry, &disk, is_latest, &is_late).await
            };
            steps.push((Step::Change(id), context.spawn(task)));
        }
        for entry in gone {
            let (host, is_late) = (Rc::clone(host), Rc::clone(&is_late));
            let (context, id) = (host.context.clone(), entry.id().to_owned());
            let task = async move { remove(&host, &entry, &is_late).await };
            steps.push((Step::Removal(id), context.spawn(task)));
        }
        for Successor { disk, after } in successors {
            let (this, host, is_late) = (Rc::clone(self), Rc::clone(host), Rc::clone(&is_late));
            let (context, id) = (host.context.clone(), disk.spec.id.clone());
            let task = async move {
                for entry in after {
                    entry.removal.over().await;
                }
                // A later reading of the file has seen to it.
                this.number.get() == number && add(&host, disk, &is_late).await
            };
            steps.push((Step::Addition(id), context.spawn(task)));
        }
        let end = host.context.now_ns().saturating_add(PATIENCE.as_nanos() as u64);
        for (step, mut task) in steps {
            let left = Duration::from_nanos(end.saturating_sub(host.context.now_ns()));
            match (host.context.timeout(left, &mut task).await, step) {
                (Ok(Ok(true)), Step::Change(_)) => counts.changed += 1,
                (Ok(Ok(true)), Step::Removal(_)) => counts.removed += 1,
                (Ok(Ok(true)), Step::Addition(_)) => counts.added += 1,
                // It has been reported.
                (Ok(Ok(false) | Err(_)), _) => {}
                (Err(_), Step::Change(id)) => counts.changing.push(id),
                (Err(_), Step::Removal(id)) => counts.going.push(id),
                (Err(_), Step::Addition(id)) => counts.coming.push(id),
            }
        }
        is_late.set(true);
    }

    fn plan(&self, host: &Host, config: Config) -> Result<Plan, String> {
        if config.daemon != self.daemon {
            let path = self.path.display();
            return Err(format!("{path}: [daemon] has changed, and that needs a new start"));
        }
        let entries = host.disks();
        let is_configured = |entry: &Entry| config.disks.iter().any(|disk| disk.spec.id == entry.id());
        let of_file = entries.iter().filter(|entry| entry.origin == Origin::File);
        let is_going = |entry: &Entry| entry.removal.has_begun.get();
        let of_file = of_file.filter(|entry| !is_going(entry) && !is_configured(entry));
        let gone: Vec<_> = of_file.cloned().collect();
        let is_gone = |entry: &Rc<Entry>| is_going(entry) || gone.iter().any(|it| Rc::ptr_eq(it, entry));
        let (mut new, mut successors, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for disk in config.disks {
            let (id, place) = (&disk.spec.id, &disk.place);
            let has_its_id = |entry: &&Rc<Entry>| entry.id() == id;
            if let Some(entry) = entries.iter().filter(|entry| !is_going(entry)).find(has_its_id) {
                if entry.origin != Origin::File {
                    return Err(format!("{place}: disk {id} was added with a command; remove it first"));
                }
                entry.served().map_err(|error| format!("{place}: {error}"))?;
                if let Some(key) = disk.spec.fixed_difference(&entry.spec) {
                    return Err(format!(
                        "{place}: disk {id}: {key} cannot change while the disk is served; remove it first"
                    ));
                }
                kept.push((Rc::clone(entry), disk));
                continue;
            }
            let shared = |entry: &Entry| disk.identity.shares(&entry.identity.borrow());
            let is_before = |entry: &&Rc<Entry>| has_its_id(entry) || shared(entry).is_some();
            let after: Vec<_> = entries.iter().filter(is_before).cloned().collect();
            if let Some(entry) = after.iter().find(|entry| !is_gone(entry)) {
                let (part, other) = (shared(entry).unwrap_or("image"), entry.id());
                return Err(format!("{place}: disks {id} and {other} have the same {part}"));
            }
            match after.is_empty() {
                true => new.push(disk),
                false => successors.push(Successor { disk, after }),
            }
        }
        Ok(Plan { new, successors, kept, gone })
    }
}

/// What has taken longer than [`OPENING`].
fn late(what: &str) -> String {
    format!("{what}: there was no answer for {} seconds", OPENING.as_secs())
}

/// Changes the limits, the size and the loops of a disk. Returns whether anything has changed. What
/// is not done when `is_latest` is false is left to a later reading of the file.
async fn change(
    host: &Host,
    entry: &Entry,
    configured: &ConfiguredDisk,
    is_latest: impl Fn() -> bool,
    is_late: &Cell<bool>,
) -> bool {
    let spec = &configured.spec;
    let Some(running) = entry.running() else { return false };
    let (before, sectors) = (running.limits.get(), running.device().capacity_sectors());
    let Limits { iops, bps } = Limits::of(spec);
    let mut outcome = running.set_limits(Some(iops.unwrap_or(0)), Some(bps.unwrap_or(0))).map(|_| ());
    if running.image.is_some() {
        outcome = outcome.and(resize(host, entry, None).await.map(|_| ()));
    }
    let mut has_moved = false;
    if !spec.loops.is_empty() && is_latest() {
        match relocate(host, entry, &spec.loops).await {
            Ok(moved) => has_moved = moved,
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    match outcome {
        Ok(()) if is_late.get() => say!("disk {} is changed now", entry.id()),
        Ok(()) => {}
        Err(error) => say!("{}: disk {}: {error}", configured.place, entry.id()),
    }
    before != running.limits.get() || sectors != running.device().capacity_sectors() || has_moved
}

/// Removes a disk. Returns whether that was done. If nobody waits for it any more, it is logged.
async fn remove(host: &Host, entry: &Rc<Entry>, is_late: &Cell<bool>) -> bool {
    let (id, outcome) = (entry.id(), host.remove_entry(entry, false).await);
    match &outcome {
        Ok(()) if is_late.get() => say!("disk {id} is removed now"),
        Ok(()) => {}
        Err(error) => say!("disk {id} is not removed: {error}"),
    }
    outcome.is_ok()
}

/// Adds a disk, in the same way.
async fn add(host: &Host, disk: ConfiguredDisk, is_late: &Cell<bool>) -> bool {
    let ConfiguredDisk { spec, place, .. } = disk;
    let id = spec.id.clone();
    let outcome = host.add(spec, Origin::File).await;
    match &outcome {
        Ok(_) if is_late.get() => say!("disk {id} is served now"),
        Ok(_) => {}
        Err(error) => say!("{place}: disk {id} is not served: {error}"),
    }
    outcome.is_ok()
}
