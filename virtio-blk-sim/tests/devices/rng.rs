//! The entropy device.

use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::ProtocolFeatures;
use vm_memory::Bytes;

use super::rig::{Ring, TestServer, Vmm};
use super::rng_device::{MAX_BYTES, served};

#[test]
fn each_buffer_is_filled_with_other_bytes() {
    let server = TestServer::new(served(), 0, |_| Box::new(()));
    for _session in 0..2 {
        let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
        let mut vmm = Vmm::new(&server, &ram, &[]);
        let mut ring = Ring::new(&mut vmm, &ram, 0);
        let mut seen = Vec::new();
        while seen.len() < 100 {
            ring.offer();
            let bytes = ring.wait(&ram);
            assert_eq!(bytes.len(), MAX_BYTES);
            // 4096 random bytes without one of 256 values: once in 10^4 or so.
            let values = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert!(values > 240, "{values} values");
            assert!(!seen.contains(&bytes), "the same bytes again");
            seen.push(bytes);
        }
        assert!(ring.interrupted());
        let protocol = vmm.frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(ProtocolFeatures::CONFIG));
        assert_eq!(protocol.intersection(served().withheld), ProtocolFeatures::NONE);
        // The configuration space is empty.
        assert_eq!(vmm.frontend.get_config(0, 8).unwrap(), [0; 8]);
    }
}

#[test]
fn a_huge_buffer_is_filled_in_part_and_a_readable_one_not_at_all() {
    let server = TestServer::new(served(), 0, |_| Box::new(()));
    let ram = GuestRam::new((Ring::BYTES + (1 << 20)) as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    let (huge, small) = (GuestAddress(Ring::BYTES), GuestAddress(0x2000));
    for (readable, writable, written) in [
        (vec![], vec![(huge, 1 << 20)], MAX_BYTES as u32),
        (vec![(small, 64)], vec![], 0),
        (vec![(small, 64)], vec![(huge, 1), (huge, 2)], 3),
    ] {
        let head = ring.driver.add(&readable, &writable).unwrap().unwrap();
        assert!(ring.driver.publish());
        ring.ring_doorbell();
        super::rig::wait_until("an answer", || ring.driver.has_used());
        assert_eq!(ring.driver.pop_used(), Ok(Some((head, written))));
    }
    let rest: Vec<u8> = {
        let mut rest = vec![0; (1 << 20) - MAX_BYTES];
        ram.memory().read_slice(&mut rest, GuestAddress(huge.0 + MAX_BYTES as u64)).unwrap();
        rest
    };
    assert!(rest.iter().all(|byte| *byte == 0), "written beyond what was reported");
}
