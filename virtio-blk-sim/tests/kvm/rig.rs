//! Shared by the tests: a device on a separate thread, a guest, and their counters.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aio::{AioContext, IoThread, Method, MonitorKind, NotifierRegistration, Reset};
use virtio_blk_sim::blk::Attached;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::guest::SimTransport;
use virtio_blk_sim::guest::kvm::{Execution, KvmGuest, KvmOptions, KvmShape, Wires};
use virtio_blk_sim::guest::{GuestError, GuestReport, Pattern, Stop, Workload};
use virtio_blk_sim::queue::{QueueStats, Stopped};

pub(crate) use crate::arms::{Arm, arms};

/// Sectors of the disks: 4 MiB.
pub(crate) const SECTORS: u64 = 8192;
pub(crate) const BLOCK: u32 = 4096;
/// A run takes seconds, even if KVM emulates the guest. One that takes this long has lost an event.
const LONG: Duration = Duration::from_secs(300);

/// Returns true if KVM can be used; prints the reason if not.
pub(crate) fn kvm() -> bool {
    match KvmGuest::probe(Path::new("/dev/kvm")) {
        Ok(Execution::Interpreted) => eprintln!("note: KVM emulates the guest in software"),
        Ok(_) => {}
        Err(why) => {
            eprintln!("skipped: {why}");
            return false;
        }
    }
    true
}

/// One arm that reads its eventfds, and one that does not.
pub(crate) const TWO_ARMS: [Arm; 2] = [
    (MonitorKind::Epoll, Reset::Classic),
    // Works everywhere except in emulated kernels, which do not have KVM either.
    (MonitorKind::Epoll, Reset::AutoresetBy(Method::Edge)),
];

/// Half reads and half writes, verified.
pub(crate) fn mix(iodepth: u16, requests: u64) -> Workload {
    Workload { pattern: Pattern::RandRw, iodepth, stop: Stop::Requests(requests), verify: true, seed: 11 }
}

pub(crate) fn shape(iodepth: u16) -> KvmShape {
    KvmShape { features: Features::EVENT_IDX, slots: iodepth, block_bytes: BLOCK }
}

pub(crate) fn memory() -> Backend {
    Backend::memory(SECTORS).unwrap()
}

/// A guest and its device, attached to a loop.
pub(crate) fn attached(arm: Arm, shape: KvmShape, options: &KvmOptions, backend: Backend) -> (Rig, Loop) {
    let (rig, device) = (Rig::new(shape, options, arm.1), Loop::new(arm));
    device.attach(&rig, backend, None);
    (rig, device)
}

thread_local! {
    /// The queue of this device thread.
    static DEVICE: RefCell<Option<Device>> = const { RefCell::new(None) };
}

struct Device {
    queue: Attached,
    /// The handler of a level interrupt.
    _level: Option<NotifierRegistration>,
}

/// An event loop to which the device's queue can be attached.
pub(crate) struct Loop(IoThread);

impl Loop {
    pub(crate) fn new((kind, reset): Arm) -> Self {
        let builder = AioContext::builder().monitor(kind).reset(reset);
        Self(IoThread::spawn("device", builder).unwrap())
    }

    /// Attaches the queue, at the start or where it was stopped.
    pub(crate) fn attach(&self, rig: &Rig, backend: Backend, stopped: Option<Stopped>) {
        let (transport, wires) = (Arc::clone(&rig.transport), Arc::clone(&rig.wires));
        let attach = move |context: &AioContext| {
            let queue = match stopped {
                None => transport.attach(context, backend).unwrap(),
                Some(stopped) => transport.attach_again(context, backend, stopped).unwrap(),
            };
            let level = wires.level(context).unwrap();
            let level = level.map(|(interrupt, resample)| {
                queue.set_interrupt(interrupt);
                resample
            });
            DEVICE.set(Some(Device { queue, _level: level }));
        };
        self.0.run(attach).unwrap();
    }

    /// Stops the queue after all requests in flight have completed.
    pub(crate) fn stop(&self) -> Stopped {
        let stop = |context: &AioContext| {
            let device = DEVICE.take().expect("a queue is attached");
            device.queue.stop(context).unwrap()
        };
        self.0.run(stop).unwrap()
    }

    /// Drops the queue: requests in flight never complete.
    pub(crate) fn drop_queue(&self) {
        self.0.run(|_| drop(DEVICE.take())).unwrap();
    }

    pub(crate) fn in_flight(&self) -> u16 {
        self.with_queue(|queue| queue.in_flight())
    }

    pub(crate) fn queue_stats(&self) -> QueueStats {
        self.with_queue(|queue| queue.stats())
    }

    pub(crate) fn with_queue<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&Attached) -> R + Send + 'static,
    ) -> R {
        let ask = move |_: &AioContext| {
            DEVICE.with_borrow(|device| ask(&device.as_ref().expect("a queue is attached").queue))
        };
        self.0.run(ask).unwrap()
    }

    pub(crate) fn stats(&self) -> aio::Stats {
        self.0.run(|context| context.stats()).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // On the home thread, and before the context is dropped.
        let _ = self.0.run(|_| drop(DEVICE.take()));
    }
}

/// A guest and its transport. The guest is moved out while it runs.
pub(crate) struct Rig {
    pub(crate) transport: Arc<SimTransport>,
    pub(crate) wires: Arc<Wires>,
    guest: Option<KvmGuest>,
}

/// A guest running on a thread.
pub(crate) struct Running(JoinHandle<()>, std::sync::mpsc::Receiver<(KvmGuest, Outcome)>);

pub(crate) type Outcome = Result<GuestReport, GuestError>;

impl Rig {
    pub(crate) fn new(shape: KvmShape, options: &KvmOptions, reset: Reset) -> Self {
        let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
        let transport = Arc::new(shape.transport(device, reset).unwrap());
        let guest = KvmGuest::new(&transport, shape, options).unwrap();
        Self { transport, wires: Arc::clone(guest.wires()), guest: Some(guest) }
    }

    pub(crate) fn guest(&mut self) -> &mut KvmGuest {
        self.guest.as_mut().expect("the guest is not running")
    }

    /// Runs the guest on a separate thread.
    pub(crate) fn start(&mut self, workload: Workload) -> Running {
        let mut guest = self.guest.take().expect("the guest is not running");
        let (done, outcome) = channel();
        let thread = std::thread::spawn(move || {
            let outcome = guest.run(&workload);
            let _ = done.send((guest, outcome));
        });
        Running(thread, outcome)
    }

    /// Waits until the guest is done.
    pub(crate) fn finish(&mut self, running: Running) -> Outcome {
        let (guest, outcome) = match running.1.recv_timeout(LONG) {
            Ok(back) => back,
            Err(RecvTimeoutError::Timeout) => panic!("the guest hangs: a kick or an interrupt was lost"),
            Err(RecvTimeoutError::Disconnected) => panic!("the guest's thread panicked"),
        };
        running.0.join().unwrap();
        self.guest = Some(guest);
        outcome
    }

    pub(crate) fn run(&mut self, workload: Workload) -> GuestReport {
        let running = self.start(workload);
        self.finish(running).unwrap()
    }

    /// Returns the counts of ioeventfd and irqfd: the signals since they were last read.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let ports = self.transport.guest().unwrap();
        (count(&ports.kick.fd().unwrap()), count(&ports.irq))
    }
}

impl Running {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

/// Returns the count of an eventfd from its fdinfo (proc(5)).
fn count(fd: &impl AsFd) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}
