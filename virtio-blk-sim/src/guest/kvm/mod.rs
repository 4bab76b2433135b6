//! A real vCPU: a virtual machine whose guest drives the disk through KVM.
//!
//! ```text
//! guest (program.rs)                   KVM                                 the device's loop
//! avail ring; OUT or store ────► ioeventfd, signalled in the kernel ────► doorbell
//! sti; hlt; reap used ring ◄──── interrupt controllers ◄──── irqfd ◄───── one write(2) per batch
//! ```
//!
//! Neither a kick nor an interrupt makes KVM_RUN return. User space does not read the irqfd: KVM
//! resets it when it injects the interrupt. Whether the ioeventfd is read is decided by the
//! device's loop; this is what the project measures.
//!
//! The guest can only drive a virtio-blk queue. The host makes batches of requests from a
//! [`Workload`] and writes them into guest RAM before the guest runs. When all requests of a batch
//! have completed, the guest tells the host, which checks each one: that it completed once, its
//! status and its data.
//!
//! # Execution by hardware or by software
//!
//! KVM can run without hardware support, for example in a virtual machine without nested
//! virtualisation, by emulating each instruction of the guest. Everything here works then and all
//! counts are right, but times only show how fast KVM emulates. [`KvmGuest::execution`] returns
//! which of the two it is.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use aio::{AioContext, IoThread, Reset};
//! use virtio_blk_sim::blk::backend::Backend;
//! use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
//! use virtio_blk_sim::guest::kvm::{KvmGuest, KvmOptions, KvmShape};
//! use virtio_blk_sim::guest::{Pattern, Stop, Workload};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! if let Err(why) = KvmGuest::probe("/dev/kvm".as_ref()) {
//!     eprintln!("skipped: {why}");
//!     return Ok(());
//! }
//! const SECTORS: u64 = 2048;
//! let shape = KvmShape { features: Features::EVENT_IDX, slots: 8, block_bytes: 4096 };
//! let device = BlockDevice::new(DeviceConfig::new(SECTORS))?;
//! let transport = Arc::new(shape.transport(device, Reset::Autoreset)?);
//! let mut guest = KvmGuest::new(&transport, shape, &KvmOptions::default())?; // sets up the rings
//! let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
//!     transport.attach(context, Backend::memory(SECTORS)?)
//! })?;
//! let stop = Stop::Requests(500);
//! let workload = Workload { pattern: Pattern::RandRw, iodepth: 8, stop, verify: true, seed: 1 };
//! let report = guest.run(&workload)?;
//! println!("{} requests, {} kicks", report.requests, report.kicks);
//! thread.stop()?;
//! # Ok(())
//! # }
//! ```

mod batch;
mod error;
mod machine;
mod program;
mod shape;
mod statistics;
#[cfg(test)]
mod tests;
mod wires;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use vm_memory::Bytes;

use super::driver::DriverError;
use super::thread::{GuestError, GuestReport, blocks_and_depth};
use super::workload::{Stop, Workload};
use crate::guest::sim::{GuestPorts, SimTransport};
use crate::memory::GuestRam;
use crate::queue::Kick;
use crate::virtqueue::DriverQueue;
use batch::{Batches, Table, Ticks};
pub use error::KvmError;
use machine::{CONTROL, Processor, Vm};
use program::{COUNTED, Control, DONE_PORT, Entrance, ISR_PORT, KICK_MMIO_ADDRESS, KICK_PORT, NONSENSE_PORT};
pub use shape::KvmShape;
pub use statistics::VcpuStats;
pub use wires::{Doorbell, Line, Wires};

/// Options of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmOptions {
    /// The KVM device file.
    pub device: PathBuf,
    /// How the guest kicks.
    pub doorbell: Doorbell,
    /// How the guest is interrupted.
    pub line: Line,
    /// The queue number: the value that the guest writes to kick, and the datamatch of the
    /// ioeventfd.
    pub queue: u16,
}

impl Default for KvmOptions {
    /// `/dev/kvm`, PIO, MSI, queue 0.
    fn default() -> Self {
        let (doorbell, line) = (Doorbell::default(), Line::default());
        Self { device: "/dev/kvm".into(), doorbell, line, queue: 0 }
    }
}

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// By the processor.
    Hardware,
    /// By KVM, one by one in software. Counts are right, but times are those of the emulation.
    Interpreted,
    /// Unknown: this kernel does not report it (needs Linux 5.14).
    Unknown,
}

/// A virtual machine with a driver in it. Belongs to one thread at a time, preferably always the
/// same.
#[derive(Debug)]
pub struct KvmGuest {
    // Dropped in this order: the processor before the machine.
    processor: Processor,
    wires: Arc<Wires>,
    ports: GuestPorts,
    shape: KvmShape,
    options: KvmOptions,
    table: Table,
    execution: Execution,
    ticks: Ticks,
    returns: u64,
}

