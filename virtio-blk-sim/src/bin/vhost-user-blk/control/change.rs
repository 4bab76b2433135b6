//! The commands that change a disk. They may wait: for storage, or for the requests of a guest.
//!
//! Each is a task of its own. A client that goes away waits no more, and the command goes on
//! without it: half a change would be worse. What a command waits for can be ended with a
//! `remove-disk` with `force`.

use std::cell::Cell;
use std::rc::Rc;

use crate::entry::Origin;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::relocate::relocate;
use crate::resize::resize;
use crate::spec::DiskSpec;

/// Changes that are carried out at the same time, besides removals by force.
pub(crate) const MAX_CHANGES: usize = 40;

/// A command that may wait.
#[derive(Debug)]
pub(super) enum Change {
    Add(Box<DiskSpec>),
    Remove { id: String, force: bool },
    Resize { id: String, size: Option<u64> },
    Move { id: String, loops: Vec<usize> },
}

impl Change {
    /// Removals by force end what others wait for, and wait for nothing themselves.
    fn may_wait(&self) -> bool {
        !matches!(self, Self::Remove { force: true, .. })
    }

    /// Carries it out. Returns a JSON value.
    pub(super) async fn carry_out(self, host: &Host) -> Result<String, Refusal> {
        match self {
            Self::Add(spec) => {
                let entry = host.add(*spec, Origin::Control).await?;
                host.shared.notifier.status(&host.status());
                return Ok(format!("{{\"generation\": {}}}", entry.generation));
            }
            Self::Remove { id, force } => {
                host.remove(&id, force).await?;
                host.shared.notifier.status(&host.status());
            }
            Self::Resize { id, size } => {
                let sectors = resize(host, &*host.disk(&id)?, size).await?;
                return Ok(format!("{{\"sectors\": {sectors}}}"));
            }
            Self::Move { id, loops } => _ = relocate(host, &*host.disk(&id)?, &loops).await?,
        }
        Ok("{}".to_owned())
    }
}

/// How many changes are being carried out.
#[derive(Debug, Default)]
pub(super) struct Changes(Rc<Cell<usize>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Ongoing(Option<Rc<Cell<usize>>>);

impl Changes {
    /// Counts one, until what this returns is dropped.
    pub(super) fn begin(&self, change: &Change) -> Result<Ongoing, Refusal> {
        if !change.may_wait() {
            return Ok(Ongoing(None));
        }
        let count = self.0.get();
        if count >= MAX_CHANGES {
            let why = format!(
                "{MAX_CHANGES} commands wait, and no more can; remove-disk with force ends those of a disk"
            );
            return Err(why.into());
        }
        self.0.set(count + 1);
        Ok(Ongoing(Some(Rc::clone(&self.0))))
    }
}

impl Ongoing {
    /// Whether the command may wait.
    pub(super) fn may_wait(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.set(count.get().saturating_sub(1));
        }
    }
}
