//! A busy disk of vhost-user-blk while another one is added and removed, again and again.

use super::disks::{BLOCK_BYTES, EXCHANGE, Ended, LOOPS, PATIENCE, libc_pid, wait_for};
use crate::error::{Error, reason};
use crate::machine::process::{Process, Usage};
use crate::machine::{NoOutcome, Placement, Worker, pin_current_thread};
use crate::measure::{quantile_us, sample};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};
use tempfile::TempDir;
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{
    self, BlkDriver, GuestError, GuestReport, Pattern, QueueShape, Stop, VhostUserDisk, Waiting, Workload,
};

sample! {
    /// The result of one visit: a guest that uses a disk, one request at a time.
    pub(super) struct ChurnSample {
        iops: "1/s" Higher,
        p50_us: "us" Lower,
        p99_us: "us" Lower,
        max_us: "us" Lower,
        server_cpu_ns: "ns" Lower,
        /// Commands that were answered.
        commands_per_s: "1/s" Higher,
    }
}

/// The group of these rows begins with this.
pub(super) const GROUP: &str = "a busy disk while others change";

/// What a client of the control socket does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// Nothing.
    Silent,
    /// It asks for the list of disks: the cost of a client that changes nothing.
    Asks,
    /// It adds a disk with an image and removes it.
    Changes,
    /// The same, with a frontend that connects to the disk and is disconnected by its removal.
    ChangesInUse,
}

impl Client {
    pub(super) const ALL: [Self; 4] = [Self::Silent, Self::Asks, Self::Changes, Self::ChangesInUse];
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "none changes",
            Self::Asks => "a client asks for the list",
            Self::Changes => "one is added and removed",
            Self::ChangesInUse => "one is added, used, and removed",
        })
    }
}

/// A server process with one disk in use. Dropping it ends the process.
pub(super) struct Churn {
    // Dropped in this order: the guest before its disk, the frontend before the server.
    guest: Worker<Workload, Result<GuestReport, GuestError>>,
    _frontend: VhostUserDisk,
    control: Control,
    process: Process,
    _child: Ended,
    directory: TempDir,
    seed: u64,
}

impl Churn {
    /// Starts a server, and connects a frontend to its disk. Blocks. The inner error is the reason
    /// why this machine cannot.
    pub(super) fn start(program: &Path, placement: Placement) -> Result<Self, String> {
        let fail = |error: io::Error| reason(&error);
        let directory = TempDir::new().map_err(fail)?;
        let path = |name: &str| directory.path().join(name);
        let (config, socket, control) = (path("disks.toml"), path("disk.sock"), path("control"));
        let image = fs::File::create(path("image")).map_err(fail)?;
        image.set_len(1 << 20).map_err(fail)?;
        let text = format!(
            "[daemon]\nloops = {LOOPS}\ncontrol = {control:?}\n\n[[disk]]\nid = \"busy\"\nsocket = {socket:?}\n\
             null = \"64m\"\n"
        );
        fs::write(&config, text).map_err(fail)?;
        // The threads of the server inherit this.
        pin_current_thread(placement.device).map_err(fail)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.map_err(|error| format!("{}: {}", program.display(), reason(&error)))?;
        let mut child = Ended(child);
        pin_current_thread(placement.guest).map_err(fail)?;
        let process = Process::new(libc_pid(&child.0))?;
        wait_for(&socket, &mut child.0)?;
        let (frontend, mut driver) =
            VhostUserDisk::connect(&socket, EXCHANGE, shape()).map_err(|error| reason(&error))?;
        driver.set_waiting(Waiting::Sleeping);
        let work = |driver: &mut BlkDriver, job: Workload| guest::run(driver, &job);
        let guest = Worker::spawn("bench-guest", placement.guest, move || driver, work).map_err(fail)?;
        let control = Control::connect(&control).map_err(fail)?;
        Ok(Self { guest, _frontend: frontend, control, process, _child: child, directory, seed: 1 })
    }

