//! Opens a disk and serves it. What may block runs in worker threads.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::entry::{Entry, Origin};
use crate::host::{Frontends, Host, log_name};
use crate::identity::Identity;
use crate::open::{OpenDisk, Socket};
use crate::refusal::Refusal;
use crate::spec::{DiskSpec, Names};
use crate::wait::unless;

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
        let (host, entry) = (self.reservation.host, &self.reservation.entry);
        if host.is_stopping() {
            return Err("this process is about to end".to_owned().into());
        }
        if entry.removal.is_forced.get() {
            return Err(given_up(entry));
        }
        host.install(entry, self.open, Frontends::Come(self.socket))?;
        self.reservation.is_kept = true;
        Ok(())
    }

    /// Closes the disk again. The same as dropping it, but where it may block.
    pub(crate) async fn discard(self) {
        let Self { reservation, open, socket } = self;
        let _ = reservation.host.jobs.discard((open, socket)).await;
    }
}

fn given_up(entry: &Entry) -> Refusal {
    format!("disk {} was removed while it was being added", entry.id()).into()
}

/// Tells the worker thread that nobody wants the disk any more that it opens.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Host {
    /// Opens a disk and serves it.
    pub(crate) async fn add(&self, spec: DiskSpec, origin: Origin) -> Result<Rc<Entry>, Refusal> {
        let prepared = self.prepare(spec, origin).await?;
        let entry = Rc::clone(&prepared.reservation.entry);
        prepared.serve()?;
        Ok(entry)
    }

    /// Opens a disk. A removal by force ends that at once.
    pub(crate) async fn prepare(&self, spec: DiskSpec, origin: Origin) -> Result<Prepared<'_>, Refusal> {
        spec.check(Names::Keys, self.shared.threads.len())?;
        self.check_loops(&spec.loops)?;
        self.shared.inherited.check(&spec)?;
        let entry = self.reserve(spec, origin, Identity::default())?;
        let reservation = Reservation { host: self, entry: Rc::clone(&entry), is_kept: false };
        let opened = unless(self.open(reservation), entry.removal.forced()).await;
        opened.unwrap_or_else(|| Err(given_up(&entry)))
    }

    async fn open<'a>(&self, reservation: Reservation<'a>) -> Result<Prepared<'a>, Refusal> {
        let entry = &reservation.entry;
        let spec = entry.spec.clone();
        let identity = self.jobs.run(move || Identity::of(&spec)).await?;
        self.claim(entry, identity)?;
        self.afford(entry, entry.spec.files())?;
        let (spec, name) = (entry.spec.clone(), log_name(entry.origin, entry.id()));
        let is_wanted = Arc::new(AtomicBool::new(true));
        let _wanted = Wanted(Arc::clone(&is_wanted));
        let open = move || {
            // What is not wanted any more is closed here, because that can block, too.
            let check = || match is_wanted.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("nobody wants it any more".to_owned()),
            };
            let open = spec.open(Names::Keys, &name)?;
            // Its name may belong to another disk by now.
            check()?;
            let socket = spec.listen(Names::Keys)?;
            check()?;
            Ok((open, socket))
        };
        let (open, socket) = self.jobs.run(open).await?.map_err(|error: String| Refusal::from(error))?;
        if let Err(error) = self.afford(entry, open.disk.backend.files()) {
            let _ = self.jobs.discard((open, socket)).await;
            return Err(error.into());
        }
        let socket = match socket {
            Some(socket) => socket,
            None => match self.shared.inherited.of_disk(entry.id())? {
                Some(listener) => (listener, None),
                None => return Err(format!("disk {} needs a socket", entry.id()).into()),
            },
        };
        Ok(Prepared { reservation, open, socket })
    }
}
