//! A level-triggered interrupt line, like INTx of PCI. It stays up until the guest has read the ISR
//! status register and acknowledged the interrupt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::irqfd::Irqfd;

/// VIRTIO: the queue's bit of the ISR status register (virtio 1.2, section 4.1.4.5).
const QUEUE: u8 = 1;

/// An irqfd that raises the level, and the ISR status register, which shows the cause of the
/// interrupt. Clones share both.
///
/// KVM lowers the level when the guest acknowledges the interrupt. KVM does not know whether the
/// device still has a reason to interrupt, so it sends a resample notification. The transport then
/// calls [`resample`](Self::resample), which raises the level again if the register is not zero.
#[derive(Debug, Clone)]
pub struct LevelLine {
    isr: Arc<AtomicU8>,
    irqfd: Irqfd,
}

impl LevelLine {
    /// Creates a line that is down and is raised through this irqfd.
    pub fn new(irqfd: Irqfd) -> Self {
        Self { isr: Arc::default(), irqfd }
    }

    /// Raises the line, with one write(2). May be called from any thread.
    pub fn signal(&self) {
        // AcqRel: the guest reads the register after the level was raised, and then the ring.
        self.isr.fetch_or(QUEUE, Ordering::AcqRel);
        self.irqfd.signal();
    }

    /// Raises the line again if the guest has not read the register since it was last raised. It
    /// takes at most one write(2), and may be called from any thread.
    pub fn resample(&self) {
        if self.isr.load(Ordering::Acquire) != 0 {
            self.irqfd.signal();
        }
    }

    /// The ISR status register. A read by the guest must swap it with 0.
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
        // The register is 0, so this must not signal. A write would show in the count below.
        line.resample();
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Acknowledged, but the register was not read: raised again.
        line.resample();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Read, and then signalled before the acknowledgement: raised again.
        assert_eq!(line.isr().swap(0, Ordering::AcqRel), QUEUE);
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
        line.resample();
        assert_eq!(irqfd.wait().unwrap(), 1);
        // Read and acknowledged: stays down.
        line.isr().store(0, Ordering::Release);
        line.resample();
        line.signal();
        assert_eq!(irqfd.wait().unwrap(), 1);
    }
}
