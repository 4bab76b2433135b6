//! The start of the process: everything is opened, in the order that signals, the sandbox and the
//! limit on descriptors need. If anything cannot be opened, nothing is served.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, Builder, BusyPolling, IoThread};
use virtio_blk_sim::sandbox::Sandbox;
use virtio_blk_sim::vhost_user::{self, SocketFile};

use crate::config::{self, DaemonSpec};
use crate::control::{Control, MAX_CLIENTS};
use crate::descriptors::{self, Budget};
use crate::entry::Origin;
use crate::events::Outlet;
use crate::failure::Failure;
use crate::host::{Frontends, Host, Shared, log_name};
use crate::identity::Identity;
use crate::open::{OpenDisk, Socket};
use crate::options::Options;
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
    pub(crate) context: AioContext,
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

    fn open(self, inherited: Option<UnixStream>) -> Result<Opened, String> {
        let names = if self.place.is_some() { Names::Keys } else { Names::Options };
        let opened = self.spec.open(names, &log_name(self.origin(), &self.spec.id)).and_then(|open| {
            let frontends = match (self.spec.listen(names)?, inherited) {
                (Some(socket), _) => Frontends::Come(socket),
                (None, Some(stream)) => Frontends::IsHere(stream),
                (None, None) => return Err("give --socket PATH or --fd N".to_owned()),
            };
            Ok((open, frontends))
        });
        match opened {
            Ok((open, frontends)) => Ok(Opened { planned: self, open, frontends }),
            Err(error) => Err(match &self.place {
                Some(place) => format!("{place}: disk {}: {error}", self.spec.id),
                None => error,
            }),
        }
    }
}

fn plan(options: &Options) -> Result<(DaemonSpec, Vec<Planned>), String> {
    let Some(path) = &options.source.config else {
        let disk = Planned { spec: options.disk(), identity: Identity::of(&options.disk()), place: None };
        return Ok((options.daemon(), vec![disk]));
    };
    let config = config::read(path)?;
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

/// Opens everything and serves it. `inherited` is the descriptor of `--fd`.
pub(crate) fn start(options: &Options, inherited: Option<UnixStream>) -> Result<Started, Failure> {
    let (daemon, planned) = plan(options).map_err(Failure::usage)?;
    let needs = planned.iter().map(|disk| (disk.spec.descriptors(), disk.spec.queues));
    descriptors::prepare(daemon.loops, needs);
    let mut inherited = inherited;
    let opened = planned.into_iter().map(|disk| disk.open(inherited.take()));
    let opened: Vec<Opened> = opened.collect::<Result<_, _>>().map_err(Failure::usage)?;
    let names = if options.source.config.is_some() { Names::Keys } else { Names::Options };
    let option = names.of("control");
    let bind =
        |path: &Path| vhost_user::bind(path).map_err(|error| format!("{option} {}: {error}", path.display()));
    let control = daemon.control.as_deref().map(bind);
    let control: Option<Socket> = control.transpose().map_err(Failure::usage)?;
    // Everything the server needs is open now. This must also come before any thread starts.
    let socket = opened.first().and_then(|disk| disk.planned.spec.socket.as_deref());
    let sandbox = options.sandbox.then(|| Sandbox::restrict_files(socket));
    let no_sandbox = |error| Failure::usage(format!("--sandbox on: {error}; --sandbox off turns it off"));
    let sandbox = sandbox.transpose().map_err(no_sandbox)?;
    let builder = builder(&daemon);
    let context = builder.clone().build().map_err(Failure::usage)?;
    let spawn = |index| IoThread::spawn(&format!("queue-io-{index}"), builder.clone()).map(Arc::new);
    let threads = (0..daemon.loops).map(spawn).collect::<Result<_, _>>().map_err(Failure::usage)?;
    let budget = Budget::new(opened.iter().map(|disk| disk.planned.spec.descriptors()).sum());
    if control.is_some() {
        budget.reserve(MAX_CLIENTS as u64 + 1);
    }
    let has_changing_limits = control.is_some() || options.source.config.is_some();
    let (rule, reset, events) = (daemon.placement, daemon.reset, Arc::new(Outlet::default()));
    let shared = Shared { threads, rule, reset, budget, events, has_changing_limits };
    let host = Host::new(context.local_handle(), shared);
    match opened.as_slice() {
        [only] if only.planned.place.is_none() => {
            report::start_of_one(only.open.disk.device.config(), daemon.loops, context.monitor());
        }
        all => report::start_of_many(all.len(), daemon.loops, context.monitor()),
    }
    let entries = opened.into_iter().map(|disk| {
        let (origin, Planned { spec, identity, place }) = (disk.planned.origin(), disk.planned);
        let entry = host.reserve(spec, origin, identity).map_err(|error| error.to_string());
        let afforded = entry.and_then(|entry| host.afford(&entry).map(|()| entry));
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
    for (entry, open, frontends) in entries {
        host.install(&entry, open, frontends).map_err(|error| Failure::other(error.to_string()))?;
        if let Some(path) = &entry.spec.socket {
            log!(log_name(entry.origin, entry.id()), "listening on {}", path.display());
        }
    }
    if options.source.config.is_some() {
        say!("ready");
    }
    Ok(Started { host, daemon, control, _control_file, context })
}
