//! The guest program: a virtio-blk driver for one queue, in 64-bit mode, without an operating
//! system.
//!
//! The program is assembled as part of this crate, and [`code`] returns the resulting bytes, so
//! source and bytes cannot differ. The compiler passes the field offsets of [`Control`] and
//! [`Entry`] to the assembler. The code is position independent.
//!
//! ```text
//! start ─► batch: fill ─► publish ─► kick? ─► in flight? ── no ──► out DONE (host: next batch)
//!                 ▲                               │ yes                     │
//!                 └── interrupt handler: reap ◄───┴─ sti; hlt     batch ◄───┘
//! ```
//!
//! Interrupts are enabled only at the `hlt`. So an interrupt arrives at a known place in the
//! driver, and the handler may use all registers.
#![expect(unsafe_code, reason = "the program is an object that the assembler made, found by its labels")]

use std::arch::global_asm;
use std::mem::offset_of;

use vm_memory::ByteValued;

/// Shared by the program and the host. The host writes the first part before a batch, the program
/// writes the second part.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Control {
    /// Guest addresses of the tables and rings.
    pub(super) entries: u64,
    pub(super) desc_table: u64,
    pub(super) avail_ring: u64,
    pub(super) used_ring: u64,
    /// Guest address of a table by head: the index of the entry that uses it, or [`NOBODY`].
    pub(super) entry_of_head: u64,
    /// Guest address of the end of a stack of free heads. At the start it holds all heads.
    pub(super) free_end: u64,
    /// Where to kick: a port or an address.
    pub(super) kick_address: u64,
    /// The value to write there.
    pub(super) kick_value: u32,
    /// Size of the queue minus one.
    pub(super) queue_mask: u32,
    /// [`EVENT_IDX`], [`KICK_MMIO`], [`READ_ISR`].
    pub(super) flags: u32,
    /// Maximum number of requests in flight.
    pub(super) depth: u32,
    /// Kicks per publication, independent of what the device asks for. 0: one kick, if the device
    /// asks for it.
    pub(super) burst: u32,
    /// How long to keep interrupts masked before each sleep, in iterations of an empty loop.
    pub(super) masked_turns: u32,
    /// Entries in this batch.
    pub(super) count: u32,
    /// Stops the program at its next check, even with requests in flight. The program also sets it
    /// itself, on a configuration change interrupt.
    pub(super) stop: u32,
    /// Ticks after which no more requests are submitted.
    pub(super) budget: u64,

    /// Ticks at the start of the batch.
    pub(super) began: u64,
    /// Entries of this batch that were made available, and that completed.
    pub(super) submitted: u32,
    pub(super) completed: u32,
    /// These are never reset between batches.
    pub(super) kicks: u64,
    pub(super) interrupts: u64,
    pub(super) halts: u64,
}

/// One request, prepared by the host. The device reads the first 64 bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(128))]
pub(super) struct Entry {
    /// struct virtio_blk_req: type, reserved, sector.
    pub(super) header: [u64; 2],
    /// The indirect table: header, data, status.
    pub(super) table: [[u64; 2]; 3],
    /// Written by the device; [`NO_STATUS`](crate::guest::driver::NO_STATUS) before.
    pub(super) status: u8,
    pub(super) _reserved: [u8; 3],
    /// The used length.
    pub(super) written: u32,
    /// How often the request completed.
    pub(super) completions: u64,
    /// In ticks.
    pub(super) submitted_at: u64,
    pub(super) completed_at: u64,
    pub(super) _pad: [u64; 4],
}

// SAFETY: integers without padding (the sizes are asserted below), so every bit pattern is valid.
unsafe impl ByteValued for Control {}
// SAFETY: as for `Control`.
unsafe impl ByteValued for Entry {}

const _: () = assert!(size_of::<Control>() == 7 * 8 + 8 * 4 + 2 * 8 + 2 * 4 + 3 * 8);
const _: () = assert!(size_of::<Entry>() == 1 << ENTRY_SHIFT && offset_of!(Entry, _pad) == 96);

const ENTRY_SHIFT: usize = 7;
/// In `entry_of_head`: the head is free.
pub(super) const NOBODY: u32 = u32::MAX;

/// VIRTIO_F_EVENT_IDX is negotiated.
pub(super) const EVENT_IDX: u32 = 1;
/// Kick with a 32-bit store instead of a 16-bit OUT.
pub(super) const KICK_MMIO: u32 = 2;
/// The interrupt is a level: the handler reads the ISR register to lower it.
pub(super) const READ_ISR: u32 = 4;

