//! Asks the loops and makes the text.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aio::{AioContext, Clock, IoThread, LocalHandle, RemoteJoinHandle, Stats};

use super::families::{DiskView, Document, LoopView, QueueView};
use super::figures::{Figures, Frontends};
use super::meter::{Meters, QueueMeter};
use super::recorder::{Look, look};
use crate::waiters::Waiters;

/// How long one text may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Texts begin at least this far apart, however many clients ask: what a scraper can cost.
const APART: Duration = Duration::from_millis(100);

/// Makes the text of all metrics. It knows the disks and the loops of a program. Home thread of the
/// loop that it was made with.
pub struct Exporter {
    context: LocalHandle,
    loops: RefCell<Vec<Asked>>,
    disks: RefCell<BTreeMap<String, Disk>>,
    /// The last figures of each queue by the id of its meter. A text never shows less than the one
    /// before.
    shown: Arc<Mutex<BTreeMap<u64, Figures>>>,
    /// A text is being made.
    is_busy: Cell<bool>,
    /// When the last text was begun, and how many were begun.
    begun: Cell<(Option<u64>, u64)>,
    /// The last text, and its number.
    text: RefCell<Option<(u64, Arc<str>)>>,
    waiting: Waiters,
}

struct Disk {
    meters: Meters,
    frontends: Rc<dyn Fn() -> Frontends>,
}

/// A loop in another thread.
struct Asked {
    thread: Arc<IoThread>,
    /// A question that was not answered in time. It is not asked again until it is answered.
    open: Option<RemoteJoinHandle<Look>>,
    /// The last counters of the loop.
    stats: Option<Stats>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("disks", &self.disks.borrow().len()).finish_non_exhaustive()
    }
}

impl Exporter {
    /// An exporter without disks, which knows this loop. The value of its label `loop` is `main`.
    pub fn new(context: &AioContext) -> Rc<Self> {
        Rc::new(Self {
            context: context.local_handle(),
            loops: RefCell::default(),
            disks: RefCell::default(),
            shown: Arc::default(),
            is_busy: Cell::new(false),
            begun: Cell::new((None, 0)),
            text: RefCell::default(),
            waiting: Waiters::default(),
        })
    }

    /// Adds a loop that queues of the disks run on. The value of its label `loop` is the name of
    /// the thread. A thread that is known already is not added again.
    pub fn add_loop(&self, thread: &Arc<IoThread>) {
        let mut loops = self.loops.borrow_mut();
        if !loops.iter().any(|known| Arc::ptr_eq(&known.thread, thread)) {
            loops.push(Asked { thread: Arc::clone(thread), open: None, stats: None });
        }
    }

    /// Adds a disk. `name` is the value of its label `disk`; a disk of this name that was added
    /// before is replaced. `frontends` is asked for each text, in this thread.
    pub fn add_disk(&self, name: &str, meters: &Meters, frontends: impl Fn() -> Frontends + 'static) {
        let disk = Disk { meters: meters.clone(), frontends: Rc::new(frontends) };
        let old = self.disks.borrow_mut().insert(name.to_owned(), disk);
        self.forget(old);
    }

    /// Removes a disk. Returns false if there is none of this name.
    pub fn remove_disk(&self, name: &str) -> bool {
        let old = self.disks.borrow_mut().remove(name);
        let was_there = old.is_some();
        self.forget(old);
        was_there
    }

    fn forget(&self, disk: Option<Disk>) {
        let Some(disk) = disk else { return };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for meter in disk.meters.queues() {
            shown.remove(&meter.id);
        }
    }

    /// The text of all metrics, in the OpenMetrics text format. It is begun after this call, and is
    /// shared by all that wait for it. Takes a tenth of a second if it is asked for without pause,
    /// and two seconds if a loop does not answer.
    ///
    /// # Errors
    /// No worker thread can be started, or the loop has ended.
    pub async fn text(&self) -> io::Result<Arc<str>> {
        // A text that was begun before does not have what happened since.
        let wanted = self.begun.get().1 + 1;
        loop {
            let is_free = self
                .waiting
                .until(|| match &*self.text.borrow() {
                    Some((number, text)) if *number >= wanted => Some(Some(Arc::clone(text))),
                    _ if self.is_busy.get() => None,
                    _ => Some(None),
                })
                .await;
            if let Some(text) = is_free {
                return Ok(text);
            }
            // Freed also if whoever waits for the text goes away.
            self.is_busy.set(true);
            let _busy = Busy(self);
            if let Some(last) = self.begun.get().0 {
                let apart = u64::try_from(APART.as_nanos()).unwrap_or(u64::MAX);
                self.context.sleep_until(Clock::Realtime, last.saturating_add(apart)).await;
            }
            let number = self.begun.get().1 + 1;
            self.begun.set((Some(self.context.now_ns()), number));
            let text = self.make().await?;
            self.text.replace(Some((number, Arc::clone(&text))));
        }
    }

