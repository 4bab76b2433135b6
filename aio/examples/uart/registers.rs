use std::collections::VecDeque;
use std::time::Duration;

/// Bytes that each of the two FIFOs holds.
pub(crate) const FIFO: usize = 16;

/// The registers of a 16550A. Offsets and bits are those of its data sheet (PC16550D).
#[derive(Debug, Default)]
pub(crate) struct Registers {
    received: VecDeque<u8>,
    to_send: Vec<u8>,
    /// Interrupt enable, line control, modem control, scratch.
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    /// Bits 6 and 7 of the FIFO control register.
    trigger: u8,
    /// Input has been waiting for the time of four characters.
    timed_out: bool,
    /// The output FIFO has run empty, and the guest has not seen that yet.
    ran_empty: bool,
}

const DLAB: u8 = 0x80;
const IER_RECEIVED: u8 = 0x01;
const IER_EMPTY: u8 = 0x02;
const IIR_NONE: u8 = 0x01;
const IIR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;

impl Registers {
    /// What the guest reads at `offset`.
    pub(crate) fn read(&mut self, offset: u16) -> u8 {
        match offset {
            0 if self.lcr & DLAB != 0 => self.divisor[0],
            1 if self.lcr & DLAB != 0 => self.divisor[1],
            0 => {
                self.timed_out = false;
                self.received.pop_front().unwrap_or(0)
            }
            1 => self.ier,
            2 => {
                let cause = self.cause();
                self.ran_empty &= cause != IIR_EMPTY;
                0xc0 | cause // the two upper bits: FIFOs are on
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => u8::from(!self.received.is_empty()) | if self.to_send.is_empty() { 0x60 } else { 0 },
            6 => 0xb0, // a carrier, data set ready, clear to send
            7 => self.scr,
            _ => 0,
        }
    }

    /// The guest writes `value` at `offset`.
    pub(crate) fn write(&mut self, offset: u16, value: u8) {
        match offset {
            0 if self.lcr & DLAB != 0 => self.divisor[0] = value,
            1 if self.lcr & DLAB != 0 => self.divisor[1] = value,
            0 => {
                self.ran_empty = false;
                // A guest that does not look at the line status loses bytes, as on hardware.
                if self.to_send.len() < FIFO {
                    self.to_send.push(value);
                }
            }
            1 => {
                self.ran_empty |= value & !self.ier & IER_EMPTY != 0 && self.to_send.is_empty();
                self.ier = value & 0x0f;
            }
            2 => self.trigger = value >> 6,
            3 => self.lcr = value,
            4 => self.mcr = value,
            7 => self.scr = value,
            _ => {}
        }
    }

    /// The most urgent cause of an interrupt, as the identification register shows it.
    fn cause(&self) -> u8 {
        if self.ier & IER_RECEIVED != 0 && self.received.len() >= self.trigger_level() {
            IIR_RECEIVED
        } else if self.ier & IER_RECEIVED != 0 && self.timed_out {
            IIR_TIMEOUT
        } else if self.ier & IER_EMPTY != 0 && self.ran_empty {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn trigger_level(&self) -> usize {
        match self.trigger {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// Whether the interrupt line is high.
    pub(crate) fn interrupts(&self) -> bool {
        self.cause() != IIR_NONE
    }

    /// How many bytes may be received now.
    pub(crate) fn room(&self) -> usize {
        FIFO.saturating_sub(self.received.len())
    }

    /// Takes bytes from the line, [`room`](Self::room) at most.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        self.timed_out = false;
    }

    /// The bytes that the guest has written and the line has not taken.
    pub(crate) fn to_send(&self) -> &[u8] {
        &self.to_send
    }

    /// The line has taken so many of them.
    pub(crate) fn sent(&mut self, count: usize) {
        if count > 0 {
            self.to_send.drain(..count.min(self.to_send.len()));
            self.ran_empty |= self.to_send.is_empty();
        }
    }

    /// How long to wait for more input before the guest is interrupted for what there is: the time
    /// of four characters. `None` if there is none, or if its interrupt was raised already.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let waits = !self.received.is_empty() && self.received.len() < self.trigger_level();
        // Ten bits for each character, and sixteen ticks of a clock of 1.8432 MHz for each bit.
        let ticks = 4 * 10 * 16 * u64::from(u16::from_le_bytes(self.divisor).max(1));
        (waits && !self.timed_out).then(|| Duration::from_nanos(ticks * 1_000_000_000 / 1_843_200))
    }

    /// That time is over.
    pub(crate) fn time_out(&mut self) {
        self.timed_out = !self.received.is_empty();
    }
}