/// Ports of a legacy virtio-pci device (virtio 1.2, section 4.1.4.10) with base 0x500: Queue Notify
/// and ISR Status.
pub(super) const KICK_PORT: u16 = 0x510;
pub(super) const ISR_PORT: u16 = 0x513;
/// QueueNotify of a virtio-mmio device (section 4.2.2) with base address 0xd0000000.
pub(super) const KICK_MMIO_ADDRESS: u64 = 0xd000_0050;
/// Written by the program: no request is in flight, or the program was stopped.
pub(super) const DONE_PORT: u16 = 0x600;
/// Written by the program: the device put a head on the used ring that is not in flight.
pub(super) const NONSENSE_PORT: u16 = 0x601;

/// Vectors of the queue's interrupt and of the configuration change interrupt.
pub(super) const QUEUE_VECTOR: u8 = 0x40;
pub(super) const CONFIG_VECTOR: u8 = 0x41;
/// Vector in the local APIC's spurious-interrupt register.
pub(super) const SPURIOUS_VECTOR: u8 = 0xff;
/// The I/O APIC pin of the level interrupt.
pub(super) const LINE: u32 = 5;

/// The number of instructions that [`Entrance::Count`] runs.
pub(super) const COUNTED: u32 = 2 * 1000;

global_asm!(
    ".pushsection .rodata.kvm_guest, \"a\"",
    ".balign 16",
    "kvm_guest_begin:",
    // ---- start: rdi = Control. Registers, throughout:
    //   r15 Control     r14 now, in ticks    r13 entries
    //   r12 avail ring  r11 used ring        r10 queue mask
    //   r9  desc table  r8w next avail index bp  next used index
    //   rsi entry_of_head                    rbx end of free heads
    "kvm_guest_start:",
    "   mov r15, rdi",
    "   mov r13, [r15 + {entries}]",
    "   mov r9, [r15 + {desc_table}]",
    "   mov r12, [r15 + {avail_ring}]",
    "   mov r11, [r15 + {used_ring}]",
    "   mov r10d, [r15 + {queue_mask}]",
    "   mov rsi, [r15 + {entry_of_head}]",
    "   mov rbx, [r15 + {free_end}]",
    "   xor r8d, r8d",
    "   xor ebp, ebp",
    // Enable the local APIC through its spurious-interrupt register (Intel SDM 3A, 11.4.7.2).
    "   mov eax, 0xfee000f0",
    "   mov dword ptr [rax], 0x100 + {spurious}",
    // The I/O APIC: level triggered, active high; vector, destination APIC 0 (82093AA, 3.2.4).
    "   test dword ptr [r15 + {flags}], {READ_ISR}",
    "   jz 10f",
    "   mov eax, 0xfec00000",
    "   mov dword ptr [rax], 0x11 + 2 * {line}",
    "   mov dword ptr [rax + 0x10], 0",
    "   mov dword ptr [rax], 0x10 + 2 * {line}",
    "   mov dword ptr [rax + 0x10], 0x8000 + {queue_vector}",
    // ---- batch
    "10: rdtsc",
    "   shl rdx, 32",
    "   or rax, rdx",
    "   mov r14, rax",
    "   mov [r15 + {began}], rax",
    // ---- fill: until the batch, the depth or the time is used up
    "20: mov eax, [r15 + {submitted}]",
    "   cmp eax, [r15 + {count}]",
    "   jae 30f",
    "   mov ecx, eax",
    "   sub ecx, [r15 + {completed}]",
    "   cmp ecx, [r15 + {depth}]",
    "   jae 30f",
    "   mov rcx, r14",
    "   sub rcx, [r15 + {began}]",
    "   cmp rcx, [r15 + {budget}]",
    "   jae 30f",
    "   inc dword ptr [r15 + {submitted}]",
    // Take an entry and a free head. The head's descriptor already has the length of the table.
    "   mov edx, eax",
    "   shl rdx, {entry_shift}",
    "   add rdx, r13",
    "   mov [rdx + {submitted_at}], r14",
    "   sub rbx, 2",
    "   movzx ecx, word ptr [rbx]",
    "   mov [rsi + rcx * 4], eax",
    "   lea rax, [rdx + {table}]",
    "   mov edi, ecx",
    "   shl edi, 4",
    "   mov [r9 + rdi], rax",
    "   mov eax, r8d",
    "   and eax, r10d",
    "   mov [r12 + rax * 2 + 4], cx",
    "   inc r8d",
    "   jmp 20b",
    // ---- publish: x86 does not reorder stores, so avail.idx needs no fence before it
    "30: movzx eax, word ptr [r12 + 2]",
    "   cmp ax, r8w",
    "   je 40f",
    "   mov [r12 + 2], r8w",
    // x86 may reorder a load before an earlier store. Fence: store avail.idx, then load the
    // device's suppression field.
    "   lock or dword ptr [rsp - 8], 0",
    // ---- kick?  avail_event is at 4 + 8 * size of the used ring.
    // Kick if new - event - 1 < new - old, in 16 bits.
    "   mov ecx, [r15 + {burst}]",
    "   test ecx, ecx",
    "   jnz 33f",
    "   test dword ptr [r15 + {flags}], {EVENT_IDX}",
    "   jz 31f",
    "   movzx ecx, word ptr [r11 + r10 * 8 + 12]",
    "   mov edx, r8d",
    "   sub edx, ecx",
    "   dec edx",
    "   mov ecx, r8d",
    "   sub ecx, eax",
    "   cmp dx, cx",
    "   jae 40f",
    "   jmp 32f",
    "31: test word ptr [r11], 1",
    "   jnz 40f",
    "32: mov ecx, 1",
    "33: mov eax, [r15 + {kick_value}]",
    "   mov rdx, [r15 + {kick_address}]",
    "   test dword ptr [r15 + {flags}], {KICK_MMIO}",
    "   jnz 35f",
    "34: out dx, ax",
    "   inc qword ptr [r15 + {kicks}]",
    "   dec ecx",
    "   jnz 34b",
    "   jmp 40f",
    "35: mov [rdx], eax",
    "   inc qword ptr [r15 + {kicks}]",
    "   dec ecx",
    "   jnz 35b",
    // ---- sleep, if a request is in flight
    "40: mov ecx, [r15 + {masked_turns}]",
    "   test ecx, ecx",
    "   jz 42f",
    "41: dec ecx",
    "   jnz 41b",
    "42: cmp dword ptr [r15 + {stop}], 0",
    "   jne 43f",
    "   mov eax, [r15 + {submitted}]",
    "   cmp eax, [r15 + {completed}]",
    "   je 43f",
    // sti takes effect after the next instruction, so no interrupt can arrive between sti and hlt.
    "   sti",
    "   hlt",
    "   cli",
    "   inc qword ptr [r15 + {halts}]",
    "   jmp 20b",
    "43: mov edx, {done_port}",
    "   out dx, al",
    "   jmp 10b",
    // ---- queue interrupt: disable notifications, reap, enable notifications, check again
    ".balign 16",
    "kvm_guest_queue_interrupt:",
    "   rdtsc",
    "   shl rdx, 32",
    "   or rax, rdx",
    "   mov r14, rax",
    "   inc qword ptr [r15 + {interrupts}]",
    "   test dword ptr [r15 + {flags}], {READ_ISR}",
    "   jz 50f",
    "   mov edx, {isr_port}",
    "   in al, dx",
    // With EVENT_IDX the event index was passed, so no interrupt comes until it is moved.
    "50: test dword ptr [r15 + {flags}], {EVENT_IDX}",
    "   jnz 51f",
    "   mov word ptr [r12], 1",
    "51: movzx eax, word ptr [r11 + 2]",
    "   cmp ax, bp",
    "   je 52f",
    "   mov eax, ebp",
    "   and eax, r10d",
    "   mov ecx, [r11 + rax * 8 + 4]",
    "   mov edi, [r11 + rax * 8 + 8]",
    // The device is not trusted either: check that the head exists and is in flight.
    "   cmp ecx, r10d",
    "   ja 60f",
    "   mov edx, [rsi + rcx * 4]",
    "   cmp edx, -1",
    "   je 60f",
    "   mov dword ptr [rsi + rcx * 4], -1",
    "   shl rdx, {entry_shift}",
    "   add rdx, r13",
    "   mov [rdx + {written}], edi",
    "   mov [rdx + {completed_at}], r14",
    "   inc qword ptr [rdx + {completions}]",
    "   mov [rbx], cx",
    "   add rbx, 2",
    "   inc dword ptr [r15 + {completed}]",
    "   inc ebp",
    "   jmp 51b",
    // used_event is at 4 + 2 * size of the avail ring.
    "52: test dword ptr [r15 + {flags}], {EVENT_IDX}",
    "   jz 53f",
    "   mov [r12 + r10 * 2 + 6], bp",
    "   jmp 54f",
    "53: mov word ptr [r12], 0",
    "54: lock or dword ptr [rsp - 8], 0",
    "   cmp [r11 + 2], bp",
    "   jne 50b",
    "   mov eax, 0xfee000b0",
    "   mov dword ptr [rax], 0",
    "   iretq",
    "60: mov edx, {nonsense_port}",
    "   out dx, al",
    "   jmp 60b",
    // ---- configuration change: stop; the caller of the guest decides what to do
    ".balign 16",
    "kvm_guest_config_interrupt:",
    "   mov dword ptr [r15 + {stop}], 1",
    "   mov eax, 0xfee000b0",
    "   mov dword ptr [rax], 0",
    "   iretq",
    // ---- an interrupt that was withdrawn; it needs no acknowledgement (SDM 3A, 11.9)
    ".balign 16",
    "kvm_guest_spurious_interrupt:",
    "   iretq",
    // ---- another entry point: a fixed number of instructions, to find out who executes them
    ".balign 16",
    "kvm_guest_count:",
    "   mov ecx, {counted} / 2",
    "70: dec ecx",
    "   jnz 70b",
    "   mov edx, {done_port}",
    "   out dx, al",
    "   jmp kvm_guest_count",
    "kvm_guest_end:",
    ".popsection",
    entries = const offset_of!(Control, entries),
    desc_table = const offset_of!(Control, desc_table),
    avail_ring = const offset_of!(Control, avail_ring),
    used_ring = const offset_of!(Control, used_ring),
    entry_of_head = const offset_of!(Control, entry_of_head),
    free_end = const offset_of!(Control, free_end),
    kick_address = const offset_of!(Control, kick_address),
    kick_value = const offset_of!(Control, kick_value),
    queue_mask = const offset_of!(Control, queue_mask),
    flags = const offset_of!(Control, flags),
    depth = const offset_of!(Control, depth),
    burst = const offset_of!(Control, burst),
    masked_turns = const offset_of!(Control, masked_turns),
    count = const offset_of!(Control, count),
    stop = const offset_of!(Control, stop),
    budget = const offset_of!(Control, budget),
    began = const offset_of!(Control, began),
    submitted = const offset_of!(Control, submitted),
    completed = const offset_of!(Control, completed),
    kicks = const offset_of!(Control, kicks),
    interrupts = const offset_of!(Control, interrupts),
    halts = const offset_of!(Control, halts),
    entry_shift = const ENTRY_SHIFT,
    table = const offset_of!(Entry, table),
    written = const offset_of!(Entry, written),
    completions = const offset_of!(Entry, completions),
    submitted_at = const offset_of!(Entry, submitted_at),
    completed_at = const offset_of!(Entry, completed_at),
    EVENT_IDX = const EVENT_IDX,
    KICK_MMIO = const KICK_MMIO,
    READ_ISR = const READ_ISR,
    isr_port = const ISR_PORT,
    done_port = const DONE_PORT,
    nonsense_port = const NONSENSE_PORT,
    queue_vector = const QUEUE_VECTOR,
    spurious = const SPURIOUS_VECTOR,
    line = const LINE,
    counted = const COUNTED,
);

