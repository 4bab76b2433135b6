//! The smallest virtual machine monitor: a guest, and one device on an [`AioContext`]. Needs x86-64
//! and /dev/kvm.
//!
//! ```text
//! cargo run -p aio --example smallest_vmm [QUESTIONS]
//!
//!   vCPU thread: ioctl KVM_RUN                              main thread: the event loop
//!   guest   mov [question], ..                                      │ asleep
//!           out 0xf0, al ──► KVM writes the ioeventfd ──► handler:  read question, write answer
//!           hlt          ◄── KVM injects vector 0x25  ◄── write(2) to the irqfd
//! ```
//!
//! An **ioeventfd** is a bargain with KVM: "when the guest writes to this port, do not return from
//! KVM_RUN to tell me; write this eventfd and let it go on". So a doorbell costs the vCPU a short
//! stay in the kernel, and whoever polls the eventfd, on whatever thread, has it.
//!
//! An **irqfd** is the reverse: "when this eventfd is written, raise that interrupt line of the
//! guest". So a device needs no ioctl, and no vCPU, to interrupt. KVM takes the count back out of
//! the eventfd itself.
//!
//! Both are doorbells: they say "look", and what to look at is in the memory that guest and device
//! share.

#[cfg(target_arch = "x86_64")]
mod vmm;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(target_arch = "x86_64")]
    return vmm::main();
    #[cfg(not(target_arch = "x86_64"))]
    Err("the guest of this example is a program for x86-64".into())
}
