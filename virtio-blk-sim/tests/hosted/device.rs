//! A device for vhost-user-backend that records its calls.

use std::io;
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use vhost_016::vhost_user::Backend;
use vhost_016::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringT};
use virtio_blk_sim::hosted::EventSet;
use virtio_queue_017::QueueT;
use vm_memory_017::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;
pub(crate) type Vring = VringRwLock<Memory>;

/// What the device offers. The last three must not reach a frontend.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 5 | 1 << 30 | 1 << 26 | 1 << 34;
pub(crate) const MAX_SIZE: usize = 64;
pub(crate) const FAILURE: &str = "as the test wants it";

/// What the device does with a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Answers {
    #[default]
    AtOnce,
    /// When [`Echo::finish`] is called.
    Later,
    /// `handle_event` fails.
    Never,
    /// `handle_event` panics once, before it takes anything.
    AfterPanic,
}

/// A call of `handle_event`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) event: u16,
    pub(crate) set: EventSet,
    pub(crate) rings: usize,
    pub(crate) thread: usize,
    pub(crate) on: ThreadId,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) answers: Answers,
    pub(crate) events: Vec<Event>,
    pub(crate) acked: Vec<u64>,
    pub(crate) event_idx: bool,
    pub(crate) resets: u32,
    pub(crate) config: Vec<u8>,
    pub(crate) config_reads: u32,
    pub(crate) tables: u32,
    pub(crate) memory: Option<Memory>,
    /// What a request holds while it is worked on.
    pub(crate) snapshot: Option<GuestMemoryLoadGuard<GuestMemoryMmap<()>>>,
    pub(crate) refuses_memory: bool,
    pub(crate) channel: Option<Backend>,
    pub(crate) pending: Vec<(Vring, u16)>,
    pub(crate) exits: Vec<EventNotifier>,
}

/// Writes its event number plus one to each buffer.
pub(crate) struct Echo {
    pub(crate) queues: usize,
    pub(crate) groups: Vec<u64>,
    pub(crate) protocol: Protocol,
    pub(crate) state: Mutex<State>,
}

impl Echo {
    pub(crate) fn new(queues: usize, groups: &[u64]) -> Self {
        let protocol = Protocol::all();
        Self { queues, groups: groups.to_vec(), protocol, state: Mutex::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The events so far, without those of a ring's start.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Answers what was taken and not answered.
    pub(crate) fn finish(&self) {
        let pending = std::mem::take(&mut self.state().pending);
        for (vring, head) in pending {
            vring.add_used(head, 0).unwrap();
            vring.signal_used_queue().unwrap();
        }
    }

    fn serve(&self, event: u16, vring: &Vring) -> io::Result<()> {
        let mut state = self.state();
        if state.answers == Answers::AfterPanic {
            state.answers = Answers::AtOnce;
            drop(state);
            panic!("{FAILURE}");
        }
        let state = &mut *state;
        if state.answers == Answers::Never {
            return Err(io::Error::other(FAILURE));
        }
        let memory = state.memory.as_ref().expect("memory comes first").memory();
        vring.disable_notification().unwrap();
        loop {
            let mut ring = vring.get_mut();
            let chain = ring.get_queue_mut().pop_descriptor_chain(memory.clone());
            let Some(chain) = chain else {
                // The driver may have made more available meanwhile.
                match ring.enable_notification().unwrap() {
                    true => continue,
                    false => break,
                }
            };
            let head = chain.head_index();
            if state.answers == Answers::Later {
                state.pending.push((vring.clone(), head));
                continue;
            }
            let mut written = 0;
            for part in chain.writable() {
                memory.write_slice(&vec![event as u8 + 1; part.len() as usize], part.addr()).unwrap();
                written += part.len();
            }
            ring.add_used(head, written).unwrap();
            ring.signal_used_queue()?;
        }
        Ok(())
    }
}

impl VhostUserBackend for Echo {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        MAX_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn acked_features(&self, features: u64) {
        self.state().acked.push(features);
    }

    fn protocol_features(&self) -> Protocol {
        self.protocol
    }

    fn reset_device(&self) {
        self.state().resets += 1;
    }

    fn set_event_idx(&self, enabled: bool) {
        self.state().event_idx = enabled;
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut state = self.state();
        state.config_reads += 1;
        state.config.iter().skip(offset as usize).take(size as usize).copied().collect()
    }

    fn set_config(&self, offset: u32, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let end = offset as usize + data.len();
        let Some(space) = state.config.get_mut(offset as usize..end) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        space.copy_from_slice(data);
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let mut state = self.state();
        if state.refuses_memory {
            return Err(io::Error::other(FAILURE));
        }
        state.tables += 1;
        state.memory = Some(memory);
        Ok(())
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        self.state().channel = Some(backend);
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        self.groups.clone()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
        self.state().exits.push(notifier.try_clone().unwrap());
        Some((consumer, notifier))
    }

    fn handle_event(&self, event: u16, set: EventSet, vrings: &[Vring], thread: usize) -> io::Result<()> {
        let (rings, on) = (vrings.len(), thread::current().id());
        self.state().events.push(Event { event, set, rings, thread, on });
        match vrings.get(usize::from(event)) {
            Some(vring) => self.serve(event, vring),
            None if self.state().answers == Answers::Never => Err(io::Error::other(FAILURE)),
            None => Ok(()),
        }
    }
}
