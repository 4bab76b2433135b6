//! Sends a vhost-user-blk server an exact number of requests, one at a time, and reports what they
//! cost it. `scripts/kernel-lab.sh qemu` runs this in its guest, where all clocks count
//! instructions.
//!
//! ```text
//! vhost-user-count SOCKET PID WARM-UP REQUESTS [autoreset] [kicks=N]
//! ```
//!
//! PID is the server's process. There are three rounds: WARM-UP requests, then REQUESTS, and then
//! twice as many. What the last adds to the one before has no fixed cost. Before and after
//! each of these two the program asks for its personality(2), which nothing else in that guest
//! does: an observer outside reads its counters there.
//!
//! `autoreset` creates the kicks with EFD_AUTORESET. `kicks=N` gives the server N more kicks that
//! are never used: QEMU changes from ppoll(2) to epoll(7) if it watches many descriptors.
//!
//! At the end the client hands over a new kick that has been written to before, as when a server
//! takes over a running guest, and reports whether the server sees it.
//!
//! A request that is not served in 100 ms is kicked again. That is counted as a lost kick if it
//! helps. The exit code is 0 if no kick was lost, 4 if some were, 5 if the server hangs.
#![expect(unsafe_code, reason = "CPU clocks, personality(2) and SCHED_BATCH are libc calls")]

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aio::{EventNotifier, Method, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{BlkDriver, QueueShape, VhostUserDisk};
use virtio_blk_sim::queue::Kick;
use virtio_blk_sim::vhost_user::Frontend;

const BLOCK_BYTES: u32 = 4096;
/// A power of two, so that the blocks are taken in turn by a mask.
const BLOCKS: u64 = 1024;
const LOST_AFTER: Duration = Duration::from_millis(100);
/// How often a request is kicked again before the server counts as hanging.
const KICKS: u64 = 5;
const HANGS: i32 = 5;
/// Long enough for a server to finish what it does after it has signalled the last completion.
const AT_REST: Duration = Duration::from_millis(5);

struct Options {
    socket: String,
    pid: libc::pid_t,
    warm_up: u64,
    requests: u64,
    reset: Reset,
    more_kicks: u8,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut next = |what: &str| arguments.next().ok_or(format!("{what} is missing"));
        let mut options = Self {
            socket: next("the server's socket")?,
            pid: next("the server's process id")?.parse()?,
            warm_up: next("the number of requests to warm up")?.parse()?,
            requests: next("the number of requests")?.parse()?,
            reset: Reset::Classic,
            more_kicks: 0,
        };
        for argument in arguments {
            match argument.split_once('=') {
                None if argument == "autoreset" => options.reset = Reset::AutoresetBy(Method::KernelFlag),
                Some(("kicks", count)) => options.more_kicks = count.parse()?,
                _ => return Err(format!("unknown argument {argument}").into()),
            }
        }
        Ok(options)
    }
}

