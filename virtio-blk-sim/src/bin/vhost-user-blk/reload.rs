//! SIGHUP with a configuration file: the file is read again, and what has changed is done.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

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
}

/// What has to be done.
struct Plan {
    /// These have nothing in common with a disk that goes.
    new: Vec<ConfiguredDisk>,
    /// These take the image or the socket of a disk that goes.
    successors: Vec<ConfiguredDisk>,
    kept: Vec<(Rc<Entry>, ConfiguredDisk)>,
    gone: Vec<Rc<Entry>>,
}

#[derive(Debug, Default)]
struct Counts {
    added: usize,
    removed: usize,
    changed: usize,
}

impl Reloader {
    pub(crate) fn new(path: &Path, daemon: DaemonSpec) -> Rc<Self> {
        let (is_busy, is_asked_again) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { path: path.to_owned(), daemon, is_busy, is_asked_again })
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
                match this.reload(&of_host).await {
                    Ok(Counts { added, removed, changed }) => say!(
                        "the configuration was read again: {added} disks added, {removed} removed, {changed} \
                         changed"
                    ),
                    Err(error) => say!("the configuration is unchanged: {error}"),
                }
                if !this.is_asked_again.get() {
                    break;
                }
            }
            this.is_busy.set(false);
        };
        drop(host.context.spawn(task).named("configuration"));
    }

    /// An error is returned only before anything has changed.
    async fn reload(&self, host: &Rc<Host>) -> Result<Counts, String> {
        let path = self.path.clone();
        let read = host.context.blocking(move || config::read(&path)).await;
        let config = read.map_err(|error| error.to_string())??;
        let plan = self.plan(host, config)?;
        let mut prepared = Vec::new();
        for ConfiguredDisk { spec, place, .. } in plan.new {
            let id = spec.id.clone();
            match host.prepare(spec, Origin::File).await {
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
        for (entry, configured) in plan.kept {
            counts.changed += usize::from(change(host, &entry, &configured).await);
        }
        counts.removed = remove(host, plan.gone).await;
        for ConfiguredDisk { spec, place, .. } in plan.successors {
            let id = spec.id.clone();
            match host.add(spec, Origin::File).await {
                Ok(()) => counts.added += 1,
                Err(error) => say!("{place}: disk {id} is not served: {error}"),
            }
        }
        Ok(counts)
    }

    fn plan(&self, host: &Host, config: Config) -> Result<Plan, String> {
        if config.daemon != self.daemon {
            let path = self.path.display();
            return Err(format!("{path}: [daemon] has changed, and that needs a new start"));
        }
        let entries = host.disks();
        let is_configured = |entry: &Entry| config.disks.iter().any(|disk| disk.spec.id == entry.id());
        let of_file = entries.iter().filter(|entry| entry.origin == Origin::File);
        let gone: Vec<_> = of_file.filter(|entry| !is_configured(entry)).cloned().collect();
        let is_gone = |entry: &Rc<Entry>| gone.iter().any(|other| Rc::ptr_eq(other, entry));
        let (mut new, mut successors, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for disk in config.disks {
            let (id, place) = (&disk.spec.id, &disk.place);
            if let Some(entry) = entries.iter().find(|entry| entry.id() == id) {
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
            let shared = |entry: &&Rc<Entry>| disk.identity.shares(&entry.identity.borrow()).is_some();
            match entries.iter().find(shared) {
                Some(entry) if !is_gone(entry) => {
                    let part = disk.identity.shares(&entry.identity.borrow()).unwrap_or("image");
                    let other = entry.id();
                    return Err(format!("{place}: disks {id} and {other} have the same {part}"));
                }
                Some(_) => successors.push(disk),
                None => new.push(disk),
            }
        }
        Ok(Plan { new, successors, kept, gone })
    }
}

/// Changes the limits, the size and the loops of a disk. Returns whether anything has changed.
async fn change(host: &Host, entry: &Entry, configured: &ConfiguredDisk) -> bool {
    let spec = &configured.spec;
    let Some(running) = entry.running() else { return false };
    let (before, sectors) = (running.limits.get(), running.device().capacity_sectors());
    let Limits { iops, bps } = Limits::of(spec);
    let mut outcome = running.set_limits(Some(iops.unwrap_or(0)), Some(bps.unwrap_or(0))).map(|_| ());
    if running.image.is_some() {
        outcome = outcome.and(resize(host, entry, None).await.map(|_| ()));
    }
    let mut has_moved = false;
    if !spec.loops.is_empty() {
        match relocate(host, entry, &spec.loops).await {
            Ok(moved) => has_moved = moved,
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    if let Err(error) = outcome {
        say!("{}: disk {}: {error}", configured.place, entry.id());
    }
    before != running.limits.get() || sectors != running.device().capacity_sectors() || has_moved
}

/// Removes disks side by side: one of them can take long.
async fn remove(host: &Rc<Host>, gone: Vec<Rc<Entry>>) -> usize {
    let remove = |entry: &Rc<Entry>| {
        let (host, id) = (Rc::clone(host), entry.id().to_owned());
        let context = host.context.clone();
        context.spawn(async move { host.remove(&id, false).await })
    };
    let removals: Vec<_> = gone.iter().map(remove).collect();
    let mut count = 0;
    for (removal, entry) in removals.into_iter().zip(gone) {
        match removal.await {
            Ok(Ok(())) => count += 1,
            Ok(Err(error)) => say!("disk {} is not removed: {error}", entry.id()),
            // A panic has been reported.
            Err(_) => {}
        }
    }
    count
}
