//! What was counted under names whose callbacks are gone.
//!
//! So the sums of a name never go back while a profile lasts, however often its timer is dropped
//! and made again.

use super::figures::{CallbackKind, Figures, Tally, Took};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

/// The most names that are kept. A program may make up a name for each connection.
pub(crate) const MOST_ENDED: usize = 256;

type Key = (CallbackKind, Cow<'static, str>);

#[derive(Default)]
struct Entry {
    tally: Tally,
    /// When it was last counted for, as a number that grows.
    last: Cell<u64>,
}

/// Counts by kind and name. Home thread. Calls no user code.
#[derive(Default)]
pub(crate) struct Ended {
    entries: RefCell<BTreeMap<Key, Entry>>,
    counted: Cell<u64>,
}

impl Ended {
    /// Counts one call.
    pub(crate) fn add(&self, kind: CallbackKind, name: Cow<'static, str>, profile: u64, took: Took) {
        self.with(kind, name, |tally| tally.add(profile, took));
    }

    /// Keeps what a callback has counted that is gone.
    pub(crate) fn keep(&self, kind: CallbackKind, name: Cow<'static, str>, counted: &Tally) {
        self.with(kind, name, |tally| tally.absorb(counted));
    }

    fn with(&self, kind: CallbackKind, name: Cow<'static, str>, count: impl FnOnce(&Tally)) {
        let mut entries = self.entries.borrow_mut();
        let key = (kind, name);
        if entries.len() >= MOST_ENDED && !entries.contains_key(&key) {
            // Those of an earlier profile go first, and then those that were not heard of longest.
            let oldest = entries.iter().min_by_key(|(_, entry)| (entry.tally.profile(), entry.last.get()));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        let entry = entries.entry(key).or_default();
        self.counted.set(self.counted.get().wrapping_add(1));
        entry.last.set(self.counted.get());
        count(&entry.tally);
    }

    /// What was counted in the profile with this number.
    pub(crate) fn each(
        &self,
        profile: u64,
        mut visit: impl FnMut(CallbackKind, &Cow<'static, str>, Figures),
    ) {
        for ((kind, name), entry) in &*self.entries.borrow() {
            let figures = entry.tally.figures(profile);
            if figures.calls != 0 {
                visit(*kind, name, figures);
            }
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("names", &self.entries.borrow().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(ended: &Ended, profile: u64) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        ended.each(profile, |_, name, figures| all.push((name.to_string(), figures.calls)));
        all.sort();
        all
    }

    #[test]
    fn the_names_that_were_not_heard_of_longest_are_forgotten() {
        let (ended, took) = (Ended::default(), Took { ns: 1, own_ns: 1 });
        let add = |n: usize| ended.add(CallbackKind::Timer, format!("{n:03}").into(), 1, took);
        (0..MOST_ENDED).for_each(add);
        add(0);
        add(MOST_ENDED);
        let all = calls(&ended, 1);
        assert_eq!(all.len(), MOST_ENDED);
        assert_eq!(all[..2], [("000".to_owned(), 2), ("002".to_owned(), 1)]);
        // A new profile takes the places of the old one.
        ended.add(CallbackKind::Task, "new".into(), 2, took);
        assert_eq!(calls(&ended, 2), [("new".to_owned(), 1)]);
        assert_eq!(calls(&ended, 1).len(), MOST_ENDED - 1);
    }
}
