//! Virtio-blk devices on IoThreads, and a guest that keeps one request of each in flight.

use super::heap::bytes_in_use;
use crate::arm::Arm;
use crate::bare::clock_ns;
use crate::error::{Error, reason};
use crate::machine::pin_current_thread;
use crate::machine::{NoOutcome, Worker};
use crate::measure::{median, sample};
use aio::{AioContext, IoThread, Stats};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};
use virtio_blk_sim::blk::Attached;
use virtio_blk_sim::blk::backend::{Backend, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::guest::SimTransport;
use virtio_blk_sim::guest::{BlkDriver, Completion, DriverError, Waiting};

sample! {
    /// The result of one measurement of a number of devices.
    pub(super) struct DeviceSample {
        /// Elapsed time divided by the requests of all devices.
        time_ns: "ns" Lower,
        device_cpu_ns: "ns" Lower,
        syscalls: "syscalls" Lower,
        /// The median over the devices of their mean latencies.
        latency_us: "us" Lower,
        /// The largest of their mean latencies over the median.
        latency_max_over_median: "ratio" Lower,
        device_bytes: "bytes" Lower,
    }
}

/// A number of devices, each with one queue, on a number of IoThreads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) arm: Arm,
    pub(super) devices: usize,
    pub(super) io_threads: usize,
    spread: bool,
}

/// The number of queues that are spread over IoThreads, and the numbers of IoThreads.
const SPREAD: usize = 32;
const IO_THREADS: [usize; 3] = [1, 2, 4];
const BLOCK_BYTES: u32 = 512;

impl Devices {
    pub(super) fn on_one_loop(arm: Arm) -> Vec<Devices> {
        [1, 10, 100, 1_000].map(|devices| Devices { arm, devices, io_threads: 1, spread: false }).to_vec()
    }

    pub(super) fn spread(arm: Arm) -> Vec<Devices> {
        IO_THREADS.map(|io_threads| Devices { arm, devices: SPREAD, io_threads, spread: true }).to_vec()
    }

    pub(super) fn group(self, place: &str) -> String {
        if self.spread {
            format!("{SPREAD} queues over IoThreads, {}, {place}", self.arm)
        } else {
            format!("devices on one loop, {}, {place}", self.arm)
        }
    }
}

/// The case: how many devices, or how many IoThreads.
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&if self.spread { self.io_threads } else { self.devices }.to_string())
    }
}

/// Longer than a sample of usual length: the loops are not asked for anything before.
const EXPECTED: Duration = Duration::from_secs(1);

/// The result of a job of the guest's thread.
type Outcome = Result<Run, DriverError>;

/// What the guest saw.
struct Run {
    elapsed: Duration,
    requests: u64,
    /// By device, in nanoseconds.
    mean_latencies: Vec<f64>,
}

/// Devices, set up and asleep, and the thread that plays their guests.
pub(super) struct Rig {
    guest: Worker<u64, Outcome>,
    io_threads: Vec<IoThread>,
    bytes_each: f64,
}

impl Rig {
    /// Starts the devices' loops on `cpus` in turn. The error is the reason why this machine
    /// cannot.
    pub(super) fn start(what: Devices, guest_cpu: usize, cpus: &[usize]) -> Result<Self, String> {
        let why = |error: io::Error| match error.raw_os_error() {
            Some(libc::EMFILE) => format!("needs {} descriptors; raise 'ulimit -n'", 3 * what.devices),
            _ => reason(&error),
        };
        let (mut drivers, mut transports) = (Vec::new(), Vec::new());
        for _ in 0..what.devices {
            let transport = Arc::new(transport(what.arm).map_err(why)?);
            let ports = transport.guest().map_err(why)?;
            let mut driver = BlkDriver::new(ports, 1, BLOCK_BYTES).map_err(|error| reason(&error))?;
            driver.set_waiting(Waiting::Spinning);
            drivers.push(driver);
            transports.push(transport);
        }
        let before = bytes_in_use();
        let mut io_threads = Vec::new();
        for index in 0..what.io_threads {
            let mine: Vec<_> = transports.iter().skip(index).step_by(what.io_threads).cloned().collect();
            let cpu = cpus[index % cpus.len()];
            let builder =
                AioContext::builder().monitor(what.arm.monitor().kind()).reset(what.arm.reset().into());
            let attach = move |context: &AioContext| -> io::Result<Vec<Attached>> {
                pin_current_thread(cpu)?;
                mine.iter().map(|it| it.attach(context, Backend::Null(Null::default()))).collect()
            };
            io_threads.push(IoThread::spawn_with("bench-io", builder, attach).map_err(why)?);
        }
        let grown = before.zip(bytes_in_use()).map(|(before, after)| after.saturating_sub(before));
        let bytes_each = grown.map_or(f64::NAN, |grown| grown as f64 / what.devices as f64);
        let guest =
            Worker::spawn("bench-guest", guest_cpu, move || drivers, |drivers, times| play(drivers, times))
                .map_err(why)?;
        Ok(Self { guest, io_threads, bytes_each })
    }

