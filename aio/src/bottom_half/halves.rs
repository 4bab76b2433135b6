//! The home thread's side: its table of bottom halves, and its run queue.
//!
//! A turn moves the shared list to the run queue and works through what is queued then, in the
//! order in which it was scheduled. A bottom half that is scheduled meanwhile runs in the next
//! turn; a nested turn takes from the same queue and so runs what its parent had left.
//!
//! Generic over what is run: `T` is the callback of a bottom half, `S` a closure that another
//! thread sent, `D` a closure of the home thread. This hands them out and calls nobody.

use super::list::{Due, List, Node};
use crate::agenda::{Agenda, Item};
use crate::profile::Slot;
use crate::request::Request;
use crate::sync::Arc;
use crate::turn_queue::{Mark, TurnQueue};
use slab::Slab;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// The most that run in one turn. Other threads can schedule faster than the loop runs; without a
/// bound a turn would take ever longer, and other handlers would wait for its end.
const MOST_PER_TURN: usize = 1024;

/// Identity of a bottom half in the home thread's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HalfKey {
    slot: usize,
    version: u64,
}

/// What a node of the shared list stands for.
pub(crate) enum Work<S> {
    /// A bottom half; its callback is in the home thread's table.
    Half(HalfKey),
    /// A closure from another thread, run once.
    Sent(Mutex<Option<S>>),
    /// What other threads want of a timer.
    Request(std::sync::Arc<Request>),
}

impl<S> Work<S> {
    pub(crate) fn sent(closure: S) -> Self {
        Self::Sent(Mutex::new(Some(closure)))
    }

    /// Takes the closure out. Each is taken once, by whichever thread comes first.
    pub(crate) fn take_sent(&self) -> Option<S> {
        match self {
            Self::Half(_) | Self::Request(_) => None,
            Self::Sent(closure) => closure.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl<S> fmt::Debug for Work<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Half(_) => "Half",
            Self::Sent(_) => "Sent",
            Self::Request(_) => "Request",
        })
    }
}

/// Something to run now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Job<T, S, D, R = ()> {
    /// A bottom half that was scheduled, or (`idle`) scheduled to run when the loop turns anyway.
    Half {
        callback: T,
        idle: bool,
        /// What was taken from its record.
        record: R,
    },
    Sent(S),
    Deferred(D),
}

enum Queued<S, D> {
    Node(Arc<Node<Work<S>>>),
    Deferred(D),
}

struct Entry<T> {
    version: u64,
    callback: T,
    record: Slot,
}

/// The bottom halves of one context.
pub(crate) struct BottomHalves<T, S, D> {
    entries: RefCell<Slab<Entry<T>>>,
    versions: Cell<u64>,
    /// Closures of the home thread for its next turn.
    deferred: RefCell<Vec<D>>,
    /// Collected and not run yet: for this turn, its nested ones and, beyond `MOST_PER_TURN`, later
    /// ones.
    queue: TurnQueue<Queued<S, D>>,
    agenda: Rc<Agenda>,
}

impl<T, S, D> fmt::Debug for BottomHalves<T, S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalves").field("entries", &self.entries.borrow().len()).finish_non_exhaustive()
    }
}

impl<T, S, D> BottomHalves<T, S, D> {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Rc<Self> {
        Rc::new(Self {
            entries: RefCell::default(),
            versions: Cell::new(0),
            deferred: RefCell::default(),
            queue: TurnQueue::default(),
            agenda: Rc::clone(agenda),
        })
    }

    pub(crate) fn create(&self, callback: T) -> HalfKey {
        let version = self.versions.get() + 1;
        self.versions.set(version);
        let slot = self.entries.borrow_mut().insert(Entry { version, callback, record: Slot::default() });
        HalfKey { slot, version }
    }

