//! Chains that a previous device left in flight, and that the next one takes over by head.

use super::cases::{CASES, Expect, Guest, config};
use super::support::*;

/// The heads that the guest has made available, in the order in which a previous device popped
/// them.
fn available(guest: &Guest) -> Vec<u16> {
    let entries = guest.config.avail_ring.0 + 2;
    let mem = guest.ram.memory();
    let idx: u16 = mem.read_obj(GuestAddress(entries)).unwrap();
    (1..=u64::from(idx)).map(|at| mem.read_obj(GuestAddress(entries + 2 * at)).unwrap()).collect()
}

#[test]
fn a_chain_gets_the_reaction_that_it_gets_when_it_is_popped() {
    let (mut breaking, mut refused) = (0, 0);
    for case in CASES {
        let mut guest = Guest::new(config());
        (case.set_up)(&mut guest);
        let mem = guest.device_memory();
        if let Expect::Breaks { with: QueueError::AvailIndex { .. }, .. } = case.expect {
            continue; // Not a valid chain.
        }
        let heads = available(&guest);
        // The previous device popped all of them and completed none.
        let popped = heads.len() as u16;
        let mut device = DeviceQueue::resume(mem.clone(), guest.config, popped, 0).unwrap();
        let before = snapshot(&mem);
        let mut chain = device.new_chain();
        match case.expect {
            Expect::Breaks { after, with } => {
                let (good, bad) = heads.split_at(after);
                for &head in good {
                    assert_eq!(device.resubmit(head, &mut chain), Ok(()), "{}", case.name);
                }
                assert_eq!(device.resubmit(bad[0], &mut chain), Err(with), "{}", case.name);
                assert!(chain.readable().is_empty() && chain.writable().is_empty(), "{}", case.name);
                assert!(device.is_broken() && usize::from(device.in_flight()) == after, "{}", case.name);
                assert_eq!(device.resubmit(heads[0], &mut chain), Err(QueueError::Broken), "{}", case.name);
                assert_eq!(device.pop(&mut chain), Err(QueueError::Broken), "{}", case.name);
                breaking += 1;
            }
            Expect::Refuses { status, with } => {
                assert_eq!(device.resubmit(heads[0], &mut chain), Err(with), "{}", case.name);
                assert!(chain.readable().is_empty() && !device.is_broken(), "{}", case.name);
                let writable: Vec<_> = status.map(|at| (at, 1)).into_iter().collect();
                assert_eq!(as_guest(&mem, chain.writable()), writable, "{}", case.name);
                assert_eq!((chain.head(), device.in_flight()), (heads[0], 1), "{}", case.name);
                assert_eq!(device.pop(&mut chain), Ok(false), "{}: it is not popped again", case.name);
                refused += 1;
            }
            Expect::Serves(readable, writable) => {
                assert_eq!(device.resubmit(heads[0], &mut chain), Ok(()), "{}", case.name);
                assert_eq!(as_guest(&mem, chain.readable()), readable, "{}", case.name);
                assert_eq!(as_guest(&mem, chain.writable()), writable, "{}", case.name);
                assert_eq!((chain.head(), device.in_flight()), (heads[0], 1), "{}", case.name);
                assert_eq!(device.pop(&mut chain), Ok(false), "{}: it is not popped again", case.name);
            }
        }
        assert_eq!(device.next_avail(), popped, "{}: the avail ring is left alone", case.name);
        assert_eq!(changed(&before, &snapshot(&mem)), NOTHING, "{}", case.name);
    }
    assert!(breaking > 5 && refused > 20, "{breaking} and {refused} cases");
}

#[test]
fn what_is_resubmitted_is_answered_beside_what_is_popped() {
    let ram = three_regions();
    let config = QueueConfig::at(GuestAddress(RINGS), 8);
    let mut driver = DriverQueue::starting_at(ram.map().unwrap(), config, 65534).unwrap();
    let mut former = DeviceQueue::resume(ram.memory().clone(), config, 65534, 65534).unwrap();
    let heads: Vec<u16> =
        (0..5).map(|at| driver.add(&[], &[(GuestAddress(0x8000 + at * 64), 4)]).unwrap().unwrap()).collect();
    let _ = driver.publish();
    // The previous device pops four, completes the third, and ends.
    for head in &heads[..4] {
        assert_eq!(pop_one(&mut former).head(), *head);
    }
    former.push(heads[2], 4).unwrap();
    let _ = former.publish();
    drop(former);

    let fresh = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let used_idx = fresh.used_idx_in_ring();
    assert_eq!(used_idx, 65535);
    let in_flight = [heads[0], heads[1], heads[3]];
    let mut device =
        DeviceQueue::resume(ram.memory().clone(), config, used_idx.wrapping_add(3), used_idx).unwrap();
    let mut chain = device.new_chain();
    let mut taken = Vec::new();
    for head in in_flight {
        assert_eq!(device.resubmit(head, &mut chain), Ok(()));
        taken.push((chain.head(), as_guest(ram.memory(), chain.writable())[0].0));
    }
    assert!(device.pop(&mut chain).unwrap());
    taken.push((chain.head(), as_guest(ram.memory(), chain.writable())[0].0));
    assert_eq!(device.pop(&mut chain), Ok(false));
    let expected: Vec<_> = [0, 1, 3, 4_u64].map(|at| (heads[at as usize], 0x8000 + at * 64)).to_vec();
    assert_eq!(taken, expected);
    for &(head, _) in taken.iter().rev() {
        device.push(head, 4).unwrap();
    }
    assert!(device.publish());
    assert_eq!((device.next_avail(), device.next_used(), device.used_idx_in_ring()), (3, 3, 3));
    let answered: Vec<u16> =
        std::iter::from_fn(|| driver.pop_used().unwrap()).map(|(head, _)| head).collect();
    assert_eq!(answered, [heads[2], heads[4], heads[3], heads[1], heads[0]]);
    assert_eq!(driver.in_flight(), 0);
}

#[test]
fn a_head_is_in_flight_once_whether_popped_or_resubmitted() {
    let ram = three_regions();
    let config = QueueConfig::at(GuestAddress(RINGS), 8);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let head = driver.add(&[], &[(GuestAddress(0x8000), 4)]).unwrap().unwrap();
    let _ = driver.publish();
    let twice = Err(QueueError::HeadInFlight { head });

    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let mut chain = pop_one(&mut device);
    assert_eq!(device.resubmit(head, &mut chain), twice);

    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    assert_eq!(device.resubmit(head, &mut chain), Ok(()));
    assert_eq!(device.pop(&mut chain), twice.map(|()| true));

    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    for out in [8, u16::MAX] {
        let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
        assert_eq!(device.resubmit(out, &mut chain), Err(QueueError::HeadOutOfRange { head: out, size: 8 }));
    }
    // A completed head may be made available again.
    assert_eq!(device.resubmit(head, &mut chain), Ok(()));
    assert_eq!(device.push(head, 0), Ok(()));
    assert_eq!(device.resubmit(head, &mut chain), Ok(()));
}
