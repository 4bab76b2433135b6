//! Tests the entropy device of `examples/vhost-user-rng.rs` on its queue: a device that implements
//! the traits `Device` and `Handled`. Besides what `device` checks, each chain is filled as far as
//! the device promises.

use arbitrary::{Arbitrary, Unstructured};

use crate::descriptors::Descriptors;
use crate::device::{Options, Rig, Step};
use crate::guest::Guest;
use crate::rng_device::{MAX_BYTES, Rng};

#[derive(Debug, Arbitrary)]
struct Input {
    options: Options,
    steps: Vec<Step>,
}

/// Runs the input in `data`.
pub(crate) fn run(data: &[u8]) {
    // Ignore data that is too short for an input.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    // Its memory stays mapped for the next input.
    drop(Guest::new(0));
    let before = Descriptors::open_now();
    let mut rig = Rig::new(Rng, &input.options);
    for step in input.steps {
        rig.step(step, |_, bytes| bytes.fill(0x11));
        take(&mut rig);
    }
    rig.settle_all();
    take(&mut rig);
    assert!(rig.is_hostile() || rig.unanswered(0) == 0, "a chain was not answered");
    rig.stop();
    drop(rig);
    before.assert_no_others();
}

fn take(rig: &mut Rig<Rng>) {
    let hostile = rig.is_hostile();
    for answer in rig.take(0) {
        assert!(hostile || answer.received.len() == answer.room.min(MAX_BYTES), "a part was not filled");
    }
}
