//! A device that, while one of its rings is asked, does what it may do anywhere: it turns the loop,
//! and ends what the ring belongs to.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aio::{AioContext, IoThread, LocalHandle};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::queue::{Interrupt, QueueStats};
use virtio_blk_sim::vhost_user::{
    Frontend, Loops, RingDevice, RingOrder, RunningRing, Served, Server, Stopping,
};
use virtio_blk_sim::virtqueue::DirtyPages;

use super::client::{Client, ClientOptions};
use super::{SECTORS, Watchdog, default_options, driver, exercise};

type Act = Box<dyn FnOnce(&AioContext)>;

thread_local! {
    /// What the next call of a ring of this thread does first.
    static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
}

/// A disk whose rings do that.
struct Acting(Arc<Disk>, Arc<()>);

struct Ring {
    ring: Box<dyn RunningRing>,
    context: LocalHandle,
    /// Held by each ring that exists.
    _exists: Arc<()>,
}

fn act(context: &AioContext) {
    if let Some(act) = ACT.take() {
        act(context);
    }
}

impl RunningRing for Ring {
    fn set_interrupt(&self, interrupt: Interrupt) {
        act(&self.context);
        self.ring.set_interrupt(interrupt);
    }

    fn set_dirty_log(&self, pages: Option<DirtyPages>) {
        act(&self.context);
        self.ring.set_dirty_log(pages);
    }

    fn stats(&self) -> QueueStats {
        act(&self.context);
        self.ring.stats()
    }

    fn stop(self: Box<Self>, context: &AioContext) -> Stopping {
        let Self { ring, _exists, .. } = *self;
        let stopping = ring.stop(context);
        Box::pin(async move {
            let _exists = _exists;
            stopping.await
        })
    }
}

impl RingDevice for Acting {
    fn name(&self) -> &str {
        "acting"
    }

    fn queues(&self) -> u16 {
        1
    }

    fn offered(&self) -> u64 {
        RingDevice::offered(&*self.0)
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        RingDevice::check_features(&*self.0, driver)
    }

    fn negotiate(&self, driver: u64) {
        RingDevice::negotiate(&*self.0, driver);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        RingDevice::read_config(&*self.0, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        RingDevice::write_config(&*self.0, offset, data)
    }

    fn reset(&self) {}

    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        let ring = Arc::clone(&self.0).start_ring(index, order, context)?;
        Ok(Box::new(Ring { ring, context: context.local_handle(), _exists: Arc::clone(&self.1) }))
    }
}

/// A server on this thread with a frontend whose only queue runs, on the loop of `thread` if there
/// is one. What the frontend does next is `then`.
struct Rig {
    context: AioContext,
    server: Rc<Server<Acting>>,
    exists: Arc<()>,
    thread: Option<Arc<IoThread>>,
}

impl Rig {
    fn new(elsewhere: bool) -> Self {
        let context = AioContext::new().unwrap();
        let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
        let disk = Arc::new(Disk::new(device, Backend::memory(SECTORS).unwrap()));
        let exists = Arc::new(());
        let thread = elsewhere.then(|| Arc::new(IoThread::spawn("q", AioContext::builder()).unwrap()));
        let loops = Loops::on(thread.clone(), Vec::new()).unwrap();
        let server = Server::new(Served::new(Acting(disk, Arc::clone(&exists))), loops);
        Self { context, server, exists, thread }
    }

    /// Serves a frontend in a thread until its queue runs. Then it does `then`.
    fn start<R: Send + 'static>(
        &self,
        then: impl FnOnce(&mut Client) -> R + Send + 'static,
    ) -> std::thread::JoinHandle<R> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        self.server.serve(&self.context, theirs).unwrap();
        let (running, is_running) = channel();
        let frontend = std::thread::spawn(move || {
            let options = default_options();
            let frontend = Frontend::from_stream(ours, options.timeout);
            let mut client = Client::over(frontend, ClientOptions { queues: 1, ..options }).unwrap();
            let mut driver = driver(&mut client, 0);
            exercise(&mut driver, 20);
            running.send(()).unwrap();
            then(&mut client)
        });
        while is_running.try_recv().is_err() {
            self.context.poll(false).unwrap();
        }
        frontend
    }

    /// Sets what the next call of the ring does, in its thread.
    fn act(&self, act: impl FnOnce(&AioContext) + Send + 'static) {
        let set = move |_: &AioContext| ACT.set(Some(Box::new(act)));
        match &self.thread {
            Some(thread) => thread.run(set).unwrap(),
            None => set(&self.context),
        }
    }

    fn rings(&self) -> usize {
        // The device and this rig have it, too.
        Arc::strong_count(&self.exists) - 2
    }

    fn turn_until(&self, done: impl Fn() -> bool) {
        while !done() {
            self.context.poll(false).unwrap();
        }
    }
}

