//! A frontend or a guest that misbehaves, of one disk of a process that serves many.

use rustix::io::{Errno, ioctl_fionbio, write};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_blk_sim::guest::{BlkDriver, Completion, VhostUserDisk};
use virtio_blk_sim::vhost_user::{Code, Header};

/// What it does, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Requests on its socket, many at once.
    Floods,
    /// Requests that are refused.
    Mistakes,
    /// Connections to a socket whose frontend is connected already.
    Connects,
    /// Reads, with an interrupt eventfd that is blocking and full.
    FullCall,
}

/// Requests that are sent at once: more than the server handles in a turn.
const MANY: usize = 64;

impl Neighbour {
    pub(super) const ALL: [Self; 4] = [Self::Floods, Self::Mistakes, Self::Connects, Self::FullCall];

    /// Misbehaves until it is to stop, or the server hangs up. Blocks.
    pub(super) fn run(
        self,
        disk: &mut VhostUserDisk,
        driver: &mut BlkDriver,
        socket: &Path,
        stop: &AtomicBool,
    ) {
        let mut finished = Vec::new();
        if self == Self::FullCall && fill(driver).is_err() {
            return;
        }
        while !stop.load(Ordering::Relaxed) {
            let goes_on = match self {
                Self::Floods => flood(disk),
                // A size that is no power of two. Refused, which is not the end of the session.
                Self::Mistakes => {
                    let _ = disk.frontend().set_vring_num(0, 7);
                    true
                }
                Self::Connects => UnixStream::connect(socket).is_ok(),
                Self::FullCall => read_one(driver, &mut finished, stop),
            };
            if !goes_on {
                return;
            }
        }
    }
}

fn flood(disk: &mut VhostUserDisk) -> bool {
    let requests = Header::request(Code::GetFeatures.number(), 0).encode().repeat(MANY);
    let frontend = disk.frontend();
    frontend.send_raw(&requests, &[]).is_ok() && (0..MANY).all(|_| frontend.receive_raw().is_ok())
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

/// Reads a block. The guest sees the answer in its ring.
fn read_one(driver: &mut BlkDriver, finished: &mut Vec<Completion>, stop: &AtomicBool) -> bool {
    if driver.read(0, 0).and_then(|()| driver.kick()).is_err() {
        return false;
    }
    while finished.is_empty() && !stop.load(Ordering::Relaxed) {
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
            Self::Floods => "one floods its socket",
            Self::Mistakes => "one sends wrong requests",
            Self::Connects => "one connects over and over",
            Self::FullCall => "one has a full call eventfd",
        })
    }
}
