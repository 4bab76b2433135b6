//! The options of `bench vhost-user`, in fio's terms, and the setup that follows from them.

use crate::cli::{ScheduleArgs, WorkloadArgs, value};
use crate::error::Error;
use crate::machine::CpuSet;
use crate::machine::process::MOST_PID;
use crate::rig::features;
use clap::{Args, ValueEnum};
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use virtio_blk_sim::guest::{BlkDriver, QueueShape, Waiting, Workload};

const AFTER_HELP: &str = "\
Two servers side by side, the first is the baseline (guest on CPU 0, servers on CPU 1):
  taskset -c 1 qemu-storage-daemon --object iothread,id=io0 \\
    --blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=off \\
    --export type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=q.sock,iothread=io0,writable=on &
  taskset -c 1 vhost-user-blk --socket ours.sock --null 1g &
  bench vhost-user --socket qemu=q.sock --socket ours=ours.sock --pin 0 --iodepth 32";

/// Options of `bench vhost-user`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct VhostUserArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    /// The socket on which a vhost-user-blk server listens. Give several to compare them: they take
    /// turns, and the first is the baseline. The default NAME is that of the file
    #[arg(long, value_name = "[NAME=]PATH", required = true)]
    socket: Vec<ServerArg>,
    /// The servers' process ids, in the order of --socket [default: as reported by the kernel]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = pid)]
    pid: Vec<i32>,
    #[command(flatten)]
    disk: WorkloadArgs,
    /// Entries of the queue: a power of two from 4 to 1024; more if --iodepth needs more
    #[arg(long, value_name = "N", default_value = "256", value_parser = queue_size)]
    queue_size: u16,
    /// How the guest waits: sleeping until an interrupt comes, or spinning on the used ring with
    /// interrupts suppressed
    #[arg(long, value_name = "WAY", default_value = "sleeping")]
    client: Client,
    /// How long to watch the servers afterwards while their guests are attached and idle, in
    /// seconds, or with a suffix; 0 to skip
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = idle)]
    idle: Duration,
    /// CPU of the guest [default: the first that this process may use]. The servers are not moved:
    /// use taskset(1)
    #[arg(long, value_name = "GUEST", value_parser = cpu)]
    pin: Option<usize>,
}

/// How the guest waits, as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Client {
    Sleeping,
    Spinning,
}

/// A server: its name in the report, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerArg {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    /// As given by --pid.
    pub(super) pid: Option<i32>,
}

impl FromStr for ServerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name has no slash, so a path with an equals sign can be written as ./a=b.
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if !name.contains('/') => (Some(name.to_owned()), path),
            _ => (None, text),
        };
        let socket = PathBuf::from(path);
        let stem = || Some(socket.file_stem()?.to_string_lossy().into_owned());
        match name.or_else(stem) {
            Some(name) if !name.is_empty() && !path.is_empty() => Ok(Self { name, socket, pid: None }),
            _ => Err("write the path of a socket, or NAME=PATH".to_owned()),
        }
    }
}

/// The name of the way, in the report.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Client::Sleeping => "sleeping",
            Client::Spinning => "spinning",
        })
    }
}

/// The setup that all servers of a run share.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) servers: Vec<ServerArg>,
    pub(super) shape: QueueShape,
    pub(super) workload: Workload,
    pub(super) waiting: Waiting,
    pub(super) cpu: usize,
    /// How long to watch them idle; zero for not at all.
    pub(super) idle: Duration,
    /// How the guest waits, in a word.
    pub(super) client: String,
    /// The workload in fio's words.
    pub(super) title: String,
}

fn pid(text: &str) -> Result<i32, String> {
    value::within(text, 1, MOST_PID as u64).map(|pid| pid as i32)
}

fn cpu(text: &str) -> Result<usize, String> {
    value::within(text, 0, 8191).map(|cpu| cpu as usize)
}

fn idle(text: &str) -> Result<Duration, String> {
    let time = value::duration(text, Duration::from_secs(1))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    if time.is_zero() || range.contains(&time) {
        Ok(time)
    } else {
        Err("must be 0, or 1ms to 3600s".to_owned())
    }
}

fn queue_size(text: &str) -> Result<u16, String> {
    let size = value::within(text, 4, 1024).map(|size| size as u16);
    size.ok()
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| "must be a power of two from 4 to 1024".to_owned())
}