/// The ring stays until the call returns, and is gone then.
#[test]
fn a_session_that_is_abandoned_while_a_ring_is_asked_ends() {
    let _watchdog = Watchdog::new("a_session_that_is_abandoned_while_a_ring_is_asked_ends");
    let rig = Rig::new(false);
    let (end, ended) = channel::<()>();
    let frontend = rig.start(move |_| _ = ended.recv());
    assert_eq!(rig.rings(), 1);
    let (server, exists) = (Rc::clone(&rig.server), Arc::clone(&rig.exists));
    ACT.set(Some(Box::new(move |_| {
        server.abandon();
        assert_eq!(Arc::strong_count(&exists), 4, "the ring is gone while it is asked");
    })));
    assert_eq!(rig.server.stats().len(), 1);
    assert!(ACT.take().is_none(), "the ring was not asked");
    assert_eq!(rig.rings(), 0);
    rig.turn_until(|| !rig.server.is_connected());
    drop(end);
    frontend.join().unwrap();
}

/// A stop that is asked for while a ring is asked is carried out after that.
#[test]
fn a_ring_that_is_stopped_while_it_is_asked_stops_afterwards() {
    let _watchdog = Watchdog::new("a_ring_that_is_stopped_while_it_is_asked_stops_afterwards");
    for elsewhere in [false, true] {
        let rig = Rig::new(elsewhere);
        let (stop, stopping) = channel::<()>();
        let (tell, told) = channel();
        let frontend = rig.start(move |client| {
            stopping.recv().unwrap();
            let stopped = client.stop(0);
            tell.send(()).unwrap();
            // The ring can start again where it was.
            stopped.and_then(|_| client.start(0))
        });
        rig.act(move |context| {
            stop.send(()).unwrap();
            // The request to stop arrives in these turns.
            for _ in 0..200 {
                context.poll(false).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        rig.context.block_on(rig.server.query_stats()).unwrap();
        rig.turn_until(|| told.try_recv().is_ok());
        rig.turn_until(|| frontend.is_finished());
        frontend.join().unwrap().expect("the ring stops and starts");
        rig.context.block_on(rig.server.disconnect()).unwrap();
        if let Some(thread) = &rig.thread {
            assert!(thread.is_alive(), "the loop has ended");
        }
        assert_eq!(rig.rings(), 0, "elsewhere: {elsewhere}");
    }
}

/// The same if nobody waits for its end.
#[test]
fn a_ring_that_is_dropped_while_it_is_asked_ends_afterwards() {
    let _watchdog = Watchdog::new("a_ring_that_is_dropped_while_it_is_asked_ends_afterwards");
    let rig = Rig::new(true);
    let (end, ended) = channel::<()>();
    let frontend = rig.start(move |_| _ = ended.recv());
    let thread = rig.thread.clone().unwrap();
    let (asked, is_asked) = channel();
    let (abandoned, is_abandoned) = channel::<()>();
    rig.act(move |context| {
        asked.send(()).unwrap();
        is_abandoned.recv().unwrap();
        (0..20).for_each(|_| _ = context.poll(false).unwrap());
    });
    let (server, context) = (Rc::clone(&rig.server), rig.context.local_handle());
    let statistics = context.spawn(async move { server.query_stats().await.len() });
    rig.turn_until(|| is_asked.try_recv().is_ok());
    rig.server.abandon();
    abandoned.send(()).unwrap();
    assert_eq!(rig.context.block_on(statistics).unwrap().unwrap(), 1);
    thread.run(|_| ()).expect("the loop goes on");
    rig.turn_until(|| !rig.server.is_connected());
    assert_eq!(rig.rings(), 0);
    drop(end);
    frontend.join().unwrap();
}