/// The CPU time of the server's process, in nanoseconds. It is exact while the server sleeps.
fn cpu_ns(pid: libc::pid_t) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: `clock` is ours and is written by the call.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and is filled by the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Makes this thread wait until the server sleeps, if both have one CPU. Otherwise the guest would
/// run as soon as it is interrupted, and its next request would come while the server still looks
/// at the queue and wants no kick.
fn be_patient() -> io::Result<()> {
    // SAFETY: all zeroes are a valid sched_param.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the call reads `parameters`, which is ours.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the guest and its watch share.
#[derive(Debug, Default)]
struct Progress {
    served: AtomicU64,
    lost: AtomicU64,
    marks: AtomicU64,
}

/// Kicks again when a request is not served for a while; ends the process if that does not help.
fn watch(progress: &Progress, kick: &Kick) {
    let (mut seen, mut kicks) = (u64::MAX, 0);
    loop {
        std::thread::sleep(LOST_AFTER);
        let served = progress.served.load(Ordering::Relaxed);
        if served != seen {
            if kicks > 0 {
                progress.lost.fetch_add(1, Ordering::Relaxed);
            }
            (seen, kicks) = (served, 0);
        } else if kicks == KICKS || kick.notify().is_err() {
            let marks = progress.marks.load(Ordering::Relaxed);
            println!("hangs served={served} lost={} marks={marks}", progress.lost.load(Ordering::Relaxed));
            std::process::exit(HANGS);
        } else {
            kicks += 1;
        }
    }
}

struct Guest {
    driver: BlkDriver,
    progress: Arc<Progress>,
    block: u64,
}

impl Guest {
    fn serve(&mut self, requests: u64) -> Result<(), Box<dyn Error>> {
        let mut finished = Vec::with_capacity(1);
        for _ in 0..requests {
            // A step that is prime to the number of blocks reaches all of them.
            self.block = (self.block + 509) % BLOCKS;
            self.driver.read(0, self.block * u64::from(BLOCK_BYTES / 512))?;
            self.driver.kick()?;
            while finished.is_empty() {
                self.driver.wait()?;
                self.driver.reap(&mut finished)?;
            }
            self.progress.served.fetch_add(1, Ordering::Relaxed);
            for completion in finished.drain(..) {
                if completion.status != 0 {
                    return Err(format!("a request failed with status {}", completion.status).into());
                }
            }
        }
        Ok(())
    }
}

/// Makes a request and gives the server a new kick that already says so. Returns whether the server
/// has seen that: "delivered", "lost" if it takes one more kick, or "hangs".
fn hand_over(
    guest: &mut Guest,
    disk: &mut VhostUserDisk,
    reset: Reset,
) -> Result<&'static str, Box<dyn Error>> {
    let kick = EventNotifier::new(reset)?;
    guest.driver.read(0, 0)?;
    guest.driver.show();
    kick.notify()?;
    disk.frontend().set_vring_kick(0, Some(kick.as_fd()))?;
    let mut finished = Vec::with_capacity(1);
    for outcome in ["delivered", "lost"] {
        for _ in 0..20 {
            guest.driver.reap(&mut finished)?;
            if !finished.is_empty() {
                return Ok(outcome);
            }
            std::thread::sleep(LOST_AFTER / 10);
        }
        kick.notify()?;
    }
    Ok("hangs")
}

/// Waits until both sides sleep, then tells the observer. Returns the server's CPU time.
fn mark(progress: &Progress, pid: libc::pid_t) -> io::Result<u64> {
    std::thread::sleep(AT_REST);
    // SAFETY: with this argument the call only returns the current value.
    unsafe { libc::personality(0xffff_ffff) };
    progress.marks.fetch_add(1, Ordering::Relaxed);
    cpu_ns(pid)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let features = Features::INDIRECT_DESC | Features::EVENT_IDX;
    let shape = QueueShape {
        size: BlkDriver::queue_size_for(1, features),
        slots: 1,
        block_bytes: BLOCK_BYTES,
        features,
    };
    let frontend = Frontend::connect(&options.socket, Duration::from_secs(10))?;
    let kick = EventNotifier::new(options.reset)?;
    let (mut disk, driver) = VhostUserDisk::start_with_kick(frontend, shape, kick)?;
    if disk.capacity_sectors() < BLOCKS * u64::from(BLOCK_BYTES / 512) {
        return Err(format!("the disk has fewer than {BLOCKS} blocks of {BLOCK_BYTES} bytes").into());
    }
    let more: Vec<EventNotifier> =
        (0..options.more_kicks).map(|_| EventNotifier::new(options.reset)).collect::<io::Result<_>>()?;
    for (queue, kick) in (1..=options.more_kicks).zip(&more) {
        disk.frontend().set_vring_kick(queue, Some(kick.as_fd()))?;
    }
    // The reply comes after all kicks have been taken over.
    disk.frontend().get_features()?;

    let progress = Arc::new(Progress::default());
    let (watched, kick) = (Arc::clone(&progress), driver.ports().kick.clone());
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || watch(&watched, &kick))?;
    be_patient()?;
    let mut guest = Guest { driver, progress, block: 0 };
    guest.serve(options.warm_up)?;
    let mut marks = vec![mark(&guest.progress, options.pid)?];
    for requests in [options.requests, 2 * options.requests] {
        guest.serve(requests)?;
        marks.push(mark(&guest.progress, options.pid)?);
    }
    let served = guest.progress.served.load(Ordering::Relaxed);
    let lost = guest.progress.lost.load(Ordering::Relaxed);
    let marks: Vec<String> = marks.iter().map(u64::to_string).collect();
    let handover = hand_over(&mut guest, &mut disk, options.reset)?;
    println!(
        "done served={served} lost={lost} marks={} cpu={} handover={handover}",
        marks.len(),
        marks.join(",")
    );
    Ok(ExitCode::from(if lost == 0 { 0 } else { 4 }))
}
