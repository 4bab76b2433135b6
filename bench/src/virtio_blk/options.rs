//! The options of `bench virtio-blk`, in fio's terms, and the setup that follows from them.

use crate::arm::Arm;
use crate::cli::{PlacementArgs, ScheduleArgs, WorkloadArgs, check_verify, value};
use crate::error::{Error, reason};
use crate::rig::{BackendKind, DoorbellKind, GuestKind, Setup, features};
use aio::BoundedMethod;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use virtio_blk_sim::blk::backend::{Delay, FileImage};
use virtio_blk_sim::guest::Kicking;

/// Options of `bench virtio-blk`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VirtioBlkArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    #[command(flatten)]
    disk: WorkloadArgs,
    /// End each sample after this many requests instead of after --runtime, for emulated machines
    /// without a meaningful clock
    #[arg(long, value_name = "N", value_parser = requests, conflicts_with = "runtime")]
    requests: Option<u64>,
    /// The disk: null (stores nothing), memory, delay:NS (answers after this time, with a timer),
    /// delay:NS:spin (spins, one request after the other), or file:PATH
    #[arg(long, value_name = "BACKEND", default_value = "null")]
    backend: BackendArg,
    /// Size of the disk [default: 1g, or 16m for each arm of a memory backend, or the file's]
    #[arg(long, value_name = "BYTES", value_parser = value::size)]
    size: Option<u64>,
    /// Bypass the page cache (O_DIRECT) with --backend file:PATH
    #[arg(long)]
    direct: bool,
    /// How the file's I/O is done: auto (with --direct the loop's io_uring, or a few threads if the
    /// loop has none; else also calls in the loop's thread as long as they are short), io_uring,
    /// threads, or linux-aio (io_submit(2), completions through a second eventfd; needs --direct),
    /// as in QEMU in 2020
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    engine: FileEngine,
    /// Busy poll for up to this time before sleeping, in ns or with a suffix; QEMU's IOThreads use
    /// 32768
    #[arg(long, value_name = "NS", default_value = "0", value_parser = nanoseconds)]
    busy_poll: Duration,
    /// The guest kicks for every request, even if the device does not ask for it: a kick storm
    #[arg(long)]
    kick_storm: bool,
    /// A kick storm against an ioeventfd with this maximum, 2 to 65536: the guest's vCPU waits
    /// while maximum - 1 kicks are unanswered
    #[arg(long, value_name = "M", value_parser = kick_maximum)]
    kick_maximum: Option<u64>,
    /// How the maximum is enforced: kernel (needs a patch), atomic or credit [default: the best one
    /// on this kernel]
    #[arg(long, value_name = "METHOD", requires = "kick_maximum", value_parser = bounded_method)]
    kick_method: Option<BoundedMethod>,
    /// Who drives the disk: a thread that plays the vCPU, or a vCPU of KVM with KVM's ioeventfd and
    /// irqfd
    #[arg(long, value_name = "thread|kvm", default_value = "thread")]
    guest: GuestArg,
    /// How a guest of --guest kvm kicks: an OUT to a port, or a store to an address [default: pio]
    #[arg(long, value_name = "pio|mmio")]
    doorbell: Option<DoorbellKind>,
    /// KVM's device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm", hide = true)]
    kvm_device: PathBuf,
    /// Measure only these arms, such as epoll/classic,epoll/edge ('bench list' names all) [default:
    /// all that this kernel supports]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    arms: Vec<Arm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GuestArg {
    Thread,
    Kvm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileEngine {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Threads,
    LinuxAio,
}

/// A disk, as given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BackendArg {
    Null,
    Memory,
    Delay { latency: Duration, spin: bool },
    File(PathBuf),
}

impl FromStr for BackendArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "null" => Ok(Self::Null),
            None if text == "memory" => Ok(Self::Memory),
            Some(("delay", time)) => {
                let (time, spin) = time.strip_suffix(":spin").map_or((time, false), |time| (time, true));
                Ok(Self::Delay { latency: nanoseconds(time)?, spin })
            }
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("there are null, memory, delay:NS, delay:NS:spin and file:PATH".to_owned()),
        }
    }
}

/// The largest memory backend. Each arm has one, and all of it is touched before the measurement.
const MOST_MEMORY: u64 = 1 << 30;
/// The longest delay that makes sense.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

fn requests(text: &str) -> Result<u64, String> {
    value::within(text, 1, 1_000_000_000)
}

