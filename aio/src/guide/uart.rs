//! A serial port, step by step: registers, a socket, an interrupt, a timer, and vCPU threads.
//!
//! The device is a 16550A, the UART of a PC. The guest sees eight registers. What it sends goes to
//! a Unix socket, and what comes from the socket goes to the guest. Each step below is a program
//! that runs. The last one is the example `uart` of this crate (`examples/uart/`).
//!
//! # 1. The registers
//!
//! A device is easier to test if the part that the guest sees knows nothing of event loops. This
//! is a plain state machine: bytes in, bytes out, and whether the interrupt line is high. Nothing
//! here trusts the guest: any offset and any value is fine, and both FIFOs have a limit.
//!
//! ```
#![doc = include_str!("../../examples/uart/registers.rs")]
//!
//! fn main() {
//!     let mut registers = Registers::default();
//!     registers.receive(b"hi");
//!     assert!(!registers.interrupts());
//!     registers.write(1, 0x01); // the guest enables the interrupt for received bytes
//!     assert!(registers.interrupts());
//!     assert_eq!([registers.read(0), registers.read(0)], *b"hi");
//!     assert!(!registers.interrupts());
//! }
//! ```
//!
//! # 2. The line
//!
//! Now a socket joins. [`add_fd`](crate::AioContext::add_fd) calls a closure in each turn in which
//! the socket is ready. Four rules make such a handler short:
//!
//! * **One function for everything.** `serve` moves what can be moved, in both directions, and then
//!   decides what to wait for. It does not matter why it was called, so every callback can call it.
//! * **Wait only for what you can take.** Handlers are level-triggered: while the FIFO is full, a
//!   readable socket would wake the loop again and again. So `serve` takes `READABLE` out of its
//!   interest until there is room. The kernel's socket buffer fills up, and the peer is slowed
//!   down: this is the flow control of the line.
//! * **The two directions end one by one.** After the end of the stream the peer may still read, so
//!   the handler stays, without `READABLE`, for the output that is left. And a peer that does not
//!   read any more may still send: a write fails then (EPIPE), again and again, while the socket
//!   stays writable. So its bytes are dropped, as with an unplugged cable.
//! * **Errors and hang-ups are always reported**, whatever the interest is. A hang-up means that
//!   both directions have ended. A handler that cannot do anything about it yet must be removed, or
//!   the loop spins.
//!
//! The closure holds a [`Weak`](std::rc::Weak) pointer. The device owns the registration, the
//! registration owns the closure; if the closure also owned the device, nothing would ever be
//! dropped ([more about ownership](super::ownership)).
//!
//! ```
//! # mod registers {
//! #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/uart/registers.rs"));
//! # }
//! # mod uart {
#![doc = include_str!("../../examples/uart/one_thread.rs")]
//! # }
//! # use aio::AioContext;
//! # use std::io::{self, Read, Write};
//! # use std::os::unix::net::UnixStream;
//! # use uart::Uart;
//!
//! fn main() -> io::Result<()> {
//!     let ctx = AioContext::new()?;
//!     let (socket, mut terminal) = UnixStream::pair()?;
//!     let uart = Uart::attach(&ctx, socket)?;
//!
//!     terminal.write_all(b"more bytes than the FIFO holds")?;
//!     let mut text = Vec::new();
//!     while text.len() < 30 {
//!         if uart.read(5) & 1 != 0 {
//!             text.push(uart.read(0));
//!         } else {
//!             ctx.poll(true)?;
//!         }
//!     }
//!     assert_eq!(text, b"more bytes than the FIFO holds");
//!
//!     uart.write(0, b'!');
//!     let mut byte = [0];
//!     terminal.read_exact(&mut byte)?;
//!     assert_eq!(byte, *b"!");
//!     Ok(())
//! }
//! ```
//!
//! # 3. The interrupt
//!
//! An irqfd is an eventfd that KVM listens to: a write to it raises an interrupt of the guest
//! (KVM_IRQFD in the kernel's Documentation/virt/kvm/api.rst). For the device it is an
//! [`EventNotifier`](crate::EventNotifier) that it rings and nobody in this process reads, so its
//! reset mode is [`Reset::Classic`](crate::Reset::Classic): KVM does the resetting. To use one that
//! a VMM has made, see [Eventfds of a VMM](super::eventfds).
//!
//! The UART's interrupt line is a level, and an eventfd carries edges. So the device rings when the
//! line *becomes* high. One place does that, after each change of the registers:
//!
//! ```
//! # mod registers {
//! #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/uart/registers.rs"));
//! # }
//! # use aio::{EventNotifier, Reset};
//! # use registers::Registers;
//! # use std::cell::{Cell, RefCell};
//! # use std::io;
//! struct Guarded {
//!     registers: RefCell<Registers>,
//!     raised: Cell<bool>,
//!     irq: EventNotifier,
//! }
//!
//! impl Guarded {
//!     /// Works with the registers, and rings the irqfd if that has raised the interrupt line.
//!     fn with<R>(&self, work: impl FnOnce(&mut Registers) -> R) -> io::Result<R> {
//!         let mut registers = self.registers.borrow_mut();
//!         let result = work(&mut registers);
//!         let raised = registers.interrupts();
//!         if raised && !self.raised.replace(raised) {
//!             self.irq.notify()?;
//!         }
//!         self.raised.set(raised);
//!         Ok(result)
//!     }
//! }
//!
//! fn main() -> io::Result<()> {
//!     let irq = EventNotifier::new(Reset::Classic)?; // its descriptor goes to KVM_IRQFD
//!     let guarded =
//!         Guarded { registers: RefCell::default(), raised: Cell::new(false), irq: irq.clone() };
//!     guarded.with(|registers| registers.write(1, 0x01))?; // enable it for received bytes
//!     assert!(!irq.test_and_clear()?);
//!     guarded.with(|registers| registers.receive(b"two"))?;
//!     assert!(irq.test_and_clear()?, "raised once");
//!     guarded.with(|registers| registers.receive(b"more"))?;
//!     assert!(!irq.test_and_clear()?, "it is high already");
//!     Ok(())
//! }
//! ```
//!
//! # 4. The receive timeout
//!
//! A guest asks for an interrupt at, say, eight bytes, so that it is not interrupted for each. If
//! only three come, the UART waits for the time of four characters and then interrupts all the
//! same. That is a [`Timer`](crate::Timer): armed while some input waits, armed again whenever
//! more comes (arming replaces the old deadline), and cancelled when the guest has read all of it.
//! Arming makes no system call, so doing it for each byte is fine.
//!
//! ```
//! # mod registers {
//! #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/uart/registers.rs"));
//! # }
//! use aio::AioContext;
//! use registers::Registers;
//! use std::cell::RefCell;
//! use std::rc::Rc;
//!
//! fn main() -> std::io::Result<()> {
//!     let ctx = AioContext::new()?;
//!     let registers = Rc::new(RefCell::new(Registers::default()));
//!     let timeout = ctx.timer({
//!         let registers = Rc::clone(&registers);
//!         move |_| registers.borrow_mut().time_out()
//!     });
//!
//!     registers.borrow_mut().write(2, 0x80); // an interrupt at eight bytes
//!     registers.borrow_mut().write(1, 0x01);
//!     registers.borrow_mut().receive(b"abc");
//!     match registers.borrow().timeout() {
//!         Some(delay) => timeout.arm_after(delay), // 347 us at 115,200 bit/s
//!         None => timeout.cancel(),
//!     }
//!     assert!(!registers.borrow().interrupts());
//!     while !registers.borrow().interrupts() {
//!         ctx.poll(true)?;
//!     }
//!     assert_eq!(registers.borrow_mut().read(2) & 0x0f, 0x0c, "timeout, says the register");
//!     Ok(())
//! }
//! ```
//!
//! In the device, `serve` does the `match` after each change. If guest time can stand still, as
//! with a paused virtual machine, make the timer on [`Clock::Virtual`](crate::Clock::Virtual): it
//! then waits while the guest does not run.
//!
//! # 5. vCPU threads
//!
//! A vCPU thread handles the guest's `in` and `out` instructions itself, while the loop runs in its
//! own thread. So the two sides share the registers under a mutex. They never wait for each other
//! longer than that: a vCPU thread that has something for the line
//! [schedules a bottom half](crate::BottomHalfHandle::schedule), and the loop rings the irqfd.
//! Whatever touches the loop, such as the registration and the timer, stays on the loop's side.
//!
//! ```
//! # mod registers {
//! #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/uart/registers.rs"));
//! # }
//! # mod uart {
#![doc = include_str!("../../examples/uart/uart.rs")]
//! # }
//! # use aio::{AioContext, EventNotifier, Reset};
//! # use std::io::{self, Read, Write};
//! # use std::os::unix::net::UnixStream;
//!
//! fn main() -> io::Result<()> {
//!     # use uart::Line;
//!     let ctx = AioContext::new()?;
//!     let (socket, mut terminal) = UnixStream::pair()?;
//!     let irq = EventNotifier::new(Reset::Classic)?;
//!     let line = Line::attach(&ctx, socket, irq.clone())?;
//!
//!     let uart = line.uart();
//!     let stop = ctx.handle();
//!     let vcpu = std::thread::spawn(move || {
//!         uart.write(1, 0x01);
//!         while !irq.test_and_clear().expect("it is an eventfd") {
//!             std::thread::yield_now(); // KVM would run the guest's code here
//!         }
//!         let byte = uart.read(0);
//!         uart.write(0, byte.to_ascii_uppercase());
//!         while uart.read(5) & 0x20 == 0 {
//!             std::thread::yield_now(); // until it is sent
//!         }
//!         stop.stop();
//!     });
//!     terminal.write_all(b"a")?;
//!     ctx.run()?;
//!     vcpu.join().expect("the vCPU does not panic");
//!     let mut byte = [0];
//!     terminal.read_exact(&mut byte)?;
//!     assert_eq!(byte, *b"A");
//!     Ok(())
//! }
//! ```
//!
//! `examples/uart/main.rs` puts this UART on an [`IoThread`](crate::IoThread), with a guest that
//! sleeps until it is interrupted. Run it with `cargo run -p aio-context --example uart`.
