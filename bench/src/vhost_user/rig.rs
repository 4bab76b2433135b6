//! One arm, connected and ready: a server in another process, a guest on a thread here.

use super::options::{ServerArg, Setup};
use crate::cli::check_verify;
use crate::error::{Error, reason};
use crate::machine::process::{self, Process, Usage};
use crate::machine::{NoOutcome, Worker};
use crate::measure::{Encoded, quantile_us, sample};
use std::time::Duration;
use std::{fmt, io};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{
    self, BlkDriver, DriverError, GuestError, GuestReport, Stop, VhostUserDisk, Workload,
};

/// How much longer than requested a sample may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may take to answer a message.
const EXCHANGE: Duration = Duration::from_secs(10);

sample! {
    /// The result of one visit. Per request unless the name says otherwise.
    pub(crate) struct ServerSample {
        iops: "1/s" Higher,
        p50_us: "us" Lower,
        p99_us: "us" Lower,
        p999_us: "us" Lower,
        device_cpu_ns: "ns" Lower,
        kicks: "" Lower,
        interrupts: "" Lower,
        sleeps: "" Lower,
    }
    with latencies_ns
}

impl ServerSample {
    fn of(guest: &GuestReport, server: Usage) -> Self {
        let requests = guest.requests.max(1) as f64;
        let each = |count: u64| count as f64 / requests;
        let latency_us = |quantile| quantile_us(&guest.latency_ns, quantile);
        Self {
            iops: guest.requests as f64 / guest.elapsed.as_secs_f64().max(1e-9),
            p50_us: latency_us(0.5),
            p99_us: latency_us(0.99),
            p999_us: latency_us(0.999),
            device_cpu_ns: each(server.cpu_ns),
            kicks: each(guest.kicks),
            interrupts: each(guest.interrupts),
            sleeps: each(server.sleeps),
            latencies_ns: Encoded::of(&guest.latency_ns),
        }
    }
}

type GuestOutcome = Result<GuestReport, GuestError>;

/// A server and its guest.
pub(super) struct Rig {
    name: String,
    process: Process,
    workload: Workload,
    // Dropped in this order: the guest before its disk.
    guest: Worker<Workload, GuestOutcome>,
    _disk: VhostUserDisk,
}

impl Rig {
    /// Connects to a server and starts its queue.
    pub(super) fn start(server: &ServerArg, setup: &Setup) -> Result<Self, Error> {
        let failed = |error: &dyn fmt::Display| {
            Error::Failed(format!("{} ({}): {}", server.name, server.socket.display(), reason(error)))
        };
        let (disk, mut driver) =
            VhostUserDisk::connect(&server.socket, EXCHANGE, setup.shape).map_err(|e| failed(&e))?;
        fits(&disk, setup).map_err(|why| Error::Usage(format!("{}: {why}", server.name)))?;
        let pid = match server.pid {
            Some(pid) => pid,
            None => process::peer(&disk).map_err(|e| failed(&e))?,
        };
        let process = Process::new(pid).map_err(|e| failed(&e))?;
        driver.set_waiting(setup.waiting);
        let work = |driver: &mut BlkDriver, job| guest::run(driver, &job);
        let guest = Worker::spawn("bench-guest", setup.cpu, move || driver, work).map_err(|e| failed(&e))?;
        Ok(Self { name: server.name.clone(), process, workload: setup.workload, guest, _disk: disk })
    }

    /// The server's process.
    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// The error for a process that has ended.
    pub(super) fn gone(&self, error: &io::Error) -> Error {
        let (name, why) = (&self.name, reason(error));
        Error::Failed(format!("{name}: the server's process cannot be watched any more: {why}"))
    }

    /// Takes one sample: the guest works for `runtime`. The server's CPU time is measured from
    /// before the first kick until the server sleeps again.
    pub(super) fn sample(&mut self, runtime: Duration) -> Result<ServerSample, Error> {
        let failed = |what: &dyn fmt::Display| Error::Failed(format!("{}: {}", self.name, reason(what)));
        let before = self.process.settled().map_err(|error| self.gone(&error))?;
        self.guest.start(Workload { stop: Stop::After(runtime), ..self.workload });
        let report = match self.guest.finish(runtime + PATIENCE) {
            Ok(Ok(report)) => report,
            Ok(Err(GuestError::Driver(DriverError::NeedsReset))) => {
                return Err(failed(&"the server hung up, or says that the guest broke the rules"));
            }
            Ok(Err(error)) => return Err(failed(&error)),
            Err(NoOutcome::TimedOut) => {
                return Err(failed(&"the guest hangs: a completion, a kick or an interrupt was lost"));
            }
            Err(NoOutcome::Ended) => return Err(failed(&"the guest ended unexpectedly")),
        };
        let used = self.process.settled().map_err(|error| self.gone(&error))?.since(before);
        // The next run uses other blocks.
        self.workload.seed = self.workload.seed.wrapping_add(1);
        Ok(ServerSample::of(&report, used))
    }
}

