//! The command-line options.

use std::path::PathBuf;
use std::time::Duration;

use aio::{MonitorKind, Reset};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgGroup, Args, CommandFactory, FromArgMatches, Parser};

use crate::config::DaemonSpec;
use crate::logging::Logging;
use crate::monitoring::Monitoring;
use crate::placement::Rule;
use crate::spec::{DiskSpec, Names};
use crate::values::{monitor, reset, seconds, switch};

/// The id of the disk of the command line, for commands on the control socket.
const ID: &str = "disk0";

const AFTER_HELP: &str = "\
With QEMU (guest memory must be shared):
  vhost-user-blk --socket /run/vm1.sock --image disk.raw
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\
    -chardev socket,id=blk0,path=/run/vm1.sock,reconnect-ms=1000 -device vhost-user-blk-pci,chardev=blk0,num-queues=1 ...
  A QEMU before 9.2 has reconnect=1 instead of reconnect-ms=1000.

Many disks in one process: --config FILE, in TOML. The keys of a disk are the options of the same name:
  [daemon]
  loops = 2                        # I/O threads that all queues share; 0 is the main thread
  control = \"/run/vub/control\"     # the control socket
  # placement = \"least-queues\" or \"round-robin\"; monitor, reset, busy-poll, linger, stats
  [[disk]]
  id = \"vm1\"
  socket = \"/run/vub/vm1.sock\"
  image = \"/srv/vm1.raw\"           # or null, memory
  # loops = [1]: the loop of each queue; format, read-only, direct, serial, block-size, queues,
  # queue-size, iops, bps (0 is no limit)

