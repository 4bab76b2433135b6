//! A level-triggered interrupt line, as INTx of PCI: up until the guest has read the ISR status
//! register and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::irqfd::Irqfd;

/// VIRTIO: the queue's bit of the ISR status register (virtio 1.2, section 4.1.4.5).
const QUEUE: u8 = 1;

/// An irqfd that raises a level, and the ISR status register that says why it is up. Clones share
/// them.
///
/// Whoever lowers the level (KVM, when the guest acknowledges) does not know whether something was
/// left, and says so by a resample notification. Then [`resample`](Self::resample) raises it again
/// if the register says so.
#[derive(Debug, Clone)]
pub struct LevelLine {
    isr: Arc<AtomicU8>,
    irqfd: Irqfd,
}

impl LevelLine {
    /// A line that is down, raised by this irqfd.
    pub fn new(irqfd: Irqfd) -> Self {
        Self { isr: Arc::default(), irqfd }
    }

    /// Raises it. Any thread; one write(2).
    pub fn signal(&self) {
        // AcqRel: the guest reads the register after the level has gone up, and then the ring.
        self.isr.fetch_or(QUEUE, Ordering::AcqRel);
        self.irqfd.signal();
    }

    /// Raises it again, if the guest has not read the register since it was raised last. Any
    /// thread; at most one write(2).
    pub fn resample(&self) {
        if self.isr.load(Ordering::Acquire) != 0 {
            self.irqfd.signal();
        }
    }

    /// The ISR status register. The guest's read of it is a swap with 0.
    pub fn isr(&self) -> &AtomicU8 {
        &self.isr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_has_not_read_is_raised_again() {
        let irqfd = Irqfd::new().unwrap();
        let line = LevelLine::new(irqfd.clone());
        // Nothing to say: a write would be in the count below.
        line.resample();
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Acknowledged without a look at the register: up again.
        line.resample();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Read, and then signalled before the acknowledgement: up again.
        assert_eq!(line.isr().swap(0, Ordering::AcqRel), QUEUE);
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
        line.resample();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Read and acknowledged: down.
        line.isr().store(0, Ordering::Release);
        line.resample();
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
    }
}
