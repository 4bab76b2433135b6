//! The wires between the guest and its device: ioeventfd and irqfd, which can be cut and mended while the guest runs.
#![expect(unsafe_code, reason = "kvm-ioctls takes eventfds as a type that is made from a raw descriptor")]

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
    /// OUT of the queue's number, 16 bits, to a port, as to a legacy virtio-pci device.
    #[default]
    Pio,
    /// A store of the queue's number, 32 bits, to an address, as to a virtio-mmio device.
    Mmio,
}

/// How the guest is interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Line {
    /// By a message to its local APIC, as with MSI-X: an edge, one write of the irqfd for each.
    #[default]
    Msi,
    /// By a level at its I/O APIC, as with INTx: raised by the irqfd, lowered by KVM when the guest acknowledges, which the
    /// device hears of by the resample eventfd (KVM_IRQFD_FLAG_RESAMPLE) and raises it again if something is left.
    Level,
}

/// Global system interrupts: messages have numbers past the I/O APIC's 24 pins.
const GSI_QUEUE: u32 = 24;
const GSI_CONFIG: u32 = 25;
/// The message for a vector: the local APIC with ID 0, edge, fixed (Intel SDM 3A, 11.11).
const MSI_ADDRESS: u32 = 0xfee0_0000;

/// Any thread. Dropped, the wires are gone with the machine.
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

/// What a level has besides its irqfd.
#[derive(Debug)]
struct Level {
    line: LevelLine,
    resample: EventNotifier,
    resample_for_kvm: EventFd,
}

impl Wires {
    /// Lays the wires of queue number `queue`, whose ioeventfd is `kick` and whose irqfd is `irq`.
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
        wires.vm.fd().register_irqfd(&config, GSI_CONFIG).map_err(KvmError::refused("take an irqfd"))?;
        wires.unmask()?;
        wires.assign_kick()?;
        Ok(wires)
    }

    /// Takes the ioeventfd away from KVM. From then on a kick returns from KVM_RUN, and the vCPU's thread rings.
    ///
    /// # Errors
    /// If it was away already.
    pub fn cut_kick(&self) -> Result<(), KvmError> {
        let (fd, address) = (&self.kick_for_kvm, self.kick_address());
        match self.doorbell {
            Doorbell::Pio => self.vm.fd().unregister_ioevent(fd, &address, self.queue),
            Doorbell::Mmio => self.vm.fd().unregister_ioevent(fd, &address, u32::from(self.queue)),
        }
        .map_err(KvmError::refused("give an ioeventfd back"))
    }

    /// Gives the ioeventfd to KVM again, and rings once: whatever was kicked between two owners is looked at.
    ///
    /// # Errors
    /// If KVM has it.
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
        .map_err(KvmError::refused("take an ioeventfd"))
    }

    fn kick_address(&self) -> IoEventAddress {
        match self.doorbell {
            Doorbell::Pio => IoEventAddress::Pio(KICK_PORT.into()),
            Doorbell::Mmio => IoEventAddress::Mmio(KICK_MMIO_ADDRESS),
        }
    }

    /// Takes the irqfd away from KVM, as a VMM does while its guest has the vector masked: what the device signals stays
    /// in the eventfd.
    ///
    /// # Errors
    /// If it was away already.
    pub fn mask(&self) -> Result<(), KvmError> {
        let gone = self.vm.fd().unregister_irqfd(&self.irq_for_kvm, self.gsi());
        gone.map_err(KvmError::refused("give an irqfd back"))
    }

    /// Gives the irqfd to KVM again, which injects what was signalled meanwhile: kvm_irqfd_assign() looks at the eventfd.
    ///
    /// # Errors
    /// If KVM has it.
    pub fn unmask(&self) -> Result<(), KvmError> {
        let Some(level) = &self.line else {
            let taken = self.vm.fd().register_irqfd(&self.irq_for_kvm, GSI_QUEUE);
            return taken.map_err(KvmError::refused("take an irqfd"));
        };
        let (irq, resample) = (&self.irq_for_kvm, &level.resample_for_kvm);
        let taken = self.vm.fd().register_irqfd_with_resample(irq, resample, program::LINE);
        taken.map_err(KvmError::refused("take an irqfd"))?;
        // KVM lowered the line when it gave the irqfd back, and whatever had raised it was in the eventfd no more.
        level.line.resample();
        Ok(())
    }

    fn gsi(&self) -> u32 {
        if self.line.is_some() { program::LINE } else { GSI_QUEUE }
    }

    /// Interrupts the guest for a change of its configuration: it stops at its next look, whatever is in flight.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn stop(&self) -> Result<(), KvmError> {
        self.config.notify().map_err(KvmError::Eventfd)
    }

    /// Of a [`Line::Level`], what the device's queue must signal instead of the bare irqfd
    /// ([`BlkQueue::set_interrupt`](crate::queue::BlkQueue::set_interrupt)), and the handler that raises it again, on the
    /// loop of the queue. `None` for [`Line::Msi`].
    ///
    /// # Errors
    /// What registering the handler says.
    pub fn level(&self, context: &AioContext) -> io::Result<Option<(Interrupt, NotifierRegistration)>> {
        let Some(level) = &self.line else { return Ok(None) };
        let line = level.line.clone();
        let registration = context.add_notifier(&level.resample, move |_| line.resample())?;
        Ok(Some((Interrupt::Level(level.line.clone()), registration)))
    }

    /// The eventfd by which KVM says that a level was acknowledged.
    #[cfg(test)]
    pub(super) fn resample(&self) -> Option<&EventNotifier> {
        self.line.as_ref().map(|level| &level.resample)
    }

    /// The ISR status register, which reading clears.
    pub(super) fn isr(&self) -> &AtomicU8 {
        static NONE: AtomicU8 = AtomicU8::new(0);
        self.line.as_ref().map_or(&NONE, |level| level.line.isr())
    }

    /// A kick that KVM did not take. True if it was meant for this queue.
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

    /// Whether kicks that return from KVM_RUN are counted only, as by a VMM whose device nobody is at home at. It rings when
    /// the kick is [mended](Self::mend_kick).
    pub fn ignore_returned_kicks(&self, ignore: bool) {
        self.ignore_returned.store(ignore, Ordering::Relaxed);
    }

    /// Kicks that returned from KVM_RUN, because KVM did not have the ioeventfd.
    pub fn kick_returns(&self) -> u64 {
        self.kick_returns.load(Ordering::Relaxed)
    }
}

/// The same eventfd, as kvm-ioctls wants it.
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