    async fn make(&self) -> io::Result<Arc<str>> {
        let mut queues = Vec::new();
        let loops = self.ask(&mut queues).await;
        // Outside of the borrow: `frontends` is code of the user.
        let disks: Vec<_> = {
            let disks = self.disks.borrow();
            let disk = |(name, disk): (&String, &Disk)| {
                (name.clone(), disk.meters.clone(), Rc::clone(&disk.frontends))
            };
            disks.iter().map(disk).collect()
        };
        let disks: Vec<_> =
            disks.into_iter().map(|(name, meters, frontends)| (name, meters, frontends())).collect();
        let shown = Arc::clone(&self.shown);
        let work = move || -> Arc<str> {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let disks = merge(disks, queues, &mut shown);
            Document { disks, loops }.text().into()
        };
        self.context.blocking(work).await.map_err(io::Error::other)
    }

    /// Asks all loops, and waits until all have answered or the time is over.
    async fn ask(&self, queues: &mut Vec<(u64, Figures)>) -> Vec<LoopView> {
        let end = self.context.now_ns().saturating_add(LIMIT.as_nanos() as u64);
        // All are asked before the first answer.
        let questions: Vec<_> = {
            let mut loops = self.loops.borrow_mut();
            let ask = |asked: &mut Asked| {
                let open = asked.open.take();
                let question =
                    open.unwrap_or_else(|| asked.thread.handle().spawn(|own| look(own.local_handle())));
                (Arc::clone(&asked.thread), question)
            };
            loops.iter_mut().map(ask).collect()
        };
        let own = look(self.context.clone()).await;
        queues.extend(own.queues);
        let (has_answered, is_alive) = (true, true);
        let mut views = vec![LoopView { name: "main".into(), stats: own.stats, has_answered, is_alive }];
        for (thread, mut question) in questions {
            let left = Duration::from_nanos(end.saturating_sub(self.context.now_ns()));
            let answer = self.context.timeout(left, Pin::new(&mut question)).await;
            let mut loops = self.loops.borrow_mut();
            let Some(asked) = loops.iter_mut().find(|asked| Arc::ptr_eq(&asked.thread, &thread)) else {
                continue;
            };
            let has_answered = match answer {
                Ok(Ok(look)) => {
                    asked.stats = Some(look.stats);
                    queues.extend(look.queues);
                    true
                }
                // The loop has ended.
                Ok(Err(_)) => false,
                Err(_) => {
                    asked.open = Some(question);
                    false
                }
            };
            let stats = asked.stats.unwrap_or_default();
            let (name, is_alive) = (thread.name().to_owned(), thread.is_alive());
            views.push(LoopView { name, stats, has_answered, is_alive });
        }
        views
    }
}

/// Ends the making of a text, and has those who wait look again.
struct Busy<'a>(&'a Exporter);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.is_busy.set(false);
        self.0.waiting.wake();
    }
}

/// Brings together what the loops have found and what the meters have of queues that do not run. A
/// queue that has stopped since its loop was asked is in its meter by now.
fn merge(
    disks: Vec<(String, Meters, Frontends)>,
    queues: Vec<(u64, Figures)>,
    shown: &mut BTreeMap<u64, Figures>,
) -> Vec<DiskView> {
    let mut running: BTreeMap<u64, Figures> = BTreeMap::new();
    for (id, figures) in queues {
        running.entry(id).or_default().raise(&figures);
    }
    let disk = |(name, meters, frontends): (String, Meters, Frontends)| {
        let queue = |meter: &QueueMeter| {
            let figures = shown.entry(meter.id).or_default();
            figures.raise(&meter.past());
            let now = running.get(&meter.id);
            if let Some(now) = now {
                figures.raise(now);
            }
            QueueView { figures: figures.clone(), is_running: now.is_some() }
        };
        DiskView { name, frontends, queues: meters.queues().map(queue).collect() }
    };
    disks.into_iter().map(disk).collect()
}