    /// Takes a bottom half out. The caller drops its callback, outside of any borrow.
    pub(crate) fn remove(&self, key: HalfKey) -> Option<T> {
        let mut entries = self.entries.borrow_mut();
        entries.get(key.slot).filter(|e| e.version == key.version)?;
        Some(entries.remove(key.slot).callback)
    }

    pub(crate) fn defer(&self, closure: D) {
        self.deferred.borrow_mut().push(closure);
        self.agenda.set(Item::BottomHalves, true);
        self.nudge();
    }

    /// See [`Agenda::nudge`].
    pub(crate) fn nudge(&self) {
        self.agenda.nudge();
    }

    /// How soon the next turn has to look here.
    pub(crate) fn due(&self, list: &List<Work<S>>) -> Due {
        if !self.deferred.borrow().is_empty() {
            return Due::Now;
        }
        let queued = |queued: &Queued<S, D>| match queued {
            Queued::Deferred(_) => Due::Now,
            Queued::Node(node) => node.due(),
        };
        let mut most = list.peek();
        if most != Due::Now {
            self.queue.find_map(|item| {
                most = most.max(queued(item));
                (most == Due::Now).then_some(())
            });
        }
        most
    }

    /// Queues everything that was scheduled before this call. Returns where a turn that begins now
    /// has to end.
    pub(crate) fn collect(&self, list: &List<Work<S>>) -> Mark {
        self.agenda.set(Item::BottomHalves, true);
        self.queue.append(|queue| {
            list.take(|node| queue.push_back(Queued::Node(node)));
            queue.extend(self.deferred.borrow_mut().drain(..).map(Queued::Deferred));
        });
        self.queue.mark(MOST_PER_TURN)
    }

    /// The next job in front of `mark`. `look` looks at the record of a bottom half. Requests of
    /// other threads on the way to it go to `carry_out`, which must not use this table.
    pub(crate) fn next<R>(
        &self,
        mark: Mark,
        look: impl Fn(&Slot) -> R,
        carry_out: impl Fn(&Request),
    ) -> Option<Job<T, S, D, R>>
    where
        T: Clone,
    {
        while let Some(queued) = self.queue.pop(mark) {
            let node = match queued {
                Queued::Deferred(closure) => return Some(Job::Deferred(closure)),
                Queued::Node(node) => node,
            };
            let due = node.dequeue();
            if due == Due::Cancelled {
                continue;
            }
            let job = match &node.value {
                Work::Half(key) => {
                    let entries = self.entries.borrow();
                    let entry = entries.get(key.slot).filter(|e| e.version == key.version);
                    entry.map(|e| {
                        let (callback, record) = (e.callback.clone(), look(&e.record));
                        Job::Half { callback, idle: due == Due::Idle, record }
                    })
                }
                sent @ Work::Sent(_) => sent.take_sent().map(Job::Sent),
                Work::Request(request) => {
                    carry_out(request);
                    None
                }
            };
            if job.is_some() {
                return job;
            }
        }
        let more = !self.queue.is_empty() || !self.deferred.borrow().is_empty();
        self.agenda.set(Item::BottomHalves, more);
        None
    }

    /// Names a bottom half.
    pub(crate) fn set_name(&self, key: HalfKey, name: Cow<'static, str>) {
        self.look(key, |record| record.set_name(name));
    }

    /// Looks at the record of a bottom half, unless it was removed.
    pub(crate) fn look<R>(&self, key: HalfKey, look: impl FnOnce(&Slot) -> R) -> Option<R> {
        let entries = self.entries.borrow();
        let entry = entries.get(key.slot).filter(|e| e.version == key.version)?;
        Some(look(&entry.record))
    }

