//! A device that panics in the task of its frontend: the panic leaves the loop, and the server is
//! free for the next frontend.

use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::{AioContext, IoThread};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::queue::QueueStats;
use virtio_blk_sim::vhost_user::{
    Frontend, Loops, MemoryTable, RingDevice, RingOrder, RunningRing, Served, Server, Stopping,
};
use virtio_blk_sim::virtqueue::DirtyPages;

use super::client::{Client, ClientOptions};
use super::{SECTORS, Watchdog, default_options, exercise};

const BEGIN: usize = 1;
const NEGOTIATE: usize = 2;
const MEMORY: usize = 3;
const START: usize = 4;
const STOP: usize = 5;
const STOPPING: usize = 6;
const IDLE: usize = 7;
const END: usize = 8;

struct Panicking {
    disk: Arc<Disk>,
    /// The method that panics next.
    next: Arc<AtomicUsize>,
    counts: Arc<Counts>,
    /// Held by each ring, too.
    exists: Arc<()>,
}

/// What the server has called.
#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Rings that were there when a session ended.
    left: AtomicUsize,
}

fn panic_if(next: &AtomicUsize, method: usize) {
    if next.compare_exchange(method, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        panic!("method {method}");
    }
}

struct Ring(Box<dyn RunningRing>, Arc<AtomicUsize>, Arc<()>);

impl RunningRing for Ring {
    fn set_interrupt(&self, interrupt: virtio_blk_sim::queue::Interrupt) {
        self.0.set_interrupt(interrupt);
    }

    fn set_dirty_log(&self, pages: Option<DirtyPages>) {
        self.0.set_dirty_log(pages);
    }

    fn stats(&self) -> QueueStats {
        self.0.stats()
    }

    fn stop(self: Box<Self>, context: &AioContext) -> Stopping {
        let Self(ring, next, exists) = *self;
        panic_if(&next, STOP);
        let stopping = ring.stop(context);
        Box::pin(async move {
            let _exists = exists;
            panic_if(&next, STOPPING);
            stopping.await
        })
    }
}

impl RingDevice for Panicking {
    fn name(&self) -> &str {
        "panicking"
    }

    fn queues(&self) -> u16 {
        1
    }

    fn offered(&self) -> u64 {
        RingDevice::offered(&*self.disk)
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        RingDevice::check_features(&*self.disk, driver)
    }

    fn negotiate(&self, driver: u64) {
        panic_if(&self.next, NEGOTIATE);
        RingDevice::negotiate(&*self.disk, driver);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        RingDevice::read_config(&*self.disk, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        RingDevice::write_config(&*self.disk, offset, data)
    }

    fn begin_session(&self) {
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        panic_if(&self.next, BEGIN);
        self.disk.begin_session();
    }

    fn idle(&self) {
        panic_if(&self.next, IDLE);
    }

    fn end_session(&self) {
        self.counts.ended.fetch_add(1, Ordering::SeqCst);
        // The device itself has one.
        self.counts.left.fetch_add(Arc::strong_count(&self.exists) - 1, Ordering::SeqCst);
        panic_if(&self.next, END);
        self.disk.end_session();
    }

    fn reset(&self) {}

    fn set_memory(&self, _: &MemoryTable) -> io::Result<()> {
        panic_if(&self.next, MEMORY);
        Ok(())
    }

    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        panic_if(&self.next, START);
        let ring = Arc::clone(&self.disk).start_ring(index, order, context)?;
        Ok(Box::new(Ring(ring, Arc::clone(&self.next), Arc::clone(&self.exists))))
    }
}

/// What a frontend does from its connection to its end.
fn whole_session(stream: std::os::unix::net::UnixStream) -> Result<(), Box<dyn Error>> {
    let options = default_options();
    let frontend = Frontend::from_stream(stream, options.timeout);
    let mut client = Client::over(frontend, ClientOptions { queues: 1, ..options })?;
    let mut driver = virtio_blk_sim::guest::BlkDriver::new(client.ports(0)?, super::DEPTH, super::BLOCK)?;
    client.start(0)?;
    exercise(&mut driver, 20);
    client.stop(0)?;
    Ok(())
}