impl KvmGuest {
    /// Checks whether the KVM at `device` can run a guest, and how it executes instructions:
    /// creates a small guest that runs a counting loop. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// The reason why not.
    pub fn probe(device: &Path) -> Result<Execution, KvmError> {
        let ram = GuestRam::new(machine::DRIVER as usize).map_err(KvmError::Ram)?;
        let (vm, kvm) = Vm::new(device, Arc::clone(ram.memory()))?;
        let mut processor = Processor::new(&kvm, &vm)?;
        count(&mut processor)
    }

    /// Creates a machine with the RAM of a transport made by `shape`, sets up the rings, and
    /// connects the eventfds. Must be called before the device is attached.
    ///
    /// # Errors
    /// [`KvmError`] reports what is missing.
    pub fn new(transport: &SimTransport, shape: KvmShape, options: &KvmOptions) -> Result<Self, KvmError> {
        let ports = transport.guest().map_err(KvmError::Ram)?;
        shape.check(&ports)?;
        let (vm, kvm) = Vm::new(&options.device, Arc::clone(&ports.memory))?;
        if options.line == Line::Level && !vm.has_resampling {
            let what = "KVM_CAP_IRQFD_RESAMPLE";
            return Err(KvmError::Lacks { path: options.device.clone(), what });
        }
        let mut processor = Processor::new(&kvm, &vm)?;
        let execution = count(&mut processor)?;
        let khz =
            processor.vcpu.get_tsc_khz().map_err(KvmError::refused("report the frequency of its clock"))?;
        let how = (options.doorbell, options.line, options.queue);
        let config = transport.config().clone();
        let Kick::Plain(kick) = ports.kick.clone() else { return Err(KvmError::BoundedKick) };
        let wires = Arc::new(Wires::new(vm, kick, &ports.irq, config, how)?);
        let table = shape.table(&ports.memory);
        let options = options.clone();
        let ticks = Ticks { khz };
        let mut guest = Self { processor, wires, ports, shape, options, table, execution, ticks, returns: 0 };
        guest.reset()?;
        Ok(guest)
    }

    /// Resets the guest and its half of the queue: the rings are empty, and the driver starts
    /// without any request in flight. The device must be detached first, and attached again
    /// afterwards.
    ///
    /// # Errors
    /// If guest RAM cannot be accessed.
    pub fn reset(&mut self) -> Result<(), KvmError> {
        let empty = DriverQueue::new(Arc::clone(&self.ports.memory), self.ports.queue);
        drop(empty.map_err(|_| KvmError::Shape("queue"))?);
        let mut control = self.shape.lay_out(&self.ports)?;
        if self.options.doorbell == Doorbell::Mmio {
            control.flags |= program::KICK_MMIO;
        }
        if self.options.line == Line::Level {
            control.flags |= program::READ_ISR;
        }
        control.kick_value = self.options.queue.into();
        control.kick_address = match self.options.doorbell {
            Doorbell::Pio => KICK_PORT.into(),
            Doorbell::Mmio => KICK_MMIO_ADDRESS,
        };
        self.ports.memory.write_obj(control, CONTROL)?;
        self.wires.isr().store(0, Ordering::Release);
        self.ports.reset();
        self.processor.reset(Entrance::Start, CONTROL.0)
    }

    /// Returns the connections to the device. They may be used from other threads.
    pub fn wires(&self) -> &Arc<Wires> {
        &self.wires
    }

    /// Returns how the guest's instructions are executed.
    pub fn execution(&self) -> Execution {
        self.execution
    }

    /// Returns KVM's counters of the vCPU; `None` if this kernel has none.
    pub fn stats(&self) -> Option<VcpuStats> {
        self.processor.statistics.as_ref()?.read().ok()
    }

    /// Returns how often KVM_RUN returned because of an action of the guest.
    pub fn returns(&self) -> u64 {
        self.returns
    }

    /// Sets the number of kicks per publication, independent of what the device asks for, like a
    /// driver that ignores notification suppression. With 0 the driver kicks when the device asks
    /// for it.
    ///
    /// # Errors
    /// If guest RAM cannot be accessed.
    /// If guest RAM cannot be reached.
    pub fn set_burst(&mut self, kicks: u32) -> Result<(), KvmError> {
        self.control(|control| control.burst = kicks)
    }

    /// Sets how long the guest keeps its interrupts masked before each sleep, in iterations of an
    /// empty loop.
    ///
    /// # Errors
    /// If guest RAM cannot be accessed.
    pub fn set_masked_turns(&mut self, turns: u32) -> Result<(), KvmError> {
        self.control(|control| control.masked_turns = turns)
    }

