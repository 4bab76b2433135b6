//! A virtual machine with one processor that starts in 64-bit mode.
//!
//! There is no firmware and no boot loader. The host writes page tables, segment and interrupt
//! tables into guest RAM, and sets the registers as a kernel would have set them up.
//!
//! ```text
//! 0x1000 page tables (4 GiB, guest-virtual = guest-physical)   0x7000 segments   0x8000 interrupts
//! 0x9000 program                                               0xa000 stack      0xb000 Control
//! 0xc000 the driver's: entries, heads, rings, data
//! ```
#![expect(unsafe_code, reason = "gives ranges of this process's memory to KVM")]

use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::error::KvmError;
use super::program::{self, Entrance};
use super::statistics::Statistics;
use crate::memory::{GuestAddress, GuestMemoryMmap};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORIES: u64 = 0x3000;
const SEGMENTS: u64 = 0x7000;
const INTERRUPTS: u64 = 0x8000;
const PROGRAM: u64 = 0x9000;
const STACK_TOP: u64 = 0xb000;
pub(super) const CONTROL: GuestAddress = GuestAddress(0xb000);
/// Bounds of the driver's part of guest RAM. The addresses of devices are above it.
pub(super) const DRIVER: u64 = 0xc000;
pub(super) const RAM_END: u64 = 0xc000_0000;

/// Gigabytes that the page tables map: RAM, and the APICs and the device below 4 GiB.
const GIGABYTES: u64 = 4;
/// Flags of a page-table entry: present and writable; in a directory also: 2 MiB page (Intel SDM
/// 3A, 4.5).
const PRESENT: u64 = 0x3;
const LARGE_PAGE: u64 = 0x80;

/// Segment descriptors (SDM 3A, 3.4.5): null, 64-bit code, data.
const GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
/// A present interrupt gate (SDM 3A, 6.14.1).
const GATE: u64 = 0x8e00 << 32;

/// CR0: protection, extension type, numeric errors, write protection, paging. CR4: PAE. EFER: long
/// mode enabled and active.
const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
const CR4: u64 = 1 << 5;
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: only the bit that is always set. Interrupts are disabled.
const RFLAGS: u64 = 2;

/// Capabilities that the guest needs.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
];
const API_VERSION: i32 = 12;

/// The machine, and the memory that must stay mapped for it.
#[derive(Debug)]
pub(super) struct Vm {
    // Dropped in this order: the machine before its RAM.
    fd: VmFd,
    memory: Arc<GuestMemoryMmap>,
    pub(super) has_resampling: bool,
}

impl Vm {
    /// Creates a machine with this RAM and with interrupt controllers, but without a processor.
    pub(super) fn new(path: &Path, memory: Arc<GuestMemoryMmap>) -> Result<(Self, Kvm), KvmError> {
        let kvm = open(path)?;
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Lacks { path: path.into(), what: name });
            }
        }
        let fd = create(&kvm).map_err(KvmError::refused("create a virtual machine"))?;
        fd.create_irq_chip().map_err(KvmError::refused("create interrupt controllers"))?;
        let vm = Self { fd, memory, has_resampling: kvm.check_extension(Cap::IrqfdResample) };
        for (slot, region) in (0..).zip(vm.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            // SAFETY: the range stays mapped as long as `vm.memory` exists, which is dropped after
            // the machine. The bytes of a region are only accessed with volatile or atomic
            // operations, so the guest may change them.
            unsafe { vm.fd.set_user_memory_region(region) }
                .map_err(KvmError::refused("accept guest RAM, which must consist of whole pages"))?;
        }
        Ok((vm, kvm))
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }
}

/// On some kernels KVM_CREATE_VM starts a thread, and fails with EINTR if the calling thread has a
/// signal pending or io_uring work to do (kthread_create(); seen with Linux 6.1). Retry in that
/// case.
fn create(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            made => return made,
        }
    }
}

