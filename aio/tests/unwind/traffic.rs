//! What is at work in the loop of a cell besides the source whose hook panics: reads that the
//! kernel holds, a doorbell, a descriptor, a timer and a bottom half.

use crate::bomb::{Ended, Ledger, Owned, Value, ended};
use crate::bystander::Bystander;
use aio::{
    AioContext, BottomHalf, EventNotifier, Interest, NotifierRegistration, Registration, Reset, Timer,
};
use std::cell::Cell;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The size of every buffer in flight.
const BUFFER: usize = 4096;

/// What arrives in the pipes.
const BYTE: u8 = b'K';

#[derive(Clone, Default)]
struct Count(Rc<Cell<u32>>);

impl Count {
    fn bump(&self) {
        self.0.set(self.0.get() + 1);
    }

    /// A callback that counts, with a captured value.
    fn callback(&self, capture: Value) -> impl Fn(&AioContext) + 'static {
        let count = self.clone();
        move |_| {
            let _ = &capture;
            count.bump();
        }
    }
}

/// The other ends of the pipes of the reads in flight, kept beyond the context.
#[derive(Clone, Default)]
pub(crate) struct Writers(Arc<std::sync::Mutex<Vec<Arc<PipeWriter>>>>);

impl Writers {
    fn add(&self, writer: &Arc<PipeWriter>) {
        self.0.lock().expect("nothing panics with it").push(Arc::clone(writer));
    }

