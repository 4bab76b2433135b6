//! Disks in one process of vhost-user-blk, each with a frontend that is connected, and a guest that
//! uses one of them.

use super::neighbour::Neighbour;
use crate::error::{Error, reason};
use crate::machine::process::{Process, Usage};
use crate::machine::{NoOutcome, Placement, Worker, pin_current_thread};
use crate::measure::{Encoded, Measured, quantile_us, sample};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};
use tempfile::TempDir;
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{
    self, BlkDriver, GuestError, GuestReport, Pattern, QueueShape, Stop, VhostUserDisk, Waiting, Workload,
};

sample! {
    /// The result of one visit: a guest that uses the first disk, one request at a time.
    pub(super) struct DiskSample {
        iops: "1/s" Higher,
        p50_us: "us" Lower,
        p99_us: "us" Lower,
        p999_us: "us" Lower,
        server_cpu_ns: "ns" Lower,
    }
    with latencies_ns
}

/// The loops that the disks of each process are spread over.
pub(super) const LOOPS: usize = 2;

/// The group of these rows begins with this.
pub(super) const GROUP: &str = "disks in one process";

pub(super) const BLOCK_BYTES: u32 = 4096;
const DISK: &str = "64m";

/// How long the server may take to listen, and to answer a message.
const START: Duration = Duration::from_secs(60);
pub(super) const EXCHANGE: Duration = Duration::from_secs(10);
/// How long a neighbour goes on before something is measured: what any frontend may send at once
/// is over then, and what it can do in the long run is left.
const HEAD_START: Duration = Duration::from_millis(200);
/// How much longer than requested a sample may take before it counts as a hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors of a disk with its frontend, on the server's side and on ours, rounded up.
const DESCRIPTORS: u64 = 12;

/// Numbers of disks to compare.
const DISKS: [usize; 3] = [1, 100, 1_000];

/// What is compared: a number of disks, and what one of those that are not measured does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) disks: usize,
    neighbour: Option<Neighbour>,
}

impl Load {
    pub(super) fn all() -> Vec<Self> {
        let alone = DISKS.map(|disks| Self { disks, neighbour: None });
        let most = DISKS.into_iter().max().unwrap_or(1);
        let beside = Neighbour::ALL.map(|neighbour| Self { disks: most, neighbour: Some(neighbour) });
        alone.into_iter().chain(beside).collect()
    }
}

/// The case, such as "1000" or "1000, one floods its socket".
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.neighbour {
            None => write!(f, "{}", self.disks),
            Some(neighbour) => write!(f, "{}, {neighbour}", self.disks),
        }
    }
}

/// A server process, its frontends, and a guest of its first disk. Dropping it ends the process.
pub(super) struct Daemon {
    // Dropped in this order: the guest before its disk, the frontends before the server.
    guest: Worker<Workload, Result<GuestReport, GuestError>>,
    frontends: Vec<VhostUserDisk>,
    /// The guest of the last disk, if it is not the first.
    last: Option<BlkDriver>,
    process: Process,
    _child: Ended,
    directory: TempDir,
    disks: usize,
    /// The CPU of the guest or frontend that is not measured.
    elsewhere: usize,
    started: Duration,
    seed: u64,
}

/// A process that is ended when this is dropped.
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program vhost-user-blk, beside this one.
pub(super) fn program() -> Result<PathBuf, String> {
    let beside = std::env::current_exe().map_err(|error| reason(&error))?.with_file_name("vhost-user-blk");
    match beside.exists() {
        true => Ok(beside),
        false => {
            Err("there is no vhost-user-blk beside this program; cargo build --release -p virtio-blk-sim builds it"
                .to_owned())
        }
    }
}

