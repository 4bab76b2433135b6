//! The connections between the guest and its device: ioeventfd and irqfd. They can be removed and
//! restored while the guest runs.
#![expect(
    unsafe_code,
    reason = "kvm-ioctls takes eventfds as a type that is made from a raw file descriptor"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use aio::{AioContext, EventNotifier, NotifierRegistration, Reset};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::IoEventAddress;
use vmm_sys_util::eventfd::EventFd;

use super::error::KvmError;
use super::machine::Vm;
use super::program::{self, KICK_MMIO_ADDRESS, KICK_PORT};
use crate::queue::{Interrupt, Irqfd, LevelLine};

/// How the guest kicks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Doorbell {
    /// A 16-bit OUT of the queue number to a port, as for a legacy virtio-pci device.
    #[default]
    Pio,
    /// A 32-bit store of the queue number to an address, as for a virtio-mmio device.
    Mmio,
}

/// How the guest is interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Line {
    /// A message to the local APIC, as with MSI-X: an edge, one write to the irqfd per interrupt.
    #[default]
    Msi,
    /// A level at the I/O APIC, as with INTx. The irqfd raises it, and KVM lowers it when the guest
    /// acknowledges. KVM then signals the resample eventfd (KVM_IRQFD_FLAG_RESAMPLE), and the
    /// device raises the level again if work is left.
    Level,
}

/// Global system interrupts. Numbers for messages start after the 24 pins of the I/O APIC.
const GSI_QUEUE: u32 = 24;
const GSI_CONFIG: u32 = 25;
/// The message for a vector: local APIC ID 0, edge, fixed (Intel SDM 3A, 11.11).
const MSI_ADDRESS: u32 = 0xfee0_0000;

/// The connections. Can be used from any thread. Dropping this destroys the machine.
#[derive(Debug)]
pub struct Wires {
    pub(super) vm: Vm,
    kick: EventNotifier,
    kick_for_kvm: EventFd,
    doorbell: Doorbell,
    queue: u16,
    irq_for_kvm: EventFd,
    line: Option<Level>,
    config: EventNotifier,
    kick_returns: AtomicU64,
    ignore_returned: AtomicBool,
}

/// The state of a level interrupt besides its irqfd.
#[derive(Debug)]
struct Level {
    line: LevelLine,
    resample: EventNotifier,
    resample_for_kvm: EventFd,
}