/// Checks whether the disk fits the options. The error is one sentence.
fn fits(disk: &VhostUserDisk, setup: &Setup) -> Result<(), String> {
    let (block_bytes, iodepth) = (setup.shape.block_bytes, setup.workload.iodepth);
    if disk.features().contains(Features::RO) && setup.workload.pattern.writes() {
        return Err(format!("its disk is read-only, and --rw {} writes", setup.workload.pattern));
    }
    let block_size = disk.block_size();
    if block_size == 0 || block_bytes % block_size != 0 {
        return Err(format!(
            "its disk has blocks of {block_size} bytes, of which --bs {block_bytes} is no multiple"
        ));
    }
    let sectors = disk.capacity_sectors();
    let blocks = sectors / u64::from(block_bytes / 512).max(1);
    if blocks < u64::from(iodepth) {
        return Err(format!(
            "its disk of {sectors} sectors has {blocks} blocks of {block_bytes} bytes, fewer than --iodepth {iodepth}"
        ));
    }
    check_verify(&setup.workload, blocks)
}

/// The server, for the header of the report.
impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is process {}", self.name, self.process.pid())?;
        match self.process.cpus() {
            Some(cpus) => write!(f, " on CPU {cpus}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig")
            .field("name", &self.name)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use crate::machine::CpuSet;
    use crate::vhost_user::options::VhostUserArgs;
    use aio::{AioContext, IoThread};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use virtio_blk_sim::blk::Disk;
    use virtio_blk_sim::blk::backend::Backend;
    use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
    use virtio_blk_sim::vhost_user::{Loops, Served, Server};

    /// A server in this process, listening on a socket of its own.
    struct Listening {
        path: PathBuf,
        _thread: IoThread,
    }

    impl Listening {
        fn start(name: &str, config: DeviceConfig) -> Self {
            let path = std::env::temp_dir().join(format!("bench-rig-{name}-{}", std::process::id()));
            let listener = UnixListener::bind(&path).unwrap();
            let listen = move |context: &AioContext| {
                let sectors = config.capacity_sectors;
                let disk = Disk::new(BlockDevice::new(config).unwrap(), Backend::memory(sectors)?);
                Server::new(Served::new(disk), Loops::own()).listen(context, listener)
            };
            let thread = IoThread::spawn_with("server", AioContext::builder(), listen).unwrap();
            Self { path, _thread: thread }
        }
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn rig(path: &Path, arguments: &[&str]) -> Result<Rig, Error> {
        let socket = format!("arm={}", path.display());
        let args: VhostUserArgs = cli::options(&[&["--socket", &socket], arguments].concat()).unwrap();
        let setup = args.setup(&CpuSet::allowed().unwrap()).unwrap();
        Rig::start(&setup.servers[0], &setup)
    }

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_server_is_measured_and_its_work_checked() {
        let server = Listening::start("measured", DeviceConfig::new(8192));
        for (client, slept) in [("sleeping", true), ("spinning", false)] {
            let arguments = ["--client", client, "--rw", "randrw", "--verify", "--iodepth", "8"];
            let mut rig = rig(&server.path, &arguments).unwrap();
            assert!(rig.to_string().starts_with("arm is process "), "{rig}");
            for _ in 0..2 {
                let sample = rig.sample(SHORT).unwrap();
                assert!(sample.iops > 0.0 && sample.device_cpu_ns > 0.0, "{sample:?}");
                assert!(sample.kicks > 0.0 && sample.kicks <= 1.0, "{sample:?}");
                assert_eq!(sample.interrupts > 0.0, slept, "{sample:?}");
                assert!(sample.p50_us <= sample.p99_us && sample.p99_us <= sample.p999_us, "{sample:?}");
            }
        }
    }

    #[test]
    fn a_disk_that_does_not_fit_is_named() {
        let config = DeviceConfig {
            read_only: true,
            logical_block_size: 4096,
            physical_block_size: 4096,
            ..DeviceConfig::new(8)
        };
        let server = Listening::start("misfit", config);
        for (arguments, words) in [
            (&["--rw", "randwrite"][..], "is read-only"),
            (&["--bs", "512"], "is no multiple"),
            (&["--iodepth", "2"], "fewer than --iodepth 2"),
        ] {
            let error = rig(&server.path, arguments).unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if text.contains(words)), "{error}");
        }
        let nobody = rig(Path::new("/nonexistent/socket"), &[]).unwrap_err();
        assert!(nobody.to_string().contains("/nonexistent/socket"), "{nobody}");
        assert!(nobody.to_string().ends_with(": No such file or directory"), "{nobody}");
    }

    #[test]
    fn a_server_that_dies_ends_the_run() {
        let server = Listening::start("dies", DeviceConfig::new(8192));
        let mut rig = rig(&server.path, &[]).unwrap();
        rig.sample(SHORT).unwrap();
        drop(server);
        let error = rig.sample(SHORT).unwrap_err();
        assert!(error.to_string().contains("hung up"), "{error}");
    }
}