fn kick_maximum(text: &str) -> Result<u64, String> {
    value::within(text, 2, 1 << 16)
}

fn bounded_method(text: &str) -> Result<BoundedMethod, String> {
    let found = BoundedMethod::ALL.into_iter().find(|method| method.to_string() == text);
    found.ok_or_else(|| "there are kernel, atomic and credit".to_owned())
}

fn nanoseconds(text: &str) -> Result<Duration, String> {
    let time = value::duration(text, Duration::from_nanos(1))?;
    if time > LONGEST_DELAY { Err("must be at most 10s".to_owned()) } else { Ok(time) }
}

impl VirtioBlkArgs {
    /// The arms that were requested, without duplicates, in their order; empty for all.
    pub(super) fn arms(&self) -> Vec<Arm> {
        let mut arms: Vec<Arm> = Vec::new();
        for arm in &self.arms {
            if !arms.contains(arm) {
                arms.push(*arm);
            }
        }
        arms
    }

    /// Who is to drive the disk.
    fn guest(&self) -> GuestKind {
        match self.guest {
            GuestArg::Thread => GuestKind::Thread,
            GuestArg::Kvm => GuestKind::Kvm { device: self.kvm_device.clone(), doorbell: self.doorbell() },
        }
    }

    fn doorbell(&self) -> DoorbellKind {
        self.doorbell.unwrap_or(DoorbellKind::Pio)
    }

    /// Opens the disk and checks the options. A usage error names those that do not fit together.
    pub(super) fn setup(&self) -> Result<Setup, Error> {
        let default_size = if self.backend == BackendArg::Memory { 16 << 20 } else { 1 << 30 };
        let size = self.size.unwrap_or(default_size);
        let (backend, capacity_sectors) = match &self.backend {
            BackendArg::File(path) => {
                if self.size.is_some() {
                    return Err(Error::Usage("--size: a file has its own size; leave it out".to_owned()));
                }
                // Root could write to a read-only file, but the owner did not want that.
                let read_only = path.metadata().is_ok_and(|metadata| metadata.permissions().readonly());
                if read_only && self.disk.rw.writes() {
                    let path = path.display();
                    return Err(Error::Usage(format!(
                        "--backend file:{path}: this is read-only, and --rw {} writes",
                        self.disk.rw
                    )));
                }
                let image = FileImage::open(path, !self.disk.rw.writes(), self.direct)
                    .map_err(|error| Error::Usage(format!("--backend file: {}", reason(&error))))?;
                let sectors = image.capacity_sectors();
                let image = Arc::new(image);
                match self.engine {
                    FileEngine::Auto => (BackendKind::File(image), sectors),
                    FileEngine::IoUring => (BackendKind::IoUring(image), sectors),
                    FileEngine::Threads => (BackendKind::Threads(image), sectors),
                    FileEngine::LinuxAio if self.direct => (BackendKind::LinuxAio(image), sectors),
                    FileEngine::LinuxAio => {
                        let why = "--engine linux-aio: io_submit(2) blocks on the page cache; add --direct";
                        return Err(Error::Usage(why.to_owned()));
                    }
                }
            }
            _ if self.direct => {
                return Err(Error::Usage(
                    "--direct: only a file can be opened with O_DIRECT; use --backend file:PATH".to_owned(),
                ));
            }
            _ if self.engine != FileEngine::Auto => {
                let why = "--engine: only a file has one; use --backend file:PATH";
                return Err(Error::Usage(why.to_owned()));
            }
            BackendArg::Null => (BackendKind::Null, size / 512),
            BackendArg::Memory => (BackendKind::Memory(size / 512), size / 512),
            &BackendArg::Delay { latency, spin } => (BackendKind::Delay(Delay { latency, spin }), size / 512),
        };
        if self.disk.verify && matches!(self.backend, BackendArg::Null | BackendArg::Delay { .. }) {
            return Err(Error::Usage(
                "--verify: this backend stores nothing; use memory or file:PATH".to_owned(),
            ));
        }
        let workload = self.disk.workload()?;
        if let BackendKind::Memory(sectors) = backend
            && sectors > MOST_MEMORY / 512
        {
            return Err(Error::Usage("--size: the memory backend takes at most 1g for each arm".to_owned()));
        }
        if self.guest == GuestArg::Thread && self.doorbell.is_some() {
            return Err(Error::Usage("--doorbell: only a guest of --guest kvm has one".to_owned()));
        }
        if self.guest == GuestArg::Kvm && (self.kick_storm || self.kick_maximum.is_some()) {
            return Err(Error::Usage(
                "--kick-storm, --kick-maximum: only the thread that plays a vCPU can do that; leave out --guest kvm".to_owned(),
            ));
        }
        if self.kick_maximum.is_some() && !self.busy_poll.is_zero() {
            return Err(Error::Usage(
                "--kick-maximum: a device that busy polls switches kicks off, so there is nothing to bound; leave out \
                 --busy-poll"
                    .to_owned(),
            ));
        }
        let storm = self.kick_storm || self.kick_maximum.is_some();
        let blocks = capacity_sectors / u64::from(self.disk.bs / 512);
        if blocks < u64::from(self.disk.iodepth) {
            return Err(Error::Usage(format!(
                "a disk of {capacity_sectors} sectors has {blocks} blocks of {} bytes, fewer than --iodepth {}",
                self.disk.bs, self.disk.iodepth
            )));
        }
        check_verify(&workload, blocks).map_err(Error::Usage)?;
        Ok(Setup {
            backend,
            guest: self.guest(),
            capacity_sectors,
            block_bytes: self.disk.bs,
            iodepth: self.disk.iodepth,
            features: features(self.disk.event_idx()),
            busy_poll_ns: self.busy_poll.as_nanos() as u64,
            requests: self.requests,
            kicking: if storm { Kicking::Always } else { Kicking::AsWanted },
            kick_bound: self.kick_maximum.map(|maximum| (maximum, self.kick_method)),
            workload,
            title: self.title(),
            dose: None,
            patient_guest: false,
            timer_slack_ns: None,
        })
    }