fn open(path: &Path) -> Result<Kvm, KvmError> {
    let failed = |source| KvmError::Open { path: path.into(), source };
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
    let kvm = Kvm::new_with_path(name).map_err(|error| failed(error.into()))?;
    if kvm.get_api_version() != API_VERSION {
        return Err(KvmError::Lacks { path: path.into(), what: "version 12 of the KVM interface" });
    }
    Ok(kvm)
}

/// The processor. Its [`VcpuFd::run`] should always be called on the same thread.
#[derive(Debug)]
pub(super) struct Processor {
    pub(super) vcpu: VcpuFd,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    pub(super) statistics: Option<Statistics>,
}

impl Processor {
    /// Writes the tables and the program into RAM, and creates the processor of `vm`.
    pub(super) fn new(kvm: &Kvm, vm: &Vm) -> Result<Self, KvmError> {
        write_tables(vm.memory())?;
        vm.memory().write_slice(program::code(), GuestAddress(PROGRAM))?;
        let vcpu = vm.fd().create_vcpu(0).map_err(KvmError::refused("create a processor"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.map_err(KvmError::refused("report the features of its processor"))?;
        vcpu.set_cpuid2(&cpuid).map_err(KvmError::refused("set the features of the guest's processor"))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::refused("read the processor's registers"))?;
        let lapic = vcpu.get_lapic().map_err(KvmError::refused("read the local APIC"))?;
        let statistics = Statistics::of(&vcpu);
        Ok(Self { vcpu, sregs: long_mode(sregs), lapic, statistics })
    }

    /// Resets the processor and sets it to an entry point of the program. `argument` is passed in
    /// rdi.
    pub(super) fn reset(&mut self, entrance: Entrance, argument: u64) -> Result<(), KvmError> {
        let refused = || KvmError::refused("reset the processor");
        self.vcpu.set_sregs(&self.sregs).map_err(refused())?;
        self.vcpu.set_lapic(&self.lapic).map_err(refused())?;
        let regs = kvm_regs {
            rip: PROGRAM + entrance.offset(),
            rsp: STACK_TOP,
            rdi: argument,
            rflags: RFLAGS,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).map_err(refused())
    }
}

fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: DATA_SELECTOR,
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: CODE_SELECTOR, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = SEGMENTS;
    sregs.gdt.limit = size_of_val(&GDT) as u16 - 1;
    sregs.idt.base = INTERRUPTS;
    sregs.idt.limit = 256 * 16 - 1;
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4, EFER);
    sregs
}

fn write_tables(memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    let write = |at: u64, value: u64| memory.write_obj(value.to_le(), GuestAddress(at));
    write(PML4, PDPT | PRESENT)?;
    for gigabyte in 0..GIGABYTES {
        let directory = DIRECTORIES + gigabyte * 0x1000;
        write(PDPT + gigabyte * 8, directory | PRESENT)?;
        for page in 0..512 {
            write(directory + page * 8, gigabyte << 30 | page << 21 | LARGE_PAGE | PRESENT)?;
        }
    }
    for (at, descriptor) in (SEGMENTS..).step_by(8).zip(GDT) {
        write(at, descriptor)?;
    }
    let handlers = [
        (program::QUEUE_VECTOR, Entrance::QueueInterrupt),
        (program::CONFIG_VECTOR, Entrance::ConfigInterrupt),
        (program::SPURIOUS_VECTOR, Entrance::SpuriousInterrupt),
    ];
    for (vector, handler) in handlers {
        let at = INTERRUPTS + u64::from(vector) * 16;
        let address = PROGRAM + handler.offset();
        let selector = u64::from(CODE_SELECTOR) << 16;
        write(at, address & 0xffff | selector | GATE | (address & 0xffff_0000) << 32)?;
        write(at + 8, address >> 32)?;
    }
    Ok(())
}

const _: () = assert!(DIRECTORIES + GIGABYTES * 0x1000 <= SEGMENTS && GIGABYTES << 30 > RAM_END);
