//! One arm, set up and ready: a device on a pinned thread with its event loop, a guest on another.

use super::dose::Dosed;
use super::guest::{Guest, GuestRun};
use super::options::{BackendKind, Setup};
use crate::arm::Arm;
use crate::error::Error;
use crate::eventfd::clock_ns;
use crate::measure::{Metric, Sample, metrics};
use crate::pin::{Placement, let_others_finish};
use crate::worker::{NoOutcome, Worker};
use aio::{AioContext, BoundedNotifier, BusyPolling, EventNotifier, Handle};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use virtio_blk_sim::blk::backend::{Backend, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::blk::{Attached, BlkQueue};
use virtio_blk_sim::guest::{DriverError, GuestError, Stop, Workload};
use virtio_blk_sim::queue::{Kick, QueueStats};

/// How much longer than asked for a sample may take before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one visit of one arm measured. Per request unless the name says otherwise.
#[derive(Debug)]
pub(crate) struct RequestSample {
    iops: f64,
    p01_us: f64,
    p10_us: f64,
    p25_us: f64,
    p50_us: f64,
    p75_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    p9999_us: f64,
    device_cpu_ns: f64,
    kicks: f64,
    kicks_held: f64,
    interrupts: f64,
    reads: f64,
    reads_per_wakeup: f64,
    waits: f64,
    writes: f64,
    enters: f64,
    submits: f64,
    syscalls: f64,
    /// NaN where KVM does not count them, or there is none.
    vm_exits: f64,
}

impl Sample for RequestSample {
    const METRICS: &'static [Metric<Self>] = metrics! {
        iops "1/s" Higher,
        p01_us "us" Lower,
        p10_us "us" Lower,
        p25_us "us" Lower,
        p50_us "us" Lower,
        p75_us "us" Lower,
        p90_us "us" Lower,
        p99_us "us" Lower,
        p999_us "us" Lower,
        p9999_us "us" Lower,
        device_cpu_ns "ns" Lower,
        kicks "" Lower,
        kicks_held "" Lower,
        interrupts "" Lower,
        reads "" Lower,
        reads_per_wakeup "" Lower,
        waits "" Lower,
        writes "" Lower,
        enters "" Lower,
        submits "" Lower,
        syscalls "" Lower,
        vm_exits "" Lower,
    };
}

/// What the device's thread counts.
#[derive(Debug, Clone, Copy)]
struct DeviceCounts {
    stats: aio::Stats,
    queue: QueueStats,
    /// Reads that only a dosed arm makes.
    dose_reads: u64,
    cpu_ns: u64,
}

/// The device's thread: a loop and a queue on it.
struct Device {
    // Dropped in this order: the queue before its loop.
    queue: Queue,
    context: AioContext,
}

enum Queue {
    Plain(Attached),
    Dosed(Dosed),
}

impl Queue {
    fn queue(&self) -> &BlkQueue {
        match self {
            Self::Plain(attached) => attached,
            Self::Dosed(dosed) => dosed.queue(),
        }
    }

    fn dose_reads(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Dosed(dosed) => dosed.reads(),
        }
    }
}

impl Device {
    fn counts(&self) -> DeviceCounts {
        let cpu_ns = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let (queue, dose_reads) = (self.queue.queue().stats(), self.queue.dose_reads());
        DeviceCounts { stats: self.context.stats(), queue, dose_reads, cpu_ns }
    }

    /// Turns the loop until it is stopped; what it counted meanwhile.
    fn run(&self) -> io::Result<DeviceCounts> {
        let before = self.counts();
        self.context.run()?;
        let after = self.counts();
        Ok(DeviceCounts {
            stats: after.stats - before.stats,
            queue: after.queue - before.queue,
            dose_reads: after.dose_reads - before.dose_reads,
            cpu_ns: after.cpu_ns - before.cpu_ns,
        })
    }
}

type DeviceOutcome = io::Result<DeviceCounts>;
type GuestOutcome = Result<GuestRun, GuestError>;

/// A device and its guest.
pub(crate) struct Rig {
    arm: Arm,
    workload: Workload,
    requests: Option<u64>,
    stop: Handle,
    device: Worker<(), DeviceOutcome>,
    guest: Worker<Workload, GuestOutcome>,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").field("arm", &self.arm).finish_non_exhaustive()
    }
}