impl VhostUserArgs {
    /// Checks the options. A usage error names those that do not fit together.
    pub(super) fn setup(&self, allowed: &CpuSet) -> Result<Setup, Error> {
        let mut names = HashSet::new();
        if let Some(twice) = self.socket.iter().find(|server| !names.insert(&server.name)) {
            return Err(Error::Usage(format!(
                "--socket: two servers are called '{}'; write NAME=PATH to tell them apart",
                twice.name
            )));
        }
        if !self.pid.is_empty() && self.pid.len() != self.socket.len() {
            return Err(Error::Usage(format!(
                "--pid: give one process id for each socket, or none (--pid: {}, --socket: {})",
                self.pid.len(),
                self.socket.len()
            )));
        }
        let workload = self.disk.workload()?;
        let [workload_title, unusual] = self.disk.title();
        let first = allowed.iter().next().unwrap_or(0);
        let cpu = self.pin.unwrap_or(first);
        if !allowed.contains(cpu) {
            return Err(Error::Usage(format!(
                "--pin {cpu}: this CPU is not among those that this process may use ({allowed})"
            )));
        }
        let features = features(self.disk.event_idx());
        let servers = self
            .socket
            .iter()
            .enumerate()
            .map(|(index, server)| ServerArg { pid: self.pid.get(index).copied(), ..server.clone() });
        Ok(Setup {
            servers: servers.collect(),
            shape: QueueShape {
                size: BlkDriver::queue_size_for(self.disk.iodepth, features).max(self.queue_size),
                slots: self.disk.iodepth,
                block_bytes: self.disk.bs,
                features,
            },
            workload,
            waiting: match self.client {
                Client::Sleeping => Waiting::Sleeping,
                Client::Spinning => Waiting::Spinning,
            },
            cpu,
            idle: self.idle,
            client: self.client.to_string(),
            title: format!("{workload_title}, {} client{unusual}", self.client),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use virtio_blk_sim::blk::device::Features;
    use virtio_blk_sim::guest::Pattern;

    fn setup(arguments: &[&str]) -> Result<Setup, String> {
        let args: VhostUserArgs = cli::options(arguments).map_err(|error| error.to_string())?;
        args.setup(&CpuSet::parse_list("2-3")).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn sockets_have_names() {
        let names = |arguments: &[&str]| -> Vec<(String, String)> {
            let setup = setup(arguments).unwrap();
            let server = |server: ServerArg| (server.name, server.socket.display().to_string());
            setup.servers.into_iter().map(server).collect()
        };
        let owned = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(names(&["--socket", "/run/blk.sock"]), [owned("blk", "/run/blk.sock")]);
        assert_eq!(names(&["--socket", "./a=b.sock"]), [owned("a=b", "./a=b.sock")]);
        assert_eq!(
            names(&["--socket", "qemu=/run/q", "--socket", "ours=/run/o=1"]),
            [owned("qemu", "/run/q"), owned("ours", "/run/o=1")]
        );
    }

    #[test]
    fn the_defaults_are_those_of_virtio_blk() {
        let setup = setup(&["--socket", "s"]).unwrap();
        assert_eq!((setup.shape.size, setup.shape.slots, setup.shape.block_bytes), (256, 1, 4096));
        assert!(setup.shape.features.contains(Features::EVENT_IDX));
        assert_eq!((setup.workload.pattern, setup.waiting), (Pattern::RandRead, Waiting::Sleeping));
        assert_eq!((setup.cpu, setup.servers[0].pid), (2, None));
        assert_eq!(setup.idle, Duration::from_secs(1));
    }

    #[test]
    fn given_values_replace_the_defaults() {
        let arguments = [
            "--socket",
            "a",
            "--socket",
            "b",
            "--pid",
            "7,8",
            "--pin",
            "3",
            "--client",
            "spinning",
            "--event-idx",
            "off",
            "--iodepth",
            "300",
            "--rw",
            "randrw",
            "--verify",
            "--idle",
            "0",
        ];
        let setup = setup(&arguments).unwrap();
        let pids: Vec<_> = setup.servers.iter().map(|server| server.pid).collect();
        assert_eq!(pids, [Some(7), Some(8)]);
        assert_eq!((setup.cpu, setup.waiting), (3, Waiting::Spinning));
        // One descriptor each, in the next power of two.
        assert_eq!(setup.shape.size, 512);
        assert!(!setup.shape.features.contains(Features::EVENT_IDX));
        assert!(setup.workload.verify && setup.idle.is_zero());
        assert_eq!(setup.title, "randrw bs=4096 iodepth=300, spinning client, no EVENT_IDX, verified");
    }

    #[test]
    fn options_that_do_not_fit_are_named() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "--socket"),
            (&["--socket", ""], "path of a socket"),
            (&["--socket", "name="], "path of a socket"),
            (&["--socket", "=path"], "path of a socket"),
            (&["--socket", "/"], "path of a socket"),
            (&["--socket", "a/x", "--socket", "b/x"], "two servers are called 'x'"),
            (&["--socket", "a", "--socket", "b", "--pid", "1"], "or none (--pid: 1, --socket: 2)"),
            (&["--socket", "a", "--pid", "0"], "must be 1 to"),
            (&["--socket", "a", "--verify"], "writes nothing"),
            (&["--socket", "a", "--pin", "1"], "not among those that this process may use (2-3)"),
            (&["--socket", "a", "--pin", "2,3"], "must be 0 to 8191"),
            (&["--socket", "a", "--queue-size", "100"], "power of two"),
            (&["--socket", "a", "--idle", "1ns"], "must be 0, or 1ms to 3600s"),
            (&["--socket", "a", "--client", "asleep"], "sleeping"),
            (&["--socket", "a", "--bs", "1m", "--iodepth", "1024"], "in flight"),
        ];
        for (arguments, words) in cases {
            let error = setup(arguments).unwrap_err();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }
}