    /// Writes to every pipe as much as a read in flight would take. A pipe without a reader refuses
    /// it; if one does not, the kernel still has the read, and gets some time to do it.
    pub(crate) fn give_the_kernel_its_chance(&self) {
        let mut held = false;
        for writer in &*self.0.lock().expect("nothing panics with it") {
            held |= (&**writer).write(&[BYTE; BUFFER]).is_ok();
        }
        if held {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(crate) struct Traffic {
    ledger: Ledger,
    bell: EventNotifier,
    on_bell: NotifierRegistration,
    rings: Count,
    stream: Rc<PipeReader>,
    into_stream: PipeWriter,
    on_stream: Registration,
    heard: Count,
    timer: Timer,
    expired: Count,
    half: BottomHalf,
    ran: Count,
    /// A read that is to complete before the context is dropped.
    first: Option<Arc<PipeWriter>>,
    read: Count,
    bystander: Rc<Bystander>,
    on_bystander: NotifierRegistration,
    bystanders_bell: EventNotifier,
}

/// The peer of a read: sends its data when the callback of the read is dropped. An operation drops
/// its buffer before its callback, so data that the kernel still takes goes to freed memory.
struct Peer {
    writer: Arc<PipeWriter>,
    _capture: Value,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Refused if the reading end is closed, as it should be by now.
        let _ = (&*self.writer).write(&[BYTE; BUFFER]);
    }
}

fn read_in_flight(
    ctx: &AioContext,
    ledger: &Ledger,
    writers: &Writers,
    done: &Count,
) -> io::Result<Arc<PipeWriter>> {
    let (reader, writer) = io::pipe()?;
    let writer = Arc::new(writer);
    writers.add(&writer);
    let file = Owned::new(ledger, reader, &writer, ledger.witness("the file of a read in flight"));
    let capture = ledger.witness("the capture of a read in flight");
    let (peer, done) = (Peer { writer: Arc::clone(&writer), _capture: capture }, done.clone());
    ctx.read_at(file, vec![0; BUFFER], u64::MAX, move |_, result, _, buffer| {
        let _peer = peer;
        assert_eq!(result.expect("a read"), BUFFER);
        assert!(buffer.iter().all(|byte| *byte == BYTE), "the buffer is not what was written");
        done.bump();
    })?;
    Ok(writer)
}

impl Traffic {
    pub(crate) fn new(
        ctx: &AioContext,
        ledger: &Ledger,
        writers: &Writers,
        reset: Reset,
    ) -> io::Result<Self> {
        let [rings, heard, expired, ran, read] = [(); 5].map(|()| Count::default());
        let bell = EventNotifier::new(reset)?;
        let on_bell =
            ctx.add_notifier(&bell, rings.callback(ledger.witness("the capture of another doorbell")))?;
        let (stream, into_stream) = io::pipe()?;
        let stream = Rc::new(stream);
        let on_stream = ctx.add_borrowed_fd(&stream, Interest::READABLE, {
            let (stream, heard) = (Rc::clone(&stream), heard.clone());
            let capture = ledger.witness("the capture of another fd handler");
            move |_, _| {
                let _ = &capture;
                let _ = (&*stream).read(&mut [0]);
                heard.bump();
            }
        })?;
        let timer = ctx.timer(expired.callback(ledger.witness("the capture of another timer")));
        let half = ctx.bottom_half(ran.callback(ledger.witness("the capture of another bottom half")));
        let bystander = Rc::new(Bystander::new(ledger.witness("another device")));
        let bystanders_bell = EventNotifier::new(reset)?;
        let on_bystander = ctx.add_polled_notifier(&bystanders_bell, Rc::clone(&bystander))?;
        let has_ring = ctx.monitor().ring.is_some();
        let first = has_ring.then(|| read_in_flight(ctx, ledger, writers, &read)).transpose()?;
        if has_ring {
            // Stays in flight until the context is dropped.
            read_in_flight(ctx, ledger, writers, &read)?;
        }
        // An event of the bystander, so that it is polled where busy polling is on.
        bystanders_bell.notify()?;
        let this = Self {
            ledger: ledger.clone(),
            bell,
            on_bell,
            rings,
            stream,
            into_stream,
            on_stream,
            heard,
            timer,
            expired,
            half,
            ran,
            first,
            read,
            bystander,
            on_bystander,
            bystanders_bell,
        };
        for _ in 0..100 {
            ctx.poll(false)?;
            if this.bystander.calls() != 0 {
                break;
            }
        }
        settle(ctx)?;
        Ok(this)
    }

    /// What does not work any more in a context that should still be usable.
    pub(crate) fn complaints(&self, ctx: &AioContext, reset: Reset) -> Vec<String> {
        let mut complaints = Vec::new();
        match ended(|| complaints = self.try_everything(ctx, reset).expect("system calls")) {
            Ended::Returned => {}
            other => complaints.push(format!("using the context afterwards: {other:?}")),
        }
        complaints
    }

    fn try_everything(&self, ctx: &AioContext, reset: Reset) -> io::Result<Vec<String>> {
        let fresh = EventNotifier::new(reset)?;
        let [deferred, fresh_rings, late] = [(); 3].map(|()| Count::default());
        let on_fresh = ctx.add_notifier(
            &fresh,
            fresh_rings.callback(self.ledger.witness("the capture of a new doorbell")),
        )?;
        let scheduled = Arc::new(AtomicU32::new(0));
        let mut expected: Vec<(&str, &Count, u32)> = vec![
            ("a doorbell", &self.rings, self.rings.0.get() + 1),
            ("a new doorbell", &fresh_rings, 1),
            ("an fd handler", &self.heard, self.heard.0.get() + 1),
            ("a timer", &self.expired, self.expired.0.get() + 1),
            ("a bottom half", &self.ran, self.ran.0.get() + 1),
            ("a deferred closure", &deferred, 1),
        ];
        self.bell.notify()?;
        fresh.notify()?;
        (&self.into_stream).write_all(b"x")?;
        self.timer.arm_at(0);
        self.half.schedule();
        let capture = self.ledger.witness("the capture of a later deferred closure");
        let run = deferred.callback(capture);
        ctx.defer(move |ctx| run(ctx));
        let (count, capture) =
            (Arc::clone(&scheduled), self.ledger.witness("the capture of a later scheduled closure"));
        ctx.handle().schedule(move |_| {
            let _capture = capture;
            count.fetch_add(1, Ordering::SeqCst);
        });
        let writers = Writers::default();
        if let Some(first) = &self.first {
            (&**first).write_all(&[BYTE; BUFFER])?;
            expected.push(("the read in flight", &self.read, self.read.0.get() + 1));
            let writer = read_in_flight(ctx, &self.ledger, &writers, &late)?;
            (&*writer).write_all(&[BYTE; BUFFER])?;
            expected.push(("a new operation", &late, 1));
        }
        let is_done = || {
            expected.iter().all(|(_, count, expected)| count.0.get() >= *expected)
                && scheduled.load(Ordering::SeqCst) == 1
        };
        let alarm = ctx.timer(|_| ());
        let deadline = Instant::now() + Duration::from_secs(2);
        while !is_done() && Instant::now() < deadline {
            alarm.arm_after(Duration::from_micros(200));
            ctx.poll(true)?;
        }
        let mut complaints: Vec<_> = expected
            .iter()
            .filter(|(_, count, expected)| count.0.get() < *expected)
            .map(|(name, ..)| format!("{name} does not work afterwards"))
            .collect();
        if scheduled.load(Ordering::SeqCst) != 1 {
            complaints.push("a scheduled closure does not run afterwards".to_owned());
        }
        drop(on_fresh);
        Ok(complaints)
    }

    /// What should be so, and is not, after the context has been dropped.
    pub(crate) fn complaints_after_the_drop(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        complaints.extend(self.bystander.complaint());
        if self.on_stream.is_live() || self.on_bell_is_live() {
            complaints.push("a registration outlives the context".to_owned());
        }
        // The ring read of a doorbell would take this, and fill a count that has been freed.
        let rung = self.bell.notify().and_then(|()| self.bell.test_and_clear());
        if !matches!(rung, Ok(true)) {
            complaints.push(format!("a ring after the drop was taken by somebody: {rung:?}"));
        }
        complaints
    }

    fn on_bell_is_live(&self) -> bool {
        // A notifier's registration does not tell, so the device's count of references does.
        let _ = (&self.on_bell, &self.on_bystander, &self.bystanders_bell, &self.stream);
        Rc::strong_count(&self.bystander) != 1
    }
}

/// Turns until nothing is left to do, so that all of it is in the kernel.
pub(crate) fn settle(ctx: &AioContext) -> io::Result<()> {
    let mut quiet = 0;
    for _ in 0..1000 {
        quiet = if ctx.poll(false)? { 0 } else { quiet + 1 };
        if quiet == 3 {
            return Ok(());
        }
    }
    Err(io::Error::other("the loop does not come to rest"))
}
