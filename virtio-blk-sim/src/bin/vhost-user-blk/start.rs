//! The start of the process: everything is opened, in the order that signals, the sandbox and the
//! limit on descriptors need. If anything cannot be opened, nothing is served.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, Builder, BusyPolling, IoThread};
use virtio_blk_sim::sandbox::Sandbox;
use virtio_blk_sim::vhost_user::{self, SocketFile};

use crate::config::{self, DaemonSpec};
use crate::control::{self, Control};
use crate::descriptors::{self, Budget};
use crate::entry::Origin;
use crate::events::Outlet;
use crate::failure::Failure;
use crate::host::{Frontends, Host, Shared, log_name};
use crate::identity::Identity;
use crate::inherited::{self, Inherited};
use crate::loop_ends;
use crate::monitoring::Metrics;
use crate::notifier::Notifier;
use crate::open::OpenDisk;
use crate::options::Options;
use crate::pid_file::PidFile;
use crate::privileges::Privileges;
use crate::report;
use crate::spec::{DiskSpec, Names};

/// A process that serves its disks.
#[derive(Debug)]
pub(crate) struct Started {
    // Dropped in this order: the context last.
    pub(crate) host: Rc<Host>,
    pub(crate) daemon: DaemonSpec,
    pub(crate) control: Option<Control>,
    _control_file: Option<SocketFile>,
    _metrics: Option<Metrics>,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) context: AioContext,
}

impl Started {
    /// Ends the process at once, with the exit code of a failure. Threads that wait for storage,
    /// and what is in flight there, are left to the kernel.
    pub(crate) fn leave(self) -> ! {
        let Self { host, control, _control_file, _metrics, pid_file, context, .. } = self;
        drop((control, _control_file, _metrics, pid_file));
        // These wait for threads.
        std::mem::forget((host, context));
        tracing::error!(target: "vhost-user-blk", "ended by force, with requests in flight or files open");
        std::process::exit(1)
    }
}

/// A disk that is to be served.
struct Planned {
    spec: DiskSpec,
    identity: Identity,
    /// Where the file has it. `None` for that of the command line.
    place: Option<String>,
}

/// A disk that is open.
struct Opened {
    planned: Planned,
    open: OpenDisk,
    frontends: Frontends,
}

impl Planned {
    fn origin(&self) -> Origin {
        if self.place.is_some() { Origin::File } else { Origin::CommandLine }
    }

    fn open(self, inherited: &mut Inherited) -> Result<Opened, String> {
        let names = if self.place.is_some() { Names::Keys } else { Names::Options };
        let opened = self
            .spec
            .open(names, &log_name(self.origin(), &self.spec.id))
            .and_then(|open| Ok((open, self.frontends(names, inherited)?)));
        match opened {
            Ok((open, frontends)) => Ok(Opened { planned: self, open, frontends }),
            Err(error) => Err(match &self.place {
                Some(place) => format!("{place}: disk {}: {error}", self.spec.id),
                None => error,
            }),
        }
    }
}

impl Planned {
    /// Listens at the socket of the disk, or takes the one that this process inherited for it.
    fn frontends(&self, names: Names, inherited: &mut Inherited) -> Result<Frontends, String> {
        if names == Names::Keys {
            let listener = inherited.listeners.of_disk(&self.spec.id)?;
            return match (self.spec.listen(names)?, listener) {
                (Some(socket), _) => Ok(Frontends::Come(socket)),
                (None, Some(listener)) => Ok(Frontends::Come((listener, None))),
                (None, None) => Err("a disk needs a socket".to_owned()),
            };
        }
        match (inherited.only.take(), &self.spec.socket) {
            (Some(_), Some(_)) => {
                Err("--socket: LISTEN_FDS gives this process a socket; use one of them".into())
            }
            (Some(inherited::Socket::Listening(listener)), None) => Ok(Frontends::Come((listener, None))),
            (Some(inherited::Socket::Connected(stream)), None) => Ok(Frontends::IsHere(stream)),
            (None, _) => match self.spec.listen(names)? {
                Some(socket) => Ok(Frontends::Come(socket)),
                None => Err("a frontend needs a way in: give --socket PATH or --fd FDNUM".to_owned()),
            },
        }
    }
}

fn plan(options: &Options, inherited: &Inherited) -> Result<(DaemonSpec, Vec<Planned>), String> {
    let Some(path) = &options.source.config else {
        let disk = Planned { spec: options.disk(), identity: Identity::of(&options.disk()), place: None };
        return Ok((options.daemon(), vec![disk]));
    };
    let config = config::read(path, &inherited.listeners)?;
    let planned = |disk: config::ConfiguredDisk| Planned {
        spec: disk.spec,
        identity: disk.identity,
        place: Some(disk.place),
    };
    Ok((config.daemon, config.disks.into_iter().map(planned).collect()))
}

fn builder(daemon: &DaemonSpec) -> Builder {
    let polling = BusyPolling::up_to_ns(daemon.busy_poll).lingering_ns(daemon.linger);
    let builder = AioContext::builder().reset(daemon.reset).busy_polling(polling);
    match daemon.monitor {
        Some(kind) => builder.monitor(kind),
        None => builder,
    }
}

