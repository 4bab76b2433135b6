//! A device written for vhost-user-backend, on the server and the loops of this crate.

mod device;
mod listeners;
mod memory;
mod negotiation;
#[path = "../devices/rig.rs"]
#[expect(dead_code, reason = "the rig of other tests, too")]
mod rig;
mod rings;
#[path = "../support/vring.rs"]
mod vring;

use std::any::Any;
use std::sync::Arc;

use aio::AioContext;
use device::Echo;
use rig::TestServer;
use virtio_blk_sim::hosted::Hosted;
use virtio_blk_sim::vhost_user::Served;

/// The device as it is served. The tests keep a reference to the inner one.
type Device = Hosted<Arc<Echo>>;

fn hosted(echo: Echo) -> (Arc<Echo>, Device) {
    let echo = Arc::new(echo);
    let device = Hosted::new("echo", Arc::clone(&echo)).unwrap();
    (echo, device)
}

/// Serves a device of so many queues in one group, on the server's own loop.
fn serve(queues: usize) -> (Arc<Echo>, TestServer) {
    let (echo, device) = hosted(Echo::new(queues, &[u64::MAX]));
    (echo, TestServer::new(Served::new(device), 0, nothing))
}

fn nothing(_: &AioContext) -> Box<dyn Any> {
    Box::new(())
}