unsafe extern "C" {
    static kvm_guest_begin: u8;
    static kvm_guest_start: u8;
    static kvm_guest_queue_interrupt: u8;
    static kvm_guest_config_interrupt: u8;
    static kvm_guest_spurious_interrupt: u8;
    static kvm_guest_count: u8;
    static kvm_guest_end: u8;
}

/// Returns the program's machine code.
pub(super) fn code() -> &'static [u8] {
    let (begin, end) = (&raw const kvm_guest_begin, &raw const kvm_guest_end);
    // SAFETY: the two labels are the start and the end of one read-only object.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

/// Entry points of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    Start,
    QueueInterrupt,
    ConfigInterrupt,
    SpuriousInterrupt,
    /// Runs about [`COUNTED`] instructions, then signals DONE.
    Count,
}

impl Entrance {
    /// Offset from the first byte of [`code`].
    pub(super) fn offset(self) -> u64 {
        let label = match self {
            Self::Start => &raw const kvm_guest_start,
            Self::QueueInterrupt => &raw const kvm_guest_queue_interrupt,
            Self::ConfigInterrupt => &raw const kvm_guest_config_interrupt,
            Self::SpuriousInterrupt => &raw const kvm_guest_spurious_interrupt,
            Self::Count => &raw const kvm_guest_count,
        };
        (label.addr() - (&raw const kvm_guest_begin).addr()) as u64
    }
}