impl Rig {
    /// Sets an arm up that has no [`obstacle`].
    pub(crate) fn start(arm: Arm, placement: Placement, setup: &Setup) -> Result<Self, Error> {
        let failed = |error: &io::Error| Error::failed(&format!("cannot set {arm} up"), error);
        let bound = bounded_kick(arm, setup).transpose().map_err(|error| failed(&error))?;
        let device = device(setup).map_err(|error| failed(&error))?;
        let (transport, guest) = Guest::make(device, features(setup), arm.reset().into(), bound, setup)
            .map_err(|why| Error::Failed(format!("cannot set {arm} up: {why}")))?;
        let kick = transport.guest().map_err(|error| failed(&error))?.kick;
        let transport = Arc::new(transport);

        let (backend, dose, slack) = (setup.backend.clone(), setup.dose, setup.timer_slack_ns);
        let polling = BusyPolling::up_to_ns(setup.busy_poll_ns);
        let (ready, handle) = std::sync::mpsc::channel();
        let make = move || -> io::Result<Device> {
            let mut builder = AioContext::builder().monitor(arm.monitor().kind()).reset(arm.reset().into());
            if let Some(slack_ns) = slack {
                builder = builder.timer_slack_ns(slack_ns);
            }
            let made = builder.busy_polling(polling).build().and_then(|context| {
                let attached = transport.attach(&context, open(&backend)?)?;
                let queue = match dose {
                    Some(dose) => {
                        Queue::Dosed(Dosed::new(&context, arm.monitor(), dose, plain(&kick)?, attached)?)
                    }
                    None => Queue::Plain(attached),
                };
                Ok(Device { queue, context })
            });
            match made {
                Ok(device) => {
                    let _ = ready.send(Ok(device.context.handle()));
                    Ok(device)
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Err(io::ErrorKind::Other.into())
                }
            }
        };
        let run = |device: &mut io::Result<Device>, ()| match device {
            Ok(device) => device.run(),
            Err(_) => Err(io::ErrorKind::NotConnected.into()),
        };
        let device =
            Worker::spawn("bench-device", placement.device, make, run).map_err(|error| failed(&error))?;
        let ended = |_| Error::Failed(format!("cannot set {arm} up: the device's thread ended"));
        let stop = handle.recv().map_err(ended)?.map_err(|error: io::Error| failed(&error))?;
        let patient = setup.patient_guest && placement.guest == placement.device;
        let guest = Worker::spawn(
            "bench-guest",
            placement.guest,
            move || (guest, patient.then(let_others_finish)),
            |(guest, patience), job| {
                if let Some(Err(error)) = patience {
                    return Err(DriverError::from(io::Error::from(error.kind())).into());
                }
                guest.run(&job)
            },
        )
        .map_err(|error| failed(&error))?;
        Ok(Self { arm, workload: setup.workload, requests: setup.requests, stop, device, guest })
    }

    /// One sample: the guest works for `runtime`, or for as many requests as were asked for. The loop turns from before the
    /// first kick until after the last completion, so what it counts is what the requests cost.
    pub(crate) fn sample(&mut self, runtime: Duration) -> Result<RequestSample, Error> {
        let patience = runtime + PATIENCE;
        self.device.start(());
        let stop = self.requests.map_or(Stop::After(runtime), Stop::Requests);
        self.guest.start(Workload { stop, ..self.workload });
        let guest = self.guest.finish(patience);
        self.stop.stop();
        let device = self.device.finish(patience);
        // The next run has other places.
        self.workload.seed = self.workload.seed.wrapping_add(1);
        let lost = |who: &str, why: NoOutcome| {
            let what = match why {
                NoOutcome::TimedOut => "hangs: a completion, a kick or an interrupt was lost",
                NoOutcome::Ended => "ended unexpectedly",
            };
            Error::Failed(format!("{}: the {who} {what}", self.arm))
        };
        let guest = guest.map_err(|why| lost("guest", why))?;
        let device = device.map_err(|why| lost("device", why))?;
        let guest = guest.map_err(|error| Error::Failed(format!("{}: {error}", self.arm)))?;
        let device =
            device.map_err(|error| Error::failed(&format!("{}: the event loop failed", self.arm), &error))?;
        Ok(RequestSample::of(&guest, &device))
    }
}

