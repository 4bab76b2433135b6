//! A UART of a virtual machine: a 16550A whose line is a socket. `aio::guide::uart` builds it step
//! by step.
//!
//! ```text
//! cargo run -p aio-context --example uart
//!
//!   vCPU thread                        IoThread "uart"                      another program
//!   guest   in, out ──► Uart: registers and FIFOs under a mutex
//!                         │ bottom half ──► Line: socket ─────────────────► a terminal
//!           irq     ◄── write(2) to the irqfd ◄── receive timeout timer
//! ```

mod registers;
mod uart;

use aio::{AioContext, EventNotifier, IoThread, Reset};
use std::cell::RefCell;
use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use uart::{Line, Uart};

/// The guest: its interrupt handler collects a line of text. Sends it back in capitals.
fn guest(uart: Arc<Uart>, irq: &EventNotifier) -> io::Result<()> {
    uart.write(2, 0x80); // interrupt when 8 bytes are there, or after the timeout
    uart.write(1, 0x01); // interrupt for received bytes
    // KVM would interrupt the vCPU. This one has a loop of its own to wait for that.
    let vcpu = AioContext::new()?;
    let text = RefCell::new(Vec::new());
    let stop = vcpu.handle();
    let device = Arc::clone(&uart);
    let _handler = vcpu.add_notifier(irq, move |_| {
        while device.read(2) & 1 == 0 {
            while device.read(5) & 1 != 0 {
                text.borrow_mut().push(device.read(0));
            }
        }
        if text.borrow().ends_with(b"\n") {
            for byte in text.take() {
                while device.read(5) & 0x20 == 0 {
                    std::thread::yield_now();
                }
                device.write(0, byte.to_ascii_uppercase());
            }
            stop.stop();
        }
    })?;
    vcpu.run()
}

fn main() -> Result<(), Box<dyn Error>> {
    let (socket, mut terminal) = UnixStream::pair()?;
    let irq = EventNotifier::new(Reset::Classic)?; // its descriptor goes to KVM_IRQFD
    let (give, take) = mpsc::channel();
    let line = IoThread::spawn_with("uart", AioContext::builder(), {
        let irq = irq.clone();
        move |ctx| {
            let line = Line::attach(ctx, socket, irq)?;
            // Nobody has dropped the other end yet.
            let _ = give.send(line.uart());
            Ok(line)
        }
    })?;
    let uart = take.recv()?;
    let vcpu = std::thread::spawn(move || guest(uart, &irq));
    let text = "a line that is longer than a FIFO\n";
    terminal.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    terminal.read_exact(&mut answer)?;
    print!("{}", String::from_utf8(answer)?);
    vcpu.join().expect("the guest does not panic")?;
    line.stop()?;
    Ok(())
}
