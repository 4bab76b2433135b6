//! Callbacks of a device that moves, made by its `Home`.

use crate::setup::Setup;
use crate::support::{settle, turn_until};
use aio::{AioContext, Home, Hosted, Interest, Movable, Registration};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};

/// A device with a socket, and with work that takes until it is let go.
struct Device {
    socket: UnixStream,
    work: Mutex<Option<mpsc::Receiver<u32>>>,
    seen: mpsc::Sender<u32>,
}

thread_local! {
    /// The home of the device, for the test.
    static HOME: RefCell<Option<Home<Device>>> = const { RefCell::new(None) };
}

impl Movable for Device {
    type Attached = Registration;

    fn attach(&self, ctx: &AioContext, home: &Home<Self>) -> io::Result<Registration> {
        HOME.replace(Some(home.clone()));
        if let Some(work) = self.work.lock().unwrap().take() {
            let done = home.completion(|device, _, result: Result<u32, _>| {
                device.seen.send(result.unwrap()).unwrap();
            });
            ctx.spawn_blocking(move || work.recv().unwrap(), done)?;
        }
        let heard = home.fd_callback(|device, _, ready| {
            assert!(ready.is_readable());
            let mut byte = [0];
            device
                .seen
                .send(if (&device.socket).read(&mut byte).unwrap() == 1 { byte[0].into() } else { 0 })
                .unwrap();
        });
        Ok(ctx.add_borrowed_fd(&self.socket, Interest::READABLE, heard)?)
    }
}

fn device() -> (Device, UnixStream, mpsc::Sender<u32>, mpsc::Receiver<u32>) {
    let (socket, peer) = UnixStream::pair().unwrap();
    let ((let_go, work), (seen, heard)) = (mpsc::channel(), mpsc::channel());
    (Device { socket, work: Mutex::new(Some(work)), seen }, peer, let_go, heard)
}

pub(crate) fn a_descriptor_calls_the_device(setup: &Setup) {
    let (first, second) = (setup.context(), setup.context());
    let (device, mut peer, let_go, heard) = device();
    *device.work.lock().unwrap() = None;
    drop(let_go);
    let hosted = Hosted::new(device);
    hosted.attach(&first).unwrap();
    peer.write_all(&[7]).unwrap();
    let mut got = None;
    turn_until(&first, || {
        got = heard.try_recv().ok();
        got.is_some()
    });
    assert_eq!(got, Some(7));
    hosted.move_to(&second.handle());
    settle(&first);
    turn_until(&second, || hosted.is_on(&second.handle()));
    peer.write_all(&[8]).unwrap();
    turn_until(&second, || {
        got = heard.try_recv().ok();
        got.is_some()
    });
    assert_eq!(got, Some(8));
}

pub(crate) fn a_completion_keeps_the_device(setup: &Setup) {
    let (first, second) = (setup.context(), setup.context());
    let (device, _peer, let_go, heard) = device();
    let hosted = Hosted::new(device);
    hosted.attach(&first).unwrap();
    hosted.move_to(&second.handle());
    settle(&first);
    settle(&second);
    assert!(hosted.is_on(&first.handle()), "the work is not done");
    let_go.send(42).unwrap();
    let mut got = None;
    turn_until(&first, || {
        got = heard.try_recv().ok();
        got.is_some()
    });
    assert_eq!(got, Some(42), "on the loop where it began");
    settle(&first);
    turn_until(&second, || hosted.is_on(&second.handle()));
    // A device that is not there begins nothing.
    let gone = HOME.take().unwrap();
    drop((hosted, first));
    settle(&second);
    assert!(gone.stay().is_none());
    gone.completion(|_, _, ()| unreachable!("it is gone"))(&second, ());
}
