//! What a frontend or a guest does, of one disk of a process that serves many: work, or mischief.

use rustix::io::{Errno, ioctl_fionbio, read, write};
use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use virtio_blk_sim::guest::{BlkDriver, Completion, DriverError, VhostUserDisk};
use virtio_blk_sim::vhost_user::{Code, Header};

/// What it does, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Reads, as a guest may: what a share of the loop's time costs.
    Reads,
    /// Reads of sectors that do not exist.
    Mistakes,
    /// Messages on its socket, many at once.
    Floods,
    /// Messages that are refused.
    Refused,
    /// Connections to a socket whose frontend is connected already.
    Connects,
    /// Reads, with an interrupt eventfd that is blocking and full.
    FullCall,
}

/// Messages that are sent at once: more than the server handles in a turn.
const MANY: usize = 64;

/// A sector behind the end of any disk.
const NOWHERE: u64 = 1 << 50;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Neighbour {
    pub(super) const ALL: [Self; 6] =
        [Self::Reads, Self::Mistakes, Self::Floods, Self::Refused, Self::Connects, Self::FullCall];

    /// Goes on until it is to stop, or the server hangs up. Blocks.
    pub(super) fn run(
        self,
        disk: &mut VhostUserDisk,
        driver: &mut BlkDriver,
        socket: &Path,
        stop: &AtomicBool,
    ) {
        let mut finished = Vec::new();
        let prepared = match self {
            Self::FullCall => fill(driver),
            _ => empty(driver),
        };
        if prepared.is_err() {
            return;
        }
        while !stop.load(Ordering::Relaxed) {
            let goes_on = match self {
                Self::Reads => read_one(driver, &mut finished, 0),
                Self::Mistakes => read_one(driver, &mut finished, NOWHERE),
                Self::Floods => flood(disk),
                // A size that is no power of two. Refused, which is not the end of the session.
                Self::Refused => {
                    let _ = disk.frontend().set_vring_num(0, 7);
                    true
                }
                Self::Connects => UnixStream::connect(socket).is_ok(),
                Self::FullCall => read_unheard(driver, &mut finished),
            };
            if !goes_on {
                return;
            }
        }
        if self == Self::Connects {
            let _ = wait_for_backlog(socket);
        }
    }
}

fn flood(disk: &mut VhostUserDisk) -> bool {
    let requests = Header::request(Code::GetFeatures.number(), 0).encode().repeat(MANY);
    let frontend = disk.frontend();
    frontend.send_raw(&requests, &[]).is_ok() && (0..MANY).all(|_| frontend.receive_raw().is_ok())
}

/// Waits until the server has accepted all earlier connections: it hangs up on the last one, too.
fn wait_for_backlog(socket: &Path) -> io::Result<()> {
    let mut last = UnixStream::connect(socket)?;
    last.set_read_timeout(Some(PATIENCE))?;
    last.read(&mut [0]).map(drop)
}

/// Fills the interrupt eventfd, and has writes to it block.
fn fill(driver: &BlkDriver) -> io::Result<()> {
    let irq = driver.ports().irq.as_fd();
    ioctl_fionbio(irq, true)?;
    // It has a count already if the device has interrupted.
    for count in [u64::MAX - 64].into_iter().chain([1; 64]) {
        match write(irq, &count.to_ne_bytes()) {
            Ok(_) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ioctl_fionbio(irq, false)?)
}

/// Empties the interrupt eventfd, which may be [full](fill).
fn empty(driver: &BlkDriver) -> io::Result<()> {
    let irq = driver.ports().irq.as_fd();
    ioctl_fionbio(irq, true)?;
    match read(irq, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads a block, and sleeps until it is there. Returns false if the server is gone.
fn read_one(driver: &mut BlkDriver, finished: &mut Vec<Completion>, sector: u64) -> bool {
    let mut read = || {
        driver.read(0, sector)?;
        driver.kick()?;
        driver.reap(finished)?;
        while finished.is_empty() {
            driver.wait()?;
            driver.reap(finished)?;
        }
        Ok::<_, DriverError>(())
    };
    let read = read();
    finished.clear();
    read.is_ok()
}

/// Reads a block. The guest sees the answer in its ring, and nothing else.
fn read_unheard(driver: &mut BlkDriver, finished: &mut Vec<Completion>) -> bool {
    if driver.read(0, 0).and_then(|()| driver.kick()).is_err() {
        return false;
    }
    let begin = Instant::now();
    while finished.is_empty() && begin.elapsed() < PATIENCE {
        if driver.reap(finished).is_err() {
            return false;
        }
        std::thread::yield_now();
    }
    finished.drain(..).next().is_some()
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reads => "one reads as well",
            Self::Mistakes => "one makes wrong requests",
            Self::Floods => "one floods its socket",
            Self::Refused => "one sends wrong messages",
            Self::Connects => "one connects over and over",
            Self::FullCall => "one has a full call eventfd",
        })
    }
}