#[test]
fn after_a_panic_of_the_device_the_server_is_free() {
    let _watchdog = Watchdog::new("after_a_panic_of_the_device_the_server_is_free");
    for elsewhere in [false, true] {
        let context = AioContext::new().unwrap();
        let next = Arc::new(AtomicUsize::new(0));
        let disk = Arc::new(Disk::new(
            BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap(),
            Backend::memory(SECTORS).unwrap(),
        ));
        let of_loops = elsewhere.then(|| Arc::new(IoThread::spawn("q", AioContext::builder()).unwrap()));
        let loops = Loops::on(of_loops, Vec::new()).unwrap();
        let counts = Arc::new(Counts::default());
        let of_device = Arc::clone(&counts);
        let device = Panicking { disk, next: Arc::clone(&next), counts: of_device, exists: Arc::default() };
        let server = Server::new(Served::new(device), loops);
        for method in BEGIN..=END {
            // In another loop these end that loop, and not this one.
            if elsewhere && [START, STOP].contains(&method) {
                continue;
            }
            for panics in [method, 0] {
                println!("method {method}, panics: {panics}, elsewhere: {elsewhere}");
                next.store(panics, Ordering::SeqCst);
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                server.serve(&context, theirs).unwrap();
                let frontend = std::thread::spawn(move || whole_session(ours).map_err(|why| why.to_string()));
                let mut unwound = false;
                while server.is_connected() {
                    unwound |= catch_unwind(AssertUnwindSafe(|| context.poll(true))).is_err();
                }
                let of_other_loop = elsewhere && method == STOPPING;
                assert_eq!(unwound, panics != 0 && !of_other_loop);
                let outcome = frontend.join().unwrap();
                assert_eq!(outcome.is_ok(), panics == 0 || panics == END, "{outcome:?}");
                assert_eq!(next.load(Ordering::SeqCst), 0);
                context.block_on(server.disconnect()).unwrap();
                // Whatever has panicked, the session has ended, and when its rings had.
                let [begun, ended, left] = [&counts.begun, &counts.ended, &counts.left];
                let [begun, ended, left] = [begun, ended, left].map(|count| count.swap(0, Ordering::SeqCst));
                assert_eq!((begun, ended, left), (1, 1, 0));
            }
        }
    }
}

/// The same if the loop of the server ends, with a ring that runs there or elsewhere.
#[test]
fn a_session_ends_with_the_loop_of_its_server() {
    let _watchdog = Watchdog::new("a_session_ends_with_the_loop_of_its_server");
    let context = AioContext::new().unwrap();
    let disk = Arc::new(Disk::new(
        BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap(),
        Backend::memory(SECTORS).unwrap(),
    ));
    let counts = Arc::new(Counts::default());
    let (next, of_device) = (Arc::default(), Arc::clone(&counts));
    let device = Panicking { disk, next, counts: of_device, exists: Arc::default() };
    let server = Server::new(Served::new(device), Loops::own());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    server.serve(&context, theirs).unwrap();
    let (running, is_running) = std::sync::mpsc::channel();
    let frontend = std::thread::spawn(move || {
        let options = default_options();
        let frontend = Frontend::from_stream(ours, options.timeout);
        let mut client = Client::over(frontend, ClientOptions { queues: 1, ..options }).unwrap();
        let mut driver = super::driver(&mut client, 0);
        exercise(&mut driver, 20);
        running.send(()).unwrap();
        // Until the server hangs up.
        let _ = client.frontend().receive_raw();
    });
    while is_running.try_recv().is_err() {
        context.poll(false).unwrap();
    }
    drop(context);
    let Counts { begun, ended, left } = &*counts;
    assert_eq!([begun, ended, left].map(|count| count.load(Ordering::SeqCst)), [1, 1, 0]);
    assert!(!server.is_connected());
    frontend.join().unwrap();
}
