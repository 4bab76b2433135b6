use super::registers::{FIFO, Registers};
use aio::{AioContext, BottomHalf, BottomHalfHandle, EventNotifier, Interest, Registration, Timer};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

/// The guest's side: the vCPU threads share it.
#[derive(Debug)]
pub(crate) struct Uart {
    state: Mutex<State>,
    irq: EventNotifier,
    /// Serves the line after an access that concerns it.
    line: BottomHalfHandle,
}

#[derive(Debug, Default)]
struct State {
    registers: Registers,
    raised: bool,
}

impl Uart {
    /// A vCPU reads a register.
    pub(crate) fn read(&self, offset: u16) -> u8 {
        let value = self.with(|registers| registers.read(offset));
        self.serve_line_after(offset);
        value
    }

    /// A vCPU writes a register.
    pub(crate) fn write(&self, offset: u16, value: u8) {
        self.with(|registers| registers.write(offset, value));
        self.serve_line_after(offset);
    }

    /// Only the data register concerns the line: there is room for a byte, or one to send.
    fn serve_line_after(&self, offset: u16) {
        if offset == 0 {
            self.line.schedule();
        }
    }

    /// Works with the registers, and rings the irqfd if that has raised the interrupt line.
    fn with<R>(&self, work: impl FnOnce(&mut Registers) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state.registers);
        let raised = state.registers.interrupts();
        if raised && !state.raised && self.irq.notify().is_err() {
            eprintln!("uart: the irqfd does not take a write");
        }
        state.raised = raised;
        result
    }
}

/// The loop's side: the socket and the timer.
#[derive(Debug)]
pub(crate) struct Line {
    uart: Arc<Uart>,
    socket: Rc<UnixStream>,
    /// `None` once the peer has hung up.
    watched: RefCell<Option<Registration>>,
    /// The peer sends nothing more. It may still read, so the socket is watched on.
    ended: Cell<bool>,
    timeout: Timer,
    _work: BottomHalf,
}

impl Line {
    /// A UART whose line is `socket`. It lives as long as the returned `Rc`.
    pub(crate) fn attach(ctx: &AioContext, socket: UnixStream, irq: EventNotifier) -> io::Result<Rc<Self>> {
        socket.set_nonblocking(true)?;
        let socket = Rc::new(socket);
        let line = Rc::new_cyclic(|line: &Weak<Self>| {
            let work = ctx.bottom_half(on(line, Self::serve));
            let timeout = ctx.timer(on(line, |line| {
                line.uart.with(Registers::time_out);
            }));
            let uart = Arc::new(Uart { state: Mutex::default(), irq, line: work.handle() });
            let (watched, ended) = (RefCell::default(), Cell::new(false));
            Self { uart, socket: Rc::clone(&socket), watched, ended, timeout, _work: work }
        });
        let weak = Rc::downgrade(&line);
        let registration = ctx.add_fd(socket, Interest::READABLE, move |_, ready| {
            let Some(line) = weak.upgrade() else { return };
            if ready.is_hang_up() {
                // Nothing more will come than what is there, and nothing will go. A hang-up is
                // always reported, so the loop would spin for as long as the FIFO has no room for
                // the rest.
                drop(line.watched.take());
            }
            line.serve();
        })?;
        line.watched.replace(Some(registration));
        Ok(line)
    }

    /// The guest's side.
    pub(crate) fn uart(&self) -> Arc<Uart> {
        Arc::clone(&self.uart)
    }

    /// Moves what can be moved now, and then waits for what could not.
    fn serve(&self) {
        let (interest, timeout) = self.uart.with(|registers| {
            self.receive(registers);
            self.send(registers);
            let mut interest = Interest::NONE;
            if registers.room() > 0 && !self.ended.get() {
                interest |= Interest::READABLE;
            }
            if !registers.to_send().is_empty() {
                interest |= Interest::WRITABLE;
            }
            (interest, registers.timeout())
        });
        match timeout {
            Some(delay) => self.timeout.arm_after(delay),
            None => self.timeout.cancel(),
        }
        if let Some(registration) = &*self.watched.borrow()
            && let Err(error) = registration.set_interest(interest)
        {
            eprintln!("uart: the socket cannot be watched: {error}");
        }
    }

    fn receive(&self, registers: &mut Registers) {
        let mut bytes = [0; FIFO];
        let room = &mut bytes[..registers.room()];
        if room.is_empty() || self.ended.get() {
            return;
        }
        match (&*self.socket).read(room) {
            Ok(0) => self.ended.set(true),
            Ok(count) => registers.receive(&bytes[..count]),
            Err(error) => self.ended.set(!is_temporary(&error)),
        }
    }

    fn send(&self, registers: &mut Registers) {
        if registers.to_send().is_empty() {
            return;
        }
        match (&*self.socket).write(registers.to_send()) {
            Ok(count) => registers.sent(count),
            Err(error) if is_temporary(&error) => {}
            // The peer does not read any more: the bytes are lost, as with an unplugged cable.
            Err(_) => registers.sent(FIFO),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A callback that does not keep the line alive.
fn on(line: &Weak<Line>, act: impl Fn(&Line) + 'static) -> impl Fn(&AioContext) + 'static {
    let line = Weak::clone(line);
    move |_| {
        if let Some(line) = line.upgrade() {
            act(&line);
        }
    }
}