    /// Runs a workload on the calling thread, like [`run`](super::run). Blocks until all submitted
    /// requests have completed.
    ///
    /// The interrupts in the report are those that the guest took. Times are the guest's; they do
    /// not include the time that the host takes between batches to prepare and check.
    ///
    /// # Errors
    /// The first error. Requests may still be in flight then, and the guest needs a
    /// [`reset`](Self::reset).
    pub fn run(&mut self, workload: &Workload) -> Result<GuestReport, GuestError> {
        let (capacity, block_bytes) = (self.ports.capacity_sectors, self.shape.block_bytes);
        let (blocks, depth) = blocks_and_depth(capacity, block_bytes, workload.iodepth, self.shape.slots)?;
        let table = self.table.clone();
        let mut batches = Batches::new(&table, workload, blocks);
        let mut elapsed = Duration::ZERO;
        let before = self.read_control()?;
        before.idle()?;
        loop {
            let (most, budget) = match workload.stop {
                Stop::Requests(total) => (total.saturating_sub(batches.requests), u64::MAX),
                Stop::After(time) => (u64::MAX, self.ticks.in_time(time.saturating_sub(elapsed))),
            };
            let count = batches.prepare(if budget == 0 { 0 } else { most })?;
            if count == 0 {
                break;
            }
            self.control(|control| {
                (control.count, control.depth, control.budget) = (count, depth.into(), budget);
                (control.submitted, control.completed) = (0, 0);
            })?;
            let begin = Instant::now();
            self.enter()?;
            elapsed += begin.elapsed();
            if self.ports.needs_reset() {
                return Err(DriverError::NeedsReset.into());
            }
            let after = self.read_control()?;
            after.idle()?;
            batches.check(after.submitted, self.ticks)?;
            if after.submitted < count {
                break;
            }
        }
        let after = self.read_control()?;
        Ok(GuestReport {
            requests: batches.requests,
            kicks: after.kicks.wrapping_sub(before.kicks),
            kicks_held: 0,
            interrupts: after.interrupts.wrapping_sub(before.interrupts),
            elapsed,
            latency_ns: batches.latency_ns,
        })
    }

    /// Runs the guest until it reports that the batch is done.
    fn enter(&mut self) -> Result<(), KvmError> {
        loop {
            let exit = self.processor.vcpu.run();
            // KVM_RUN was interrupted by a signal or by kernel work for this thread, not by the
            // guest.
            if let Err(error) = &exit
                && error.errno() == libc::EINTR
            {
                continue;
            }
            self.returns += 1;
            let unexpected = match exit {
                Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(()),
                Ok(VcpuExit::IoOut(NONSENSE_PORT, _)) => return Err(KvmError::NotInFlight),
                Ok(VcpuExit::IoOut(KICK_PORT, value)) if self.wires.kick_returned(number(value))? => continue,
                Ok(VcpuExit::MmioWrite(KICK_MMIO_ADDRESS, value))
                    if self.wires.kick_returned(number(value))? =>
                {
                    continue;
                }
                Ok(VcpuExit::IoIn(ISR_PORT, value)) => {
                    value.fill(0);
                    if let Some(byte) = value.first_mut() {
                        *byte = self.wires.isr().swap(0, Ordering::AcqRel);
                    }
                    continue;
                }
                Ok(exit) => format!("{exit:?}"),
                Err(error) => error.to_string(),
            };
            return Err(KvmError::Exit(unexpected));
        }
    }

    fn read_control(&self) -> Result<Control, KvmError> {
        Ok(self.ports.memory.read_obj(CONTROL)?)
    }

    /// Changes the guest's control block. The guest must not be running.
    fn control(&mut self, change: impl FnOnce(&mut Control)) -> Result<(), KvmError> {
        let mut control = self.read_control()?;
        change(&mut control);
        Ok(self.ports.memory.write_obj(control, CONTROL)?)
    }
}

impl Control {
    /// Checks that no request is in flight and that the guest was not stopped.
    fn idle(&self) -> Result<(), KvmError> {
        let in_flight = self.submitted.wrapping_sub(self.completed);
        if in_flight == 0 && self.stop == 0 { Ok(()) } else { Err(KvmError::Stopped { in_flight }) }
    }
}

/// Returns the value of an access of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Runs a fixed number of guest instructions, and checks KVM's counters to find out who executed
/// them.
fn count(processor: &mut Processor) -> Result<Execution, KvmError> {
    let emulated = |processor: &Processor| Some(processor.statistics.as_ref()?.read().ok()?.insn_emulation);
    processor.reset(Entrance::Count, 0)?;
    let before = emulated(processor);
    loop {
        match processor.vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => break,
            Ok(exit) => return Err(KvmError::Exit(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(KvmError::Exit(error.to_string())),
        }
    }
    Ok(match before.zip(emulated(processor)) {
        Some((before, after)) if after.wrapping_sub(before) >= u64::from(COUNTED) => Execution::Interpreted,
        Some(_) => Execution::Hardware,
        None => Execution::Unknown,
    })
}