    /// Takes one sample: the guest works for `runtime`, and so does the client. The client is on
    /// the CPU of the guest, and mostly waits.
    pub(super) fn sample(&mut self, client: Client, runtime: Duration) -> Result<ChurnSample, Error> {
        let failed = |what: &dyn fmt::Display| Error::Failed(format!("{client}: {}", reason(what)));
        let before = self.process.settled().map_err(|error| failed(&error))?;
        let job = Workload {
            pattern: Pattern::RandRead,
            iodepth: 1,
            stop: Stop::After(runtime),
            verify: false,
            seed: self.seed,
        };
        let stop = AtomicBool::new(false);
        let (begin, directory, control) = (Instant::now(), self.directory.path(), &mut self.control);
        let guest = &mut self.guest;
        let (report, answered) = std::thread::scope(|scope| {
            let stop = &stop;
            let client = scope.spawn(move || control.run(client, directory, stop));
            guest.start(job);
            let report = guest.finish(runtime + PATIENCE);
            stop.store(true, Ordering::Relaxed);
            (report, client.join())
        });
        let elapsed = begin.elapsed();
        let report = match report {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(NoOutcome::TimedOut) => return Err(failed(&"a request was not answered")),
            Err(NoOutcome::Ended) => return Err(failed(&"the guest's thread ended early")),
        };
        let answered = match answered {
            Ok(answered) => answered.map_err(|error| failed(&error))?,
            Err(_) => return Err(failed(&"the client's thread ended early")),
        };
        let used = self.process.settled().map_err(|error| failed(&error))?.since(before);
        self.seed = self.seed.wrapping_add(1);
        Ok(ChurnSample::of(&report, used, answered as f64 / elapsed.as_secs_f64().max(1e-9)))
    }
}

impl ChurnSample {
    fn of(guest: &GuestReport, server: Usage, commands_per_s: f64) -> Self {
        let latency_us = |quantile| quantile_us(&guest.latency_ns, quantile);
        Self {
            iops: guest.requests as f64 / guest.elapsed.as_secs_f64().max(1e-9),
            p50_us: latency_us(0.5),
            p99_us: latency_us(0.99),
            max_us: latency_us(1.0),
            server_cpu_ns: server.cpu_ns as f64 / guest.requests.max(1) as f64,
            commands_per_s,
        }
    }
}

fn shape() -> QueueShape {
    let features = Features::INDIRECT_DESC | Features::EVENT_IDX;
    QueueShape { size: BlkDriver::queue_size_for(1, features), slots: 1, block_bytes: BLOCK_BYTES, features }
}

/// A client of the control socket.
struct Control(BufReader<UnixStream>);

impl Control {
    fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(EXCHANGE))?;
        let mut this = Self(BufReader::new(stream));
        // The greeting.
        this.line()?;
        Ok(this)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    /// Executes a command.
    fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        let request = json!({"execute": command, "arguments": arguments});
        self.0.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let line = self.line()?;
            match line.starts_with("{\"event\"") {
                true => {}
                false if line.starts_with("{\"error\"") => return Err(io::Error::other(line)),
                false => return Ok(()),
            }
        }
    }

    /// Does what the client does until it is to stop. Returns how many commands were answered.
    fn run(&mut self, client: Client, directory: &Path, stop: &AtomicBool) -> io::Result<u64> {
        let (socket, image) = (directory.join("other.sock"), directory.join("image"));
        let disk = json!({"id": "other", "socket": socket, "image": image});
        let id = json!({"id": "other"});
        let mut answered = 0;
        while !stop.load(Ordering::Relaxed) {
            match client {
                Client::Silent => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Client::Asks => self.execute("list-disks", &json!({}))?,
                Client::Changes | Client::ChangesInUse => {
                    self.execute("add-disk", &disk)?;
                    let used = (client == Client::ChangesInUse)
                        .then(|| VhostUserDisk::connect(&socket, EXCHANGE, shape()));
                    let used = used.transpose().map_err(|error| io::Error::other(error.to_string()))?;
                    self.execute("remove-disk", &id)?;
                    drop(used);
                    answered += 1;
                }
            }
            answered += 1;
        }
        Ok(answered)
    }
}