    /// All bottom halves, with their records and whether they are scheduled. Returns how many
    /// closures wait for a turn. Home thread.
    pub(crate) fn each(&self, list: &List<Work<S>>, mut visit: impl FnMut(&Slot, Due)) -> usize {
        let (mut scheduled, mut closures) = (BTreeMap::new(), self.deferred.borrow().len());
        let mut count = |node: &Node<Work<S>>| match node.value {
            Work::Half(key) => _ = scheduled.insert(key, node.due()),
            Work::Sent(_) => closures += 1,
            Work::Request(_) => {}
        };
        list.each(&mut count);
        let mut deferred = 0;
        self.queue.find_map(|queued| {
            match queued {
                Queued::Node(node) => count(node),
                Queued::Deferred(_) => deferred += 1,
            }
            None::<()>
        });
        for (slot, Entry { version, record, .. }) in &*self.entries.borrow() {
            let key = HalfKey { slot, version: *version };
            visit(record, scheduled.get(&key).copied().unwrap_or(Due::Cancelled));
        }
        closures + deferred
    }

    /// Takes everything out: callbacks, and closures that did not run.
    pub(crate) fn take_all(&self) -> (Vec<T>, Vec<Job<T, S, D>>) {
        let callbacks = self.entries.borrow_mut().drain().map(|entry| entry.callback).collect();
        let queued = self.queue.take_all().into_iter().filter_map(|queued| match queued {
            Queued::Deferred(closure) => Some(Job::Deferred(closure)),
            Queued::Node(node) => node.value.take_sent().map(Job::Sent),
        });
        let deferred = self.deferred.take().into_iter().map(Job::Deferred);
        (callbacks, queued.chain(deferred).collect())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Halves = BottomHalves<&'static str, u32, char>;

    fn next(halves: &Halves, mark: Mark) -> Option<Job<&'static str, u32, char>> {
        halves.next(mark, |_| (), |_| unreachable!("nobody made a request"))
    }

    fn send(list: &List<Work<u32>>, n: u32) {
        Node::schedule(&Arc::new(Node::new(Work::sent(n))), list);
    }

    #[test]
    fn jobs_run_in_the_order_in_which_they_were_scheduled() {
        let (halves, list) = (Halves::new(&Rc::default()), List::new());
        let node = Arc::new(Node::new(Work::Half(halves.create("half"))));
        send(&list, 1);
        Node::schedule(&node, &list);
        send(&list, 2);
        halves.defer('a');
        let mark = halves.collect(&list);
        halves.defer('b');
        send(&list, 3);
        let half = Job::Half { callback: "half", idle: false, record: () };
        let run = [(); 5].map(|()| next(&halves, mark));
        assert_eq!(run, [Some(Job::Sent(1)), Some(half), Some(Job::Sent(2)), Some(Job::Deferred('a')), None]);
        let mark = halves.collect(&list);
        assert_eq!(
            [(); 3].map(|()| next(&halves, mark)),
            [Some(Job::Sent(3)), Some(Job::Deferred('b')), None]
        );
    }

    #[test]
    fn a_turn_runs_so_many_and_leaves_the_others_for_the_next() {
        let (halves, list) = (Halves::new(&Rc::default()), List::new());
        (0..2500).for_each(|n| send(&list, n));
        let turn = || {
            let mark = halves.collect(&list);
            std::iter::from_fn(|| next(&halves, mark)).count()
        };
        assert_eq!([turn(), turn(), turn(), turn()], [1024, 1024, 452, 0]);
    }

    #[test]
    fn a_cancelled_or_removed_half_does_not_run() {
        let (halves, list) = (Halves::new(&Rc::default()), List::new());
        let keys = ["cancelled", "removed"].map(|name| halves.create(name));
        let nodes = keys.map(|key| Arc::new(Node::new(Work::Half(key))));
        nodes.iter().for_each(|node| Node::schedule(node, &list));
        assert_eq!(halves.due(&list), Due::Now);
        nodes[0].cancel();
        assert_eq!(halves.remove(keys[1]), Some("removed"));
        assert_eq!(next(&halves, halves.collect(&list)), None);
        assert_eq!(halves.due(&list), Due::Cancelled);
    }
}