/// Opens everything and serves it.
pub(crate) fn start(options: &Options, mut inherited: Inherited) -> Result<Started, Failure> {
    let (daemon, planned) = plan(options, &inherited).map_err(Failure::usage)?;
    let privileges = Privileges::find(daemon.user.as_deref(), daemon.group.as_deref());
    let place = |error| match &options.source.config {
        Some(path) => format!("{}: {error}", path.display()),
        None => error,
    };
    let privileges = privileges.map_err(place).map_err(Failure::usage)?;
    let notifier = Notifier::of_environment().unwrap_or_else(|error| {
        say!("the service manager is not notified: {error}");
        Notifier::default()
    });
    let pid_file = daemon.pid_file.as_deref().map(PidFile::claim).transpose().map_err(Failure::usage)?;
    for id in inherited.listeners.ids() {
        if !planned.iter().any(|disk| disk.spec.id == id) {
            say!("a socket was inherited for disk {id:?}, which the configuration does not have (yet)");
        }
    }
    let needs = planned.iter().map(|disk| (disk.spec.descriptors(disk.spec.files()), disk.spec.queues));
    descriptors::prepare(daemon.loops, needs);
    let opened = planned.into_iter().map(|disk| disk.open(&mut inherited));
    let opened: Vec<Opened> = opened.collect::<Result<_, _>>().map_err(Failure::usage)?;
    let names = if options.source.config.is_some() { Names::Keys } else { Names::Options };
    let option = names.of("control");
    let bind =
        |path: &Path| vhost_user::bind(path).map_err(|error| format!("{option} {}: {error}", path.display()));
    let control = daemon.control.as_deref().map(bind);
    let control = control.transpose().map_err(Failure::usage)?;
    options.metrics.check(options.sandbox).map_err(Failure::usage)?;
    let scraped = options.metrics.open().map_err(Failure::usage)?;
    // Everything the server needs is open now. This must also come before any thread starts.
    if let Some(privileges) = privileges {
        privileges.take_on().map_err(Failure::usage)?;
    }
    let socket = opened.first().and_then(|disk| disk.planned.spec.socket.as_deref());
    let sandbox = options.sandbox.then(|| Sandbox::restrict_files(socket));
    let no_sandbox = |error| Failure::usage(format!("--sandbox on: {error}; --sandbox off turns it off"));
    let sandbox = sandbox.transpose().map_err(no_sandbox)?;
    let builder = builder(&daemon);
    let context = builder.clone().build().map_err(Failure::usage)?;
    let spawn = |index| IoThread::spawn(&format!("queue-io-{index}"), builder.clone()).map(Arc::new);
    let threads = (0..daemon.loops).map(spawn).collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
    let own = |disk: &Opened| disk.planned.spec.descriptors(disk.open.disk.backend.files());
    let budget = Budget::new(opened.iter().map(own).sum());
    if control.is_some() {
        budget.reserve(control::DESCRIPTORS);
    }
    let has_changing_limits = control.is_some() || options.source.config.is_some();
    let (rule, reset, events) = (daemon.placement, daemon.reset, Arc::new(Outlet::default()));
    let exporter = options.metrics.exporter(&context, &threads);
    if scraped.is_some() {
        budget.reserve(virtio_blk_sim::metrics::MAX_CLIENTS as u64 + 1);
    }
    let shared = Shared {
        threads,
        rule,
        reset,
        budget,
        events,
        has_changing_limits,
        exporter: exporter.clone(),
        inherited: inherited.listeners,
        notifier,
    };
    let host = Host::new(context.local_handle(), shared);
    loop_ends::watch(&host);
    match opened.as_slice() {
        [only] if only.planned.place.is_none() => {
            report::start_of_one(only.open.disk.device.config(), daemon.loops, context.monitor());
        }
        all => report::start_of_many(all.len(), daemon.loops, context.monitor()),
    }
    let entries = opened.into_iter().map(|disk| {
        let (origin, files) = (disk.planned.origin(), disk.open.disk.backend.files());
        let Planned { spec, identity, place } = disk.planned;
        let entry = host.reserve(spec, origin, identity).map_err(|error| error.to_string());
        let afforded = entry.and_then(|entry| host.afford(&entry, files).map(|()| entry));
        let entry = afforded.map_err(|error| match place {
            Some(place) => format!("{place}: {error}"),
            None => error,
        })?;
        Ok((entry, disk.open, disk.frontends))
    });
    let entries: Vec<_> = entries.collect::<Result<_, String>>().map_err(Failure::usage)?;
    if let Some(sandbox) = sandbox {
        let in_force = sandbox.restrict_calls(daemon.monitor, &[]).map_err(no_sandbox)?;
        say!("sandbox: {in_force}");
    }
    let (control, _control_file) = match control {
        Some((listener, file)) => {
            let control = Control::serve(&host, listener)?;
            let path = daemon.control.as_deref().unwrap_or_else(|| "".as_ref());
            say!("control socket {}", path.display());
            (Some(control), Some(file))
        }
        None => (None, None),
    };
    let serve = |exporter| options.metrics.serve(&exporter, &context, scraped);
    let _metrics = exporter.map(serve).transpose()?;
    for (entry, open, frontends) in entries {
        host.install(&entry, open, frontends).map_err(|error| Failure::other(error.to_string()))?;
        if let Some(path) = &entry.spec.socket {
            log!(log_name(entry.origin, entry.id()), "listening on {}", path.display());
        }
    }
    if options.source.config.is_some() {
        say!("ready");
    }
    Ok(Started { host, daemon, control, _control_file, _metrics, pid_file, context })
}
