//! A rig: one arm set up and ready, a virtio-blk device with its event loop on one pinned thread,
//! its guest on another.

mod device;
mod dose;
mod guest;
pub(crate) mod idle;
mod sample;
mod setup;

pub(crate) use dose::Dose;
pub(crate) use guest::remark;
pub(crate) use setup::{BackendKind, DoorbellKind, GuestKind, Setup, features};

use crate::arm::Arm;
use crate::error::{Error, reason};
use crate::machine::{NoOutcome, Placement, Worker, let_others_finish};
use aio::{AioContext, BoundedNotifier, BusyPolling, EventNotifier, Handle};
use device::{Device, DeviceCounts, Queue};
use dose::Dosed;
use guest::{Guest, GuestRun};
use sample::RequestSample;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use virtio_blk_sim::blk::backend::{Backend, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::guest::{DriverError, GuestError, Stop, Workload};
use virtio_blk_sim::queue::Kick;

/// How much longer than requested a sample may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Sets up an arm that has no [`obstacle`].
    pub(crate) fn start(arm: Arm, placement: Placement, setup: &Setup) -> Result<Self, Error> {
        let failed = |error: &io::Error| Error::failed(&format!("cannot set {arm} up"), error);
        let bound = bounded_kick(arm, setup).transpose().map_err(|error| failed(&error))?;
        let device = device(setup).map_err(|error| failed(&error))?;
        let (transport, guest) = Guest::make(device, setup.features, arm.reset().into(), bound, setup)
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

    /// Takes one sample: the guest works for `runtime`, or for the given number of requests. The
    /// loop turns from before the first kick until after the last completion, so it counts exactly
    /// the cost of the requests.
    pub(crate) fn sample(&mut self, runtime: Duration) -> Result<RequestSample, Error> {
        let patience = runtime + PATIENCE;
        self.device.start(());
        let stop = self.requests.map_or(Stop::After(runtime), Stop::Requests);
        self.guest.start(Workload { stop, ..self.workload });
        // A guest whose device has failed waits for its interrupt forever.
        let mut device = None;
        let guest = self.guest.finish_unless(runtime, patience, || {
            device = self.device.try_finish();
            device.is_some()
        });
        self.stop.stop();
        let device = device.unwrap_or_else(|| self.device.finish(patience));
        // The next run uses other blocks.
        self.workload.seed = self.workload.seed.wrapping_add(1);
        let lost = |who: &str, why: NoOutcome| {
            let what = match why {
                NoOutcome::TimedOut => "hangs: a completion, a kick or an interrupt was lost",
                NoOutcome::Ended => "ended unexpectedly",
            };
            Error::Failed(format!("{}: the {who} {what}", self.arm))
        };
        // The device first: its failure is why a guest hangs. But a guest that hangs may be why the
        // device does not end.
        let device = match device {
            Ok(Ok(counts)) => Ok(counts),
            Ok(Err(error)) => {
                return Err(Error::failed(&format!("{}: the event loop failed", self.arm), &error));
            }
            Err(NoOutcome::Ended) => return Err(lost("device", NoOutcome::Ended)),
            Err(NoOutcome::TimedOut) => Err(lost("device", NoOutcome::TimedOut)),
        };
        let guest = guest.map_err(|why| lost("guest", why))?;
        let guest = guest.map_err(|error| Error::Failed(format!("{}: {}", self.arm, reason(&error))))?;
        Ok(RequestSample::of(&guest, &device?))
    }
}

/// Why this kernel does not support an arm; `None` if it does.
pub(crate) fn no_loop(arm: Arm) -> Option<String> {
    let context = AioContext::builder().monitor(arm.monitor().kind()).reset(arm.reset().into()).build();
    context.err().map(|error| reason(&error))
}

/// Why the kernel or the maximum of the doorbell does not allow an arm; `None` if they do.
pub(crate) fn obstacle(arm: Arm, setup: &Setup) -> Option<String> {
    let bound = || bounded_kick(arm, setup).and_then(Result::err).map(|error| reason(&error));
    no_loop(arm).or_else(bound)
}

/// The doorbell without a maximum, which a dose requires.
fn plain(kick: &Kick) -> io::Result<&EventNotifier> {
    match kick {
        Kick::Plain(notifier) => Ok(notifier),
        Kick::Bounded(_) | Kick::Polled => {
            Err(io::Error::other("one read(2) more is for doorbells without a maximum"))
        }
    }
}

/// The doorbell with a maximum, if there is one.
fn bounded_kick(arm: Arm, setup: &Setup) -> Option<io::Result<BoundedNotifier>> {
    let (maximum, method) = setup.kick_bound?;
    let builder = BoundedNotifier::builder(maximum).reset(arm.reset().into());
    Some(method.map_or(builder.clone(), |method| builder.method(method)).build())
}

fn device(setup: &Setup) -> io::Result<BlockDevice> {
    let config = match setup.backend.image() {
        Some(image) => image.device_config(),
        None => DeviceConfig::new(setup.capacity_sectors),
    };
    BlockDevice::new(config).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn open(backend: &BackendKind) -> io::Result<Backend> {
    Ok(match backend {
        BackendKind::Null => Backend::Null(Null::default()),
        BackendKind::Memory(sectors) => Backend::memory(*sectors)?,
        BackendKind::Delay(delay) => Backend::Delay(*delay),
        BackendKind::File(image) => Backend::File(Arc::clone(image)),
        BackendKind::IoUring(image) => Backend::IoUring(Arc::clone(image)),
        BackendKind::Threads(image) => Backend::Threads(Arc::clone(image)),
        BackendKind::LinuxAio(image) => Backend::LinuxAio(Arc::clone(image)),
    })
}