impl Daemon {
    /// Starts a server of null disks, and connects a frontend to each of them. Blocks. The inner
    /// error is the reason why this machine cannot.
    pub(super) fn start(
        program: &Path,
        disks: usize,
        placement: Placement,
        elsewhere: usize,
    ) -> Result<Self, String> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let needed = DESCRIPTORS * disks as u64 + 100;
        if limit.is_some_and(|limit| limit < needed) {
            return Err(format!("needs {needed} descriptors; raise 'ulimit -Hn'"));
        }
        let directory = TempDir::new().map_err(|error| reason(&error))?;
        let socket = |index: usize| directory.path().join(format!("{index}.sock"));
        let config = directory.path().join("disks.toml");
        fs::write(&config, configuration(disks, &socket)).map_err(|error| reason(&error))?;
        // The threads of the server inherit this.
        let pinned = pin_current_thread(placement.device);
        let begin = Instant::now();
        let child = pinned.and_then(|()| {
            Command::new(program)
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        let child = child.map_err(|error| format!("{}: {}", program.display(), reason(&error)))?;
        let mut child = Ended(child);
        pin_current_thread(placement.guest).map_err(|error| reason(&error))?;
        let pid = libc_pid(&child.0);
        wait_for(&socket(disks - 1), &mut child.0)?;
        let started = begin.elapsed();

        let features = Features::INDIRECT_DESC | Features::EVENT_IDX;
        let shape = |features| QueueShape {
            size: BlkDriver::queue_size_for(1, features),
            slots: 1,
            block_bytes: BLOCK_BYTES,
            features,
        };
        let (mut frontends, mut first, mut last) = (Vec::with_capacity(disks), None, None);
        for index in 0..disks {
            // Without EVENT_IDX the device interrupts for each answer.
            let features = if index + 1 == disks && index > 0 { Features::NONE } else { features };
            let (disk, driver) = VhostUserDisk::connect(socket(index), EXCHANGE, shape(features))
                .map_err(|error| format!("disk {index}: {}", reason(&error)))?;
            frontends.push(disk);
            match first {
                None => first = Some(driver),
                Some(_) => last = Some(driver),
            }
        }
        let mut driver = first.ok_or("there is no disk")?;
        driver.set_waiting(Waiting::Sleeping);
        let work = |driver: &mut BlkDriver, job: Workload| guest::run(driver, &job);
        let guest = Worker::spawn("bench-guest", placement.guest, move || driver, work)
            .map_err(|error| reason(&error))?;
        Ok(Self {
            guest,
            frontends,
            last,
            process: Process::new(pid)?,
            _child: child,
            directory,
            disks,
            elsewhere,
            started,
            seed: 1,
        })
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// Takes one sample: the guest works for `runtime`. All other disks are idle, but for the last
    /// one if the load says so. Its frontend or guest has a CPU of its own if there is one, so that
    /// only its work in the server counts.
    pub(super) fn sample(&mut self, load: Load, runtime: Duration) -> Result<DiskSample, Error> {
        let Some(neighbour) = load.neighbour else { return self.measure(runtime) };
        let missing = || Error::Failed(format!("{load}: there is no other disk"));
        let mut driver = self.last.take().ok_or_else(missing)?;
        let mut disk = self.frontends.pop().ok_or_else(missing)?;
        let socket = self.directory.path().join(format!("{}.sock", self.disks - 1));
        let (stop, cpu) = (AtomicBool::new(false), self.elsewhere);
        let result = std::thread::scope(|scope| {
            let (stop, disk, driver) = (&stop, &mut disk, &mut driver);
            scope.spawn(move || {
                // The CPU is one that this process may use.
                let _ = pin_current_thread(cpu);
                neighbour.run(disk, driver, &socket, stop);
            });
            std::thread::sleep(HEAD_START);
            let result = self.measure(runtime);
            stop.store(true, Ordering::Relaxed);
            result
        });
        self.frontends.push(disk);
        self.last = Some(driver);
        result
    }

    fn measure(&mut self, runtime: Duration) -> Result<DiskSample, Error> {
        let failed =
            |what: &dyn fmt::Display| Error::Failed(format!("{} disks: {}", self.disks, reason(what)));
        let usage = || self.process.settled().map_err(|error| failed(&error));
        let before = usage()?;
        let job = Workload {
            pattern: Pattern::RandRead,
            iodepth: 1,
            stop: Stop::After(runtime),
            verify: false,
            seed: self.seed,
        };
        self.guest.start(job);
        let report = match self.guest.finish(runtime + PATIENCE) {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(NoOutcome::TimedOut) => return Err(failed(&"a request was not answered")),
            Err(NoOutcome::Ended) => return Err(failed(&"the guest's thread ended early")),
        };
        let used = usage()?.since(before);
        self.seed = self.seed.wrapping_add(1);
        Ok(DiskSample::of(&report, used))
    }

    /// What is measured once: the start, and memory for each disk more than `one` has.
    pub(super) fn once(&self, one: Option<&Self>) -> io::Result<Vec<Measured>> {
        let mut once = vec![Measured::once("start_s", "s", self.started.as_secs_f64())];
        if let Some(one) = one.filter(|one| one.disks < self.disks) {
            let grown = self.process.private_bytes()?.saturating_sub(one.process.private_bytes()?);
            let each = grown as f64 / (self.disks - one.disks) as f64;
            once.push(Measured::once("disk_bytes", "bytes", each));
        }
        Ok(once)
    }
}

impl DiskSample {
    fn of(guest: &GuestReport, server: Usage) -> Self {
        let latency_us = |quantile| quantile_us(&guest.latency_ns, quantile);
        Self {
            iops: guest.requests as f64 / guest.elapsed.as_secs_f64().max(1e-9),
            p50_us: latency_us(0.5),
            p99_us: latency_us(0.99),
            p999_us: latency_us(0.999),
            server_cpu_ns: server.cpu_ns as f64 / guest.requests.max(1) as f64,
            latencies_ns: Encoded::of(&guest.latency_ns),
        }
    }
}

fn configuration(disks: usize, socket: &impl Fn(usize) -> PathBuf) -> String {
    let mut text = format!("[daemon]\nloops = {LOOPS}\n");
    for index in 0..disks {
        let path = socket(index);
        let _ = write!(text, "\n[[disk]]\nid = \"disk-{index}\"\nsocket = {path:?}\nnull = \"{DISK}\"\n");
    }
    text
}

/// Waits until the server listens on its last socket. The error is the reason why it does not.
pub(super) fn wait_for(socket: &Path, server: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + START;
    while !socket.exists() {
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("vhost-user-blk ended early ({status})"));
        }
        if Instant::now() > deadline {
            return Err(format!("vhost-user-blk does not listen after {} s", START.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(super) fn libc_pid(child: &Child) -> i32 {
    // A process id fits.
    i32::try_from(child.id()).unwrap_or(0)
}
