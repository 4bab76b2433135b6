//! The machine, its guest and its device.
#![expect(unsafe_code, reason = "an address range is given to a guest, and a descriptor to another owner")]

use aio::{AioContext, EventNotifier, Reset};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd};
use std::cell::Cell;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// The guest's memory: one page, from guest address 0 on. The guest, the vCPU thread and the loop
/// share it, so it consists of atomics.
#[repr(align(4096))]
struct Page([AtomicU16; 2048]);
static RAM: Page = Page([const { AtomicU16::new(0) }; 2048]);

/// The addresses that the guest and the device agree on (byte addresses).
const QUESTION: usize = 0x800;
const ANSWER: usize = 0x802;
const QUESTIONS: usize = 0x804;
const INTERRUPTS: usize = 0x806;
const ENTRY: usize = 0x400;

/// The port of the doorbell, and the port with which the guest signals that it is done.
const KICK_PORT: u16 = 0xf0;
const DONE_PORT: u16 = 0xf1;
/// Line 5 of the interrupt controller, which is also KVM's global interrupt number 5.
const LINE: u32 = 5;

fn ram(address: usize) -> &'static AtomicU16 {
    &RAM.0[address / 2]
}

// The guest runs in 16-bit real mode, in which a processor starts: there are no page tables, and
// interrupt n jumps to the address in the n-th pair of words of memory.
std::arch::global_asm!(
    ".pushsection .rodata",
    ".global smallest_vmm_guest, smallest_vmm_guest_end",
    ".code16",
    "smallest_vmm_guest:",
    "   jmp 0f",
    // The interrupt handler: counts the interrupts.
    ".org smallest_vmm_guest + 4",
    "   inc word ptr [{interrupts}]",
    "   mov al, 0x20", // end of interrupt: the controller may send the next one
    "   out 0x20, al",
    "   iret",
    "0: mov sp, 0x1000",
    // The 8259 interrupt controller, which KVM emulates: line n is vector 0x20 + n, and only line 5
    // is unmasked.
    "   mov al, 0x11",
    "   out 0x20, al",
    "   mov al, 0x20",
    "   out 0x21, al",
    "   mov al, 0x04",
    "   out 0x21, al",
    "   mov al, 0x01",
    "   out 0x21, al",
    "   mov al, 0xdf",
    "   out 0x21, al",
    "   mov word ptr [0x25 * 4], {entry} + 4",
    "   mov word ptr [0x25 * 4 + 2], 0",
    "1: inc word ptr [{question}]",
    "   out {kick}, al", // the ioeventfd. The value of al does not matter: no datamatch is set
    // Interrupts stay off until the hlt: sti takes effect only after the next instruction has
    // begun. If they were on, the interrupt could arrive just before the hlt, and the hlt would
    // then sleep forever.
    "2: sti",
    "   hlt",
    "   cli",
    "   mov ax, [{question}]",
    "   inc ax",
    "   cmp ax, [{answer}]",
    "   jne 2b",
    "   dec ax",
    "   cmp ax, [{questions}]",
    "   jne 1b",
    "   out {done}, al", // this port is not an ioeventfd, so KVM_RUN returns
    "smallest_vmm_guest_end:",
    ".code64",
    ".popsection",
    entry = const ENTRY, question = const QUESTION, answer = const ANSWER, questions = const QUESTIONS,
    interrupts = const INTERRUPTS, kick = const KICK_PORT, done = const DONE_PORT,
);

unsafe extern "C" {
    static smallest_vmm_guest: u8;
    static smallest_vmm_guest_end: u8;
}

/// Loads the program and the number of questions to ask.
fn load(questions: u16) {
    let (start, end) = (&raw const smallest_vmm_guest, &raw const smallest_vmm_guest_end);
    // SAFETY: the two labels above mark the start and the end of one read-only object.
    let program = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
    for (at, bytes) in program.chunks(2).enumerate() {
        let word = u16::from_le_bytes([bytes[0], bytes.get(1).copied().unwrap_or(0)]);
        ram(ENTRY + 2 * at).store(word, Ordering::Relaxed);
    }
    ram(QUESTIONS).store(questions, Ordering::Relaxed);
}

/// The vCPU thread: runs the guest. KVM_RUN returns when the guest is done, or when a signal
/// arrives.
fn run(mut vcpu: VcpuFd) -> Result<(), String> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(()),
            Err(error) if error.errno() == libc::EINTR => {}
            other => return Err(format!("the guest did something unexpected: {other:?}")),
        }
    }
}

/// Duplicates the eventfd into the type that kvm-ioctls needs.
fn for_kvm(notifier: &EventNotifier) -> std::io::Result<EventFd> {
    let fd = notifier.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: the duplicate was just created and has no other owner.
    Ok(unsafe { EventFd::from_raw_fd(fd) })
}

/// Builds the machine and its device, and runs the guest until it has asked its questions (0 stands
/// for 65536).
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let questions: u16 = std::env::args().nth(1).map_or(Ok(10_000), |n| n.parse())?;
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    // The machine: interrupt controllers inside KVM (irqfd needs them), one page of memory, and one
    // processor.
    let vm = kvm.create_vm()?;
    vm.create_irq_chip()?;
    load(questions);
    let userspace_addr = RAM.0.as_ptr().addr() as u64;
    let page = kvm_userspace_memory_region { memory_size: 4096, userspace_addr, ..Default::default() };
    // SAFETY: the page is a static that consists of atomics: it outlives the guest, and it may be
    // changed at any time.
    unsafe { vm.set_user_memory_region(page) }?;
    let vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0); // start at ENTRY, not at the end of memory
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_bindings::kvm_regs { rip: ENTRY as u64, rflags: 2, ..Default::default() })?;

    // The device: its doorbell, its interrupt, and its handler.
    let ctx = AioContext::new()?;
    let (kick, irq) = (EventNotifier::new(Reset::Autoreset)?, EventNotifier::new(Reset::Classic)?);
    vm.register_ioevent(&for_kvm(&kick)?, &IoEventAddress::Pio(KICK_PORT.into()), NoDatamatch)?;
    vm.register_irqfd(&for_kvm(&irq)?, LINE)?;
    let kicks = Rc::new(Cell::new(0));
    let seen = Rc::clone(&kicks);
    let doorbell = ctx.add_notifier(&kick, move |_| {
        seen.set(seen.get() + 1);
        let answer = ram(QUESTION).load(Ordering::Acquire).wrapping_add(1);
        // A doorbell may ring spuriously: only raise an interrupt for a new answer.
        if ram(ANSWER).swap(answer, Ordering::Release) != answer {
            irq.notify().expect("an irqfd takes every write");
        }
    })?;

    let stop = ctx.handle();
    let vcpu = std::thread::spawn(move || {
        let result = run(vcpu);
        stop.stop();
        result
    });
    ctx.run()?;
    vcpu.join().expect("the vCPU does not panic")?;
    let interrupts = ram(INTERRUPTS).load(Ordering::Acquire);
    println!("{questions} questions, {} kicks, {interrupts} interrupts", kicks.get());
    println!("KVM_RUN returned once, at the end: neither a kick nor an interrupt makes it return");
    let reads = ctx.stats().syscalls_read;
    println!("the loop read the ioeventfd {reads} times ({}: {})", ctx.monitor().kind, doorbell.method());
    Ok(())
}