    /// Counters and CPU time of all loops together.
    fn counts(io_threads: &[IoThread]) -> Result<(u64, u64), Error> {
        let mut sum = (0, 0);
        for io_thread in io_threads {
            let counts = |context: &AioContext| {
                (device_calls(context.stats()), clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
            };
            let (calls, cpu_ns) =
                io_thread.run(counts).map_err(|error| Error::failed("an IoThread ended early", &error))?;
            sum = (sum.0 + calls, sum.1 + cpu_ns);
        }
        Ok(sum)
    }

    /// One sample: `times` requests of each device. Longer than `patience` is a hang.
    pub(super) fn sample(
        &mut self,
        times: u64,
        patience: Duration,
    ) -> Result<(Duration, DeviceSample), Error> {
        let before = Self::counts(&self.io_threads)?;
        self.guest.start(times);
        // A guest whose device has failed polls its ring forever.
        let mut failed = None;
        let run = self.guest.finish_unless(EXPECTED, patience, || {
            failed = Self::counts(&self.io_threads).err();
            failed.is_some()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let run = run.map_err(|why| {
            Error::Failed(match why {
                NoOutcome::TimedOut => "a device did not answer: a kick was lost".to_owned(),
                NoOutcome::Ended => "the guest's thread ended early".to_owned(),
            })
        })?;
        let run = run.map_err(|error| Error::Failed(format!("the guest: {}", reason(&error))))?;
        let after = Self::counts(&self.io_threads)?;
        let each = |count: u64| count as f64 / run.requests.max(1) as f64;
        let middle = median(&run.mean_latencies).unwrap_or(f64::NAN);
        let longest = run.mean_latencies.iter().copied().fold(0.0, f64::max);
        let sample = DeviceSample {
            time_ns: run.elapsed.as_nanos() as f64 / run.requests.max(1) as f64,
            device_cpu_ns: each(after.1.saturating_sub(before.1)),
            syscalls: each(after.0.saturating_sub(before.0)),
            latency_us: middle / 1e3,
            latency_max_over_median: longest / middle,
            device_bytes: self.bytes_each,
        };
        // A repetition is one request of each device.
        Ok((run.elapsed, sample))
    }
}

/// The system calls of a device's loop. A spinning driver needs no interrupts, and the loop's own
/// notifier is written by us.
fn device_calls(stats: Stats) -> u64 {
    stats.syscalls() - stats.syscalls_write
}

/// Keeps one request of each driver in flight until each has completed `times`, polling one after
/// the other.
fn play(drivers: &mut [BlkDriver], times: u64) -> Outcome {
    struct Guest {
        submitted: Instant,
        latency_ns: u64,
        left: u64,
    }
    let begin = Instant::now();
    let mut guests: Vec<Guest> =
        drivers.iter().map(|_| Guest { submitted: begin, latency_ns: 0, left: times }).collect();
    let mut finished = Vec::<Completion>::with_capacity(1);
    for (driver, guest) in drivers.iter_mut().zip(&mut guests) {
        guest.submitted = Instant::now();
        driver.read(0, 0)?;
        driver.kick()?;
    }
    let mut busy = drivers.len();
    while busy > 0 {
        for (driver, guest) in drivers.iter_mut().zip(&mut guests) {
            if guest.left == 0 {
                continue;
            }
            driver.reap(&mut finished)?;
            if finished.drain(..).next().is_none() {
                if driver.ports().needs_reset() {
                    return Err(DriverError::NeedsReset);
                }
                continue;
            }
            let now = Instant::now();
            guest.latency_ns += (now - guest.submitted).as_nanos() as u64;
            guest.left -= 1;
            if guest.left == 0 {
                busy -= 1;
                continue;
            }
            guest.submitted = now;
            driver.read(0, 0)?;
            driver.kick()?;
        }
        // Lets devices on the same CPU run; otherwise it returns at once.
        std::thread::yield_now();
    }
    let mean = |guest: &Guest| guest.latency_ns as f64 / times.max(1) as f64;
    Ok(Run {
        elapsed: begin.elapsed(),
        requests: times * drivers.len() as u64,
        mean_latencies: guests.iter().map(mean).collect(),
    })
}

fn transport(arm: Arm) -> io::Result<SimTransport> {
    let device = BlockDevice::new(DeviceConfig::new(8))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let features = Features::INDIRECT_DESC | Features::EVENT_IDX;
    let queue_size = BlkDriver::queue_size_for(1, features);
    let ram = BlkDriver::ram_bytes(queue_size, 1, BLOCK_BYTES);
    let ram = usize::try_from(ram).map_err(|_| io::ErrorKind::OutOfMemory)?;
    SimTransport::new(device, features, queue_size, ram, arm.reset().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuSet;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn every_device_is_served_on_one_loop_and_on_two() {
        let cpu = CpuSet::allowed().unwrap().iter().next().unwrap();
        let arm: Arm = "epoll/edge".parse().unwrap();
        for (devices, io_threads) in [(1, 1), (7, 1), (7, 2)] {
            let what = Devices { arm, devices, io_threads, spread: false };
            let mut rig = Rig::start(what, cpu, &[cpu]).unwrap();
            let (_, sample) = rig.sample(20, PATIENCE).unwrap();
            assert!(sample.latency_max_over_median >= 1.0 && sample.latency_us > 0.0, "{sample:?}");
            assert!(sample.syscalls > 0.0, "{sample:?}");
            let run = play_once(&mut rig);
            assert_eq!((run.requests, run.mean_latencies.len()), (5 * devices as u64, devices));
        }
    }

    fn play_once(rig: &mut Rig) -> Run {
        rig.guest.start(5);
        rig.guest.finish(PATIENCE).unwrap().unwrap()
    }
}