    fn title(&self) -> String {
        let backend = match &self.backend {
            BackendArg::Null => "null".to_owned(),
            BackendArg::Memory => "memory".to_owned(),
            BackendArg::Delay { latency, spin: false } => format!("delay {latency:?}"),
            BackendArg::Delay { latency, spin: true } => format!("delay {latency:?} by spinning"),
            BackendArg::File(path) if self.direct => format!("file {} (O_DIRECT)", path.display()),
            BackendArg::File(path) => format!("file {}", path.display()),
        };
        let polling = if self.busy_poll.is_zero() {
            String::new()
        } else {
            format!(", busy poll {:?}", self.busy_poll)
        };
        let storm = match (self.kick_maximum, self.kick_method) {
            (Some(maximum), Some(method)) => format!(", kick storm with maximum {maximum} ({method})"),
            (Some(maximum), None) => format!(", kick storm with maximum {maximum}"),
            (None, _) if self.kick_storm => ", kick storm".to_owned(),
            (None, _) => String::new(),
        };
        let engine = match self.engine {
            FileEngine::Auto => "",
            FileEngine::IoUring => " by io_uring",
            FileEngine::Threads => " by threads",
            FileEngine::LinuxAio => " by linux-aio",
        };
        let requests = self.requests.map(|requests| format!(", {requests} requests")).unwrap_or_default();
        let guest = match (self.guest, self.doorbell()) {
            (GuestArg::Thread, _) => "",
            (GuestArg::Kvm, DoorbellKind::Pio) => ", guest KVM (kicks by PIO, interrupts by MSI)",
            (GuestArg::Kvm, DoorbellKind::Mmio) => ", guest KVM (kicks by MMIO, interrupts by MSI)",
        };
        let [workload, unusual] = self.disk.title();
        format!("{workload}, backend {backend}{engine}{polling}{unusual}{storm}{requests}{guest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use virtio_blk_sim::blk::device::Features;
    use virtio_blk_sim::guest::Pattern;

    fn setup(arguments: &[&str]) -> Result<Setup, String> {
        let args: VirtioBlkArgs = cli::options(arguments).map_err(|error| error.to_string())?;
        args.setup().map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_default_is_the_proposals_case() {
        let setup = setup(&[]).unwrap();
        assert_eq!((setup.block_bytes, setup.iodepth), (4096, 1));
        assert!(setup.features.contains(Features::EVENT_IDX));
        assert_eq!(setup.workload.pattern, Pattern::RandRead);
        assert!(matches!(setup.backend, BackendKind::Null));
    }

    #[test]
    fn a_bounded_doorbell_is_a_kick_storm() {
        let (plain, storm) = (setup(&[]).unwrap(), setup(&["--kick-storm"]).unwrap());
        let bounded = setup(&["--kick-maximum", "10", "--kick-method", "credit"]).unwrap();
        assert_eq!((plain.kicking, plain.kick_bound), (Kicking::AsWanted, None));
        assert_eq!((storm.kicking, storm.kick_bound), (Kicking::Always, None));
        let credit = Some((10, Some(BoundedMethod::Credit)));
        assert_eq!((bounded.kicking, bounded.kick_bound), (Kicking::Always, credit));
        assert!(bounded.title.ends_with("kick storm with maximum 10 (credit)"), "{}", bounded.title);
    }

    #[test]
    fn backends_are_parsed() {
        let delay = |text: &str| match setup(&["--backend", text]).unwrap().backend {
            BackendKind::Delay(delay) => (delay.latency, delay.spin),
            other => panic!("{other:?}"),
        };
        assert_eq!(delay("delay:700"), (Duration::from_nanos(700), false));
        assert_eq!(delay("delay:20us:spin"), (Duration::from_micros(20), true));
        assert!(matches!(setup(&["--backend", "memory"]).unwrap().backend, BackendKind::Memory(32_768)));
        for wrong in ["nil", "delay", "delay:", "delay:1h", "delay:99s", "file:", "memory:1", "null:"] {
            assert!(setup(&["--backend", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_do_not_fit_are_named() {
        let cases: &[(&[&str], &str)] = &[
            (&["--backend", "file:/nonexistent/disk"], "/nonexistent/disk"),
            (&["--backend", "file:/"], "directory"),
            (&["--direct"], "O_DIRECT"),
            (&["--engine", "linux-aio"], "only a file has one"),
            (&["--engine", "linux-aio", "--backend", "file:/proc/self/exe"], "add --direct"),
            (&["--verify"], "stores nothing"),
            (&["--backend", "memory", "--verify"], "writes nothing"),
            (&["--backend", "memory", "--size", "4k", "--iodepth", "2"], "fewer than --iodepth 2"),
            (&["--backend", "memory", "--size", "2g"], "at most 1g"),
            (&["--bs", "1m", "--iodepth", "1024"], "in flight"),
            (&["--bs", "513"], "multiple of 512"),
            (&["--iodepth", "0"], "1 to 1024"),
            (&["--kick-maximum", "1"], "must be 2 to 65536"),
            (&["--kick-storm", "--guest", "kvm"], "plays a vCPU"),
            (&["--doorbell", "mmio"], "only a guest of --guest kvm has one"),
            (&["--kick-method", "credit"], "--kick-maximum"),
            (&["--kick-maximum", "9", "--kick-method", "magic"], "kernel, atomic and credit"),
            (&["--kick-maximum", "9", "--busy-poll", "1us"], "nothing to bound"),
            (&["--arms", "epoll/ring-read"], "cannot do ring-read"),
            (&["--rw", "trim"], "not an access pattern"),
            (&["--requests", "0"], "1 to 1000000000"),
            (&["--requests", "5", "--runtime", "1"], "cannot be used with"),
        ];
        for (arguments, words) in cases {
            let error = setup(arguments).unwrap_err();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_disk_with_too_many_blocks_to_remember_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let backend = format!("file:{}", file.path().display());
        let verify = |bytes: u64| {
            file.as_file().set_len(bytes).unwrap();
            setup(&["--backend", &backend, "--rw", "randrw", "--verify", "--bs", "512"])
        };
        assert!(verify(8 << 30).is_ok());
        assert_eq!(
            verify((8 << 30) + 512).unwrap_err(),
            "--verify remembers every block, and the disk has 16777217, more than 16777216"
        );
    }

    #[test]
    fn the_guest_is_a_thread_by_default() {
        assert_eq!(setup(&[]).unwrap().guest, GuestKind::Thread);
        let kvm = setup(&["--guest", "kvm", "--doorbell", "mmio"]).unwrap();
        let device = "/dev/kvm".into();
        assert_eq!(kvm.guest, GuestKind::Kvm { device, doorbell: DoorbellKind::Mmio });
        assert!(kvm.title.ends_with(", guest KVM (kicks by MMIO, interrupts by MSI)"), "{}", kvm.title);
        assert!(setup(&["--guest", "xen"]).unwrap_err().contains("xen"));
    }

    #[test]
    fn duplicate_arms_are_dropped() {
        let args: VirtioBlkArgs = cli::options(&["--arms", "epoll/edge,epoll/classic,epoll/edge"]).unwrap();
        let names: Vec<String> = args.arms().iter().map(Arm::to_string).collect();
        assert_eq!(names, ["epoll/edge", "epoll/classic"]);
    }
}
