use super::registers::{FIFO, Registers};
use aio::{AioContext, Interest, Registration};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

pub(crate) struct Uart {
    registers: RefCell<Registers>,
    socket: Rc<UnixStream>,
    /// `None` once the peer has hung up.
    watched: RefCell<Option<Registration>>,
    /// The peer sends nothing more. It may still read.
    ended: Cell<bool>,
}

impl Uart {
    pub(crate) fn attach(ctx: &AioContext, socket: UnixStream) -> io::Result<Rc<Self>> {
        socket.set_nonblocking(true)?;
        let socket = Rc::new(socket);
        let (registers, watched, ended) = Default::default();
        let uart = Rc::new(Self { registers, socket: Rc::clone(&socket), watched, ended });
        let weak = Rc::downgrade(&uart);
        let registration = ctx.add_fd(socket, Interest::READABLE, move |_, ready| {
            let Some(uart) = weak.upgrade() else { return };
            if ready.is_hang_up() {
                // What is there can still be read, and nothing else will come or go.
                drop(uart.watched.take());
            }
            uart.serve();
        })?;
        uart.watched.replace(Some(registration));
        Ok(uart)
    }

    /// The guest reads a register.
    pub(crate) fn read(&self, offset: u16) -> u8 {
        let value = self.registers.borrow_mut().read(offset);
        if offset == 0 {
            self.serve(); // there is room for another byte now
        }
        value
    }

    /// The guest writes a register.
    pub(crate) fn write(&self, offset: u16, value: u8) {
        self.registers.borrow_mut().write(offset, value);
        if offset == 0 {
            self.serve(); // there is a byte to send now
        }
    }

    /// Moves what can be moved now, and then waits for what could not.
    fn serve(&self) {
        let registers = &mut *self.registers.borrow_mut();
        let mut bytes = [0; FIFO];
        let room = registers.room();
        if room > 0 && !self.ended.get() {
            match (&*self.socket).read(&mut bytes[..room]) {
                Ok(0) => self.ended.set(true),
                Ok(count) => registers.receive(&bytes[..count]),
                Err(error) => self.ended.set(!is_temporary(&error)),
            }
        }
        if !registers.to_send().is_empty() {
            match (&*self.socket).write(registers.to_send()) {
                Ok(count) => registers.sent(count),
                Err(error) if is_temporary(&error) => {}
                // The peer does not read any more: the bytes are lost.
                Err(_) => registers.sent(FIFO),
            }
        }
        let mut interest = Interest::NONE;
        if registers.room() > 0 && !self.ended.get() {
            interest |= Interest::READABLE;
        }
        if !registers.to_send().is_empty() {
            interest |= Interest::WRITABLE;
        }
        if let Some(registration) = &*self.watched.borrow() {
            registration.set_interest(interest).expect("the socket is open");
        }
    }
}

/// The socket may take or give something later.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