The control socket takes requests as JSON, one object a line, and answers each with one line:
  {\"execute\": \"add-disk\", \"arguments\": {\"id\": \"vm2\", \"socket\": ..., \"image\": ...}, \"id\": 1}
  {\"return\": {}, \"id\": 1}   or   {\"error\": {\"class\": ..., \"desc\": ...}, \"id\": 1}
The command help lists the commands. Events come as lines, too. The disk of --image is disk0 there.
Live migration, on one host (the image is handed over when the guest has stopped at its source):
  vhost-user-blk --socket /run/vm1-new.sock --image disk.raw --lock running      # as the first server
  qemu-system-x86_64 ... -chardev socket,id=blk0,path=/run/vm1-new.sock,reconnect=1 ... -incoming unix:/run/vm1.mig
  and in the monitor of the first QEMU: migrate unix:/run/vm1.mig

Signals:
  SIGTERM, SIGINT  complete the requests in flight and exit with status 0; the second one does not wait
                   for requests and storage any more, and the status is 1
  SIGUSR1          print statistics
  SIGHUP           read the size of the image again and notify the guest; with --config: read the file
                   again, add, remove and resize disks, and change limits. A file with an error, or
                   with a change that needs a new start, changes nothing
When a flush of the image fails, data may be lost, and a later flush would hide that. So all later
writes and flushes fail until the server is started again; reads go on. Check the file system then.

Log messages go to stderr or to --log-file. A message that is not taken at once is lost and counted.
After the log file was renamed, the command rotate-log opens a new one. Errors of the disk are logged with their sector and reason. Of the messages that a guest or frontend can cause,
ten of a kind are written in ten seconds; SIGUSR1 prints how many were left out.";

/// Options that the configuration file has no keys for. The sandbox has an error of its own.
const WITH_CONFIG: [&str; 8] = [
    "config",
    "sandbox",
    "log_level",
    "log_format",
    "log_file",
    "metrics",
    "metrics_file",
    "metrics_interval",
];

/// Serves a disk image to a virtual machine over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "vhost-user-blk", version, after_help = AFTER_HELP)]
#[command(group = ArgGroup::new("disk").required(true).args(["image", "null", "memory", "config"]))]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) log: Logging,
    #[command(flatten)]
    pub(crate) metrics: Monitoring,
    #[command(flatten)]
    disk: DiskSpec,
    /// Let programs add, remove and change disks over a Unix socket at this path; only its owner
    /// may connect (mode 0600)
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// System call that the event loops wait in: poll, epoll or io_uring [default: the best one
    /// this kernel supports]
    #[arg(long, value_parser = monitor)]
    monitor: Option<MonitorKind>,
    /// How the eventfds of kicks are reset: classic (one read(2) per kick), autoreset (the best
    /// method available), or one method: edge, ring-read, ring-read-multishot, kernel-flag
    #[arg(long, default_value = "autoreset", value_parser = reset)]
    reset: Reset,
    /// Busy-poll the queues for up to this many nanoseconds before sleeping; QEMU's IOThreads use
    /// 32768
    #[arg(long, value_name = "NS", default_value_t = 0)]
    busy_poll: u64,
    /// After handling requests, keep polling the queues for twice as long as the work took, but at
    /// most this many nanoseconds, before sleeping; 0 turns this off
    #[arg(long, value_name = "NS", default_value_t = 50_000)]
    linger: u64,
    /// Number of I/O threads to spread the queues over, at most one per queue; 0 serves all queues
    /// from the main thread
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    threads: u16,
    /// After everything is open, become this user (a name or a number), with its group, without
    /// supplementary groups and capabilities. Needs root
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// After everything is open, become this group (a name or a number) [default: that of --user]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Write the process id to this file when the disk is served, and keep it locked. A file that
    /// nobody has locked is replaced
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Print statistics every this many seconds, if any requests were served in that time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    stats: Option<Duration>,
    /// After start-up, drop all rights that serving does not need: seccomp (any other system call
    /// kills the process), landlock and no_new_privs. Strictest with --monitor epoll, which does
    /// not need the system calls of io_uring. Not with --config or --control: opening a disk later
    /// needs the rights that this takes away
    #[arg(long, value_name = "on|off", default_value = "off", value_parser = switch, action = ArgAction::Set)]
    pub(crate) sandbox: bool,
    /// Print what this program can do as JSON, as QEMU's conventions for vhost-user programs
    /// define it, and exit. Everything else on the command line is ignored then
    #[arg(long, exclusive = true)]
    print_capabilities: bool,
}

/// How the frontend connects.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Source {
    /// Listen on a Unix socket at this path; only its owner may connect (mode 0600),
    /// unless --socket-mode or --socket-owner says otherwise
    #[arg(long, visible_alias = "socket-path", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Serve frontends on this inherited file descriptor: a socket that listens, or one that is
    /// connected to the only frontend; then the program exits when that disconnects
    #[arg(long, value_name = "FDNUM")]
    pub(crate) fd: Option<i32>,
    /// Serve the disks that this file describes (TOML). Of the other options, only those of the log
    /// and of the metrics have a meaning then
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Options {
    /// Parses the command line. Ends the process if it is wrong, or asks for help.
    pub(crate) fn of_command_line() -> Self {
        let matches = Self::command().get_matches();
        let parsed = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()));
        let options = parsed.unwrap_or_else(|error| error.exit());
        if options.source.config.is_some() {
            let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
            let command = Self::command();
            let mut options = command.get_arguments().map(|argument| argument.get_id().as_str());
            if let Some(other) = options.find(|id| !WITH_CONFIG.contains(id) && is_given(id)) {
                let option = if other == "loops" { "mapping".to_owned() } else { other.replace('_', "-") };
                let why = format!("--{option} has no effect with --config: write it into the file");
                Self::command().error(ErrorKind::ArgumentConflict, why).exit();
            }
        }
        options
    }

    /// What concerns the process.
    pub(crate) fn daemon(&self) -> DaemonSpec {
        DaemonSpec {
            loops: self.threads,
            placement: Rule::default(),
            control: self.control.clone(),
            monitor: self.monitor,
            reset: self.reset,
            busy_poll: self.busy_poll,
            linger: self.linger,
            stats: self.stats,
            user: self.user.clone(),
            group: self.group.clone(),
            pid_file: self.pid_file.clone(),
        }
    }

    /// The disk.
    pub(crate) fn disk(&self) -> DiskSpec {
        DiskSpec { id: ID.to_owned(), socket: self.source.socket.clone(), ..self.disk.clone() }
    }

    /// Refuses what would have no effect. The error is one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let needs_files = [("config", self.source.config.is_some()), ("control", self.control.is_some())];
        if let Some((option, _)) = needs_files.into_iter().find(|(_, given)| self.sandbox && *given) {
            return Err(format!(
                "--sandbox on forbids opening files, and with --{option} disks are opened later; leave one of \
                 the two out"
            ));
        }
        if self.source.config.is_some() {
            return Ok(());
        }
        let concerns_socket = [
            ("socket-mode", self.disk.socket_mode.is_some()),
            ("socket-owner", self.disk.socket_owner.is_some()),
        ];
        if self.source.socket.is_none()
            && let Some((option, _)) = concerns_socket.into_iter().find(|(_, given)| *given)
        {
            return Err(format!("--{option} concerns --socket; an inherited socket has its own"));
        }
        self.disk.check(Names::Options, self.threads.into())?;
        self.check_threads()
    }

    /// Each thread gets a queue.
    fn check_threads(&self) -> Result<(), String> {
        let (threads, queues) = (usize::from(self.threads), usize::from(self.disk.queues));
        if threads > queues {
            return Err(format!("--threads {threads}: more threads than queues ({queues}); raise --queues"));
        }
        let mapping = &self.disk.loops;
        let thread_of =
            |queue: usize| mapping.get(queue).copied().or_else(|| queue.checked_rem(threads)).unwrap_or(0);
        let idle = (0..threads).find(|thread| !(0..queues).any(|queue| thread_of(queue) == *thread));
        match idle {
            Some(thread) => Err(format!("--mapping: thread {thread} has no queue")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::try_parse_from(["vhost-user-blk"].iter().chain(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_disk_and_a_frontend_are_needed() {
        // The socket may be one that a service manager passes.
        assert!(parse(&["--null", "1g"]).is_ok());
        assert!(parse(&["--socket", "s"]).is_err());
        assert!(parse(&["--socket", "s", "--null", "1g", "--memory", "1m"]).is_err());
        assert!(parse(&["--socket", "s", "--fd", "3", "--null", "1g"]).is_err());
        assert!(parse(&["--config", "f", "--null", "1g"]).is_err());
        assert!(parse(&["--config", "f", "--socket", "s"]).is_err());
        assert!(parse(&["--config", "f"]).is_ok());
        let options = parse(&["--socket", "s", "--null", "1g"]).unwrap();
        assert!(!options.sandbox);
        let open = options.disk().open(Names::Options, "test").unwrap();
        assert_eq!(open.disk.device.capacity_sectors(), 2 << 20);
    }

    #[test]
    fn a_thread_without_a_queue_is_refused() {
        let check = |threads: &str, queues: &str, mapping: &[&str]| {
            let base = ["--socket", "s", "--null", "1m", "--threads", threads, "--queues", queues];
            parse(&[&base, mapping].concat()).and_then(|options| options.check())
        };
        for (threads, queues, mapping) in [("0", "1", None), ("2", "2", None), ("2", "5", Some("1"))] {
            let mapping: Vec<&str> = mapping.iter().flat_map(|list| ["--mapping", list]).collect();
            assert_eq!(check(threads, queues, &mapping), Ok(()), "{threads} {queues} {mapping:?}");
        }
        // Queue 0 is on thread 1, and queue 1 is there by the round robin.
        assert_eq!(check("2", "2", &["--mapping", "1"]).unwrap_err(), "--mapping: thread 0 has no queue");
    }
}