impl RequestSample {
    fn of(run: &GuestRun, device: &DeviceCounts) -> Self {
        let guest = &run.report;
        let requests = guest.requests.max(1) as f64;
        let each = |count: u64| count as f64 / requests;
        let latency_us = |quantile| guest.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        let stats = device.stats;
        // The loop's own notifier is written by whoever wakes it; an interrupt is a write of the device.
        let syscalls = stats.syscalls_wait
            + stats.syscalls_enter
            + stats.syscalls_read
            + stats.syscalls_ctl
            + device.dose_reads
            + device.queue.submits
            + device.queue.interrupts;
        Self {
            iops: guest.requests as f64 / guest.elapsed.as_secs_f64().max(1e-9),
            p01_us: latency_us(0.01),
            p10_us: latency_us(0.1),
            p25_us: latency_us(0.25),
            p50_us: latency_us(0.5),
            p75_us: latency_us(0.75),
            p90_us: latency_us(0.9),
            p99_us: latency_us(0.99),
            p999_us: latency_us(0.999),
            p9999_us: latency_us(0.9999),
            device_cpu_ns: each(device.cpu_ns),
            kicks: each(guest.kicks),
            kicks_held: each(guest.kicks_held),
            interrupts: each(device.queue.interrupts),
            reads: each(stats.syscalls_read + device.dose_reads),
            reads_per_wakeup: stats.syscalls_read as f64 / stats.wakeups.max(1) as f64,
            waits: each(stats.syscalls_wait),
            writes: each(device.queue.interrupts),
            enters: each(stats.syscalls_enter),
            submits: each(device.queue.submits),
            syscalls: each(syscalls),
            vm_exits: run.vm_exits.map_or(f64::NAN, each),
        }
    }
}

/// Why this kernel cannot do an arm; `None` if it can.
pub(crate) fn no_loop(arm: Arm) -> Option<String> {
    let context = AioContext::builder().monitor(arm.monitor().kind()).reset(arm.reset().into()).build();
    context.err().map(|error| error.to_string())
}

/// Why this kernel, or the bound of the kicks, cannot do an arm; `None` if it can.
pub(super) fn obstacle(arm: Arm, setup: &Setup) -> Option<String> {
    let bound = || bounded_kick(arm, setup).and_then(Result::err).map(|error| error.to_string());
    no_loop(arm).or_else(bound)
}

/// A doorbell without a maximum, which a dose needs.
fn plain(kick: &Kick) -> io::Result<&EventNotifier> {
    match kick {
        Kick::Plain(notifier) => Ok(notifier),
        Kick::Bounded(_) => Err(io::Error::other("one read(2) more is for doorbells without a maximum")),
    }
}

/// The doorbell, if it is to have a maximum.
fn bounded_kick(arm: Arm, setup: &Setup) -> Option<io::Result<BoundedNotifier>> {
    let (maximum, method) = setup.kick_bound?;
    let builder = BoundedNotifier::builder(maximum).reset(arm.reset().into());
    Some(method.map_or(builder.clone(), |method| builder.method(method)).build())
}

fn features(setup: &Setup) -> Features {
    let mut features = Features::INDIRECT_DESC | Features::FLUSH;
    if setup.event_idx {
        features |= Features::EVENT_IDX;
    }
    features
}

fn device(setup: &Setup) -> io::Result<BlockDevice> {
    let config = match &setup.backend {
        BackendKind::File(image) | BackendKind::LinuxAio(image) => image.device_config(),
        BackendKind::Null | BackendKind::Memory(_) | BackendKind::Delay(_) => {
            DeviceConfig::new(setup.capacity_sectors)
        }
    };
    BlockDevice::new(config).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn open(backend: &BackendKind) -> io::Result<Backend> {
    Ok(match backend {
        BackendKind::Null => Backend::Null(Null::default()),
        BackendKind::Memory(sectors) => Backend::memory(*sectors)?,
        BackendKind::Delay(delay) => Backend::Delay(*delay),
        BackendKind::File(image) => Backend::File(Arc::clone(image)),
        BackendKind::LinuxAio(image) => Backend::LinuxAio(Arc::clone(image)),
    })
}