impl Wires {
    /// Connects queue number `queue`, whose ioeventfd is `kick` and whose irqfd is `irq`.
    pub(super) fn new(
        vm: Vm,
        kick: EventNotifier,
        irq: &Irqfd,
        config: EventNotifier,
        (doorbell, line, queue): (Doorbell, Line, u16),
    ) -> Result<Self, KvmError> {
        let level = match line {
            Line::Msi => None,
            Line::Level => {
                let resample = EventNotifier::new(Reset::Autoreset).map_err(KvmError::Eventfd)?;
                let resample_for_kvm = for_kvm(resample.as_fd())?;
                let line = LevelLine::new(irq.clone());
                Some(Level { line, resample, resample_for_kvm })
            }
        };
        let wires = Self {
            kick_for_kvm: for_kvm(kick.as_fd())?,
            irq_for_kvm: for_kvm(irq.as_fd())?,
            line: level,
            kick_returns: AtomicU64::new(0),
            ignore_returned: AtomicBool::new(false),
            vm,
            kick,
            doorbell,
            queue,
            config,
        };
        let routes = KvmIrqRouting::from_entries(&[
            message(GSI_QUEUE, program::QUEUE_VECTOR),
            message(GSI_CONFIG, program::CONFIG_VECTOR),
            pin(program::LINE),
        ]);
        let routes = routes.map_err(|_| KvmError::Refused {
            what: "route interrupts",
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        wires.vm.fd().set_gsi_routing(&routes).map_err(KvmError::refused("route interrupts"))?;
        let config = for_kvm(wires.config.as_fd())?;
        wires.vm.fd().register_irqfd(&config, GSI_CONFIG).map_err(KvmError::refused("assign an irqfd"))?;
        wires.unmask()?;
        wires.assign_kick()?;
        Ok(wires)
    }

    /// Removes the ioeventfd from KVM. From then on a kick returns from KVM_RUN, and the vCPU's
    /// thread signals the doorbell.
    ///
    /// # Errors
    /// If it was already removed.
    pub fn cut_kick(&self) -> Result<(), KvmError> {
        let (fd, address) = (&self.kick_for_kvm, self.kick_address());
        match self.doorbell {
            Doorbell::Pio => self.vm.fd().unregister_ioevent(fd, &address, self.queue),
            Doorbell::Mmio => self.vm.fd().unregister_ioevent(fd, &address, u32::from(self.queue)),
        }
        .map_err(KvmError::refused("deassign an ioeventfd"))
    }

    /// Assigns the ioeventfd to KVM again, and signals the doorbell once, so that kicks in between
    /// are not lost.
    ///
    /// # Errors
    /// If KVM already has it.
    pub fn mend_kick(&self) -> Result<(), KvmError> {
        self.assign_kick()?;
        self.kick.notify().map_err(KvmError::Eventfd)
    }

    fn assign_kick(&self) -> Result<(), KvmError> {
        let (fd, address) = (&self.kick_for_kvm, self.kick_address());
        match self.doorbell {
            Doorbell::Pio => self.vm.fd().register_ioevent(fd, &address, self.queue),
            Doorbell::Mmio => self.vm.fd().register_ioevent(fd, &address, u32::from(self.queue)),
        }
        .map_err(KvmError::refused("assign an ioeventfd"))
    }

    fn kick_address(&self) -> IoEventAddress {
        match self.doorbell {
            Doorbell::Pio => IoEventAddress::Pio(KICK_PORT.into()),
            Doorbell::Mmio => IoEventAddress::Mmio(KICK_MMIO_ADDRESS),
        }
    }

    /// Removes the irqfd from KVM, as a VMM does while the guest has the vector masked. Signals of
    /// the device stay in the eventfd.
    ///
    /// # Errors
    /// If it was already removed.
    pub fn mask(&self) -> Result<(), KvmError> {
        let gone = self.vm.fd().unregister_irqfd(&self.irq_for_kvm, self.gsi());
        gone.map_err(KvmError::refused("deassign an irqfd"))
    }

    /// Assigns the irqfd to KVM again. KVM injects what was signalled meanwhile: kvm_irqfd_assign()
    /// checks the eventfd.
    ///
    /// # Errors
    /// If KVM already has it.
    pub fn unmask(&self) -> Result<(), KvmError> {
        let Some(level) = &self.line else {
            let taken = self.vm.fd().register_irqfd(&self.irq_for_kvm, GSI_QUEUE);
            return taken.map_err(KvmError::refused("assign an irqfd"));
        };
        let (irq, resample) = (&self.irq_for_kvm, &level.resample_for_kvm);
        let taken = self.vm.fd().register_irqfd_with_resample(irq, resample, program::LINE);
        taken.map_err(KvmError::refused("assign an irqfd"))?;
        // KVM lowered the line when the irqfd was removed, and had already consumed the signal that
        // raised it.
        level.line.resample();
        Ok(())
    }

    fn gsi(&self) -> u32 {
        if self.line.is_some() { program::LINE } else { GSI_QUEUE }
    }

    /// Interrupts the guest with a configuration change. The guest stops at its next check, even
    /// with requests in flight.
    ///
    /// # Errors
    /// Errors of write(2).
    pub fn stop(&self) -> Result<(), KvmError> {
        self.config.notify().map_err(KvmError::Eventfd)
    }

    /// For a [`Line::Level`]: returns the interrupt that the device's queue must use instead of the
    /// bare irqfd ([`Queue::set_interrupt`](crate::queue::Queue::set_interrupt)), and the
    /// handler on the queue's loop that raises the level again. Returns `None` for [`Line::Msi`].
    ///
    /// # Errors
    /// Errors from registering the handler.
    pub fn level(&self, context: &AioContext) -> io::Result<Option<(Interrupt, NotifierRegistration)>> {
        let Some(level) = &self.line else { return Ok(None) };
        let line = level.line.clone();
        let registration = context.add_notifier(&level.resample, move |_| line.resample())?;
        Ok(Some((Interrupt::Level(level.line.clone()), registration)))
    }

    /// Returns the eventfd that KVM signals when a level is acknowledged.
    #[cfg(test)]
    pub(super) fn resample(&self) -> Option<&EventNotifier> {
        self.line.as_ref().map(|level| &level.resample)
    }

    /// Returns the ISR status register, which is cleared by reading it.
    pub(super) fn isr(&self) -> &AtomicU8 {
        static NONE: AtomicU8 = AtomicU8::new(0);
        self.line.as_ref().map_or(&NONE, |level| level.line.isr())
    }

    /// Handles a kick that returned from KVM_RUN. Returns true if it was for this queue.
    pub(super) fn kick_returned(&self, value: u64) -> Result<bool, KvmError> {
        if value != u64::from(self.queue) {
            return Ok(false);
        }
        self.kick_returns.fetch_add(1, Ordering::Relaxed);
        if !self.ignore_returned.load(Ordering::Relaxed) {
            self.kick.notify().map_err(KvmError::Eventfd)?;
        }
        Ok(true)
    }

    /// If set, kicks that return from KVM_RUN are only counted, like in a VMM whose device does not
    /// respond. [`mend_kick`](Self::mend_kick) signals the doorbell for them.
    pub fn ignore_returned_kicks(&self, ignore: bool) {
        self.ignore_returned.store(ignore, Ordering::Relaxed);
    }

    /// Returns the number of kicks that returned from KVM_RUN because KVM did not have the
    /// ioeventfd.
    pub fn kick_returns(&self) -> u64 {
        self.kick_returns.load(Ordering::Relaxed)
    }
}

/// Duplicates an eventfd into the type of kvm-ioctls.
pub(super) fn for_kvm(fd: BorrowedFd<'_>) -> Result<EventFd, KvmError> {
    let fd = fd.try_clone_to_owned().map_err(KvmError::Eventfd)?.into_raw_fd();
    // SAFETY: the duplicate has just been made and has no other owner.
    Ok(unsafe { EventFd::from_raw_fd(fd) })
}

fn message(gsi: u32, vector: u8) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi { address_lo: MSI_ADDRESS, data: vector.into(), ..Default::default() };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}

fn pin(gsi: u32) -> kvm_irq_routing_entry {
    let irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: gsi };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}
