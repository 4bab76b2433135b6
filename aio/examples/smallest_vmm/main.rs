//! A minimal virtual machine monitor: a guest, and one device on an [`AioContext`]. Needs x86-64
//! and /dev/kvm.
//!
//! ```text
//! cargo run -p aio-context --example smallest_vmm [QUESTIONS]
//!
//!   vCPU thread: ioctl KVM_RUN                              main thread: the event loop
//!   guest   mov [question], ..                                      │ asleep
//!           out 0xf0, al ──► KVM writes the ioeventfd ──► handler:  read question, write answer
//!           hlt          ◄── KVM injects vector 0x25  ◄── write(2) to the irqfd
//! ```
//!
//! An **ioeventfd** tells KVM: when the guest writes to this port, do not return from KVM_RUN;
//! write this eventfd and resume the guest. A doorbell therefore costs the vCPU only a short exit
//! into the kernel, and any thread that polls the eventfd can handle it.
//!
//! An **irqfd** is the reverse: when this eventfd is written, KVM raises an interrupt line of the
//! guest. A device therefore needs neither an ioctl nor a vCPU thread to raise an interrupt. KVM
//! itself resets the eventfd's count.
//!
//! Both are doorbells: they only say that there is something to do. The data is in the memory that
//! the guest and the device share.

#[cfg(target_arch = "x86_64")]
mod vmm;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(target_arch = "x86_64")]
    return vmm::main();
    #[cfg(not(target_arch = "x86_64"))]
    Err("the guest of this example is a program for x86-64".into())
}
