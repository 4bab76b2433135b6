//! The name and the counts of one callback.

use super::ended::Ended;
use super::figures::{CallbackKind, Tally, Took};
use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;

/// The name that a user gave to something.
pub(crate) type Name = Option<Cow<'static, str>>;

/// What is known of one callback.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) tally: Tally,
    /// Where its counts are kept when it is gone. Set once it has counted something.
    heir: OnceCell<(Rc<Ended>, CallbackKind)>,
}

impl Record {
    /// Counts a call in the profile with this number.
    pub(crate) fn add(&self, kind: CallbackKind, profile: u64, took: Took, ended: &Rc<Ended>) {
        self.tally.add(profile, took);
        self.heir.get_or_init(|| (Rc::clone(ended), kind));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some((ended, kind)) = self.heir.take()
            && let Some(name) = self.name.take()
        {
            ended.keep(kind, name, &self.tally);
        }
    }
}

/// The place for the record of one callback.
#[derive(Default)]
pub(crate) struct Slot(Cell<Option<Rc<Record>>>);

impl Slot {
    /// Sets the name, in place of any earlier one. What was counted under another name stays with
    /// that.
    pub(crate) fn set_name(&self, name: Cow<'static, str>) {
        let old = self.get();
        let tally = match &old {
            Some(old) if old.name.as_ref() == Some(&name) => return,
            Some(old) if old.name.is_none() => old.tally.clone(),
            _ => Tally::default(),
        };
        let heir = old.filter(|old| old.name.is_none()).map(|old| old.heir.clone()).unwrap_or_default();
        self.0.set(Some(Rc::new(Record { name: Some(name), tally, heir })));
    }

    /// The record, if there is one.
    pub(crate) fn get(&self) -> Option<Rc<Record>> {
        let record = self.0.take();
        self.0.set(record.clone());
        record
    }

    /// The record. The first call allocates it.
    pub(crate) fn get_or_make(&self) -> Rc<Record> {
        let record = self.0.take().unwrap_or_default();
        self.0.set(Some(Rc::clone(&record)));
        record
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Took = Took { ns: 7, own_ns: 7 };

    #[test]
    fn counts_stay_with_the_name_under_which_they_were_made() {
        let (slot, ended) = (Slot::default(), Rc::<Ended>::default());
        assert!(slot.get().is_none());
        let add = || slot.get_or_make().add(CallbackKind::Timer, 1, TOOK, &ended);
        let of_slot = || {
            let record = slot.get().unwrap();
            (record.name.as_deref().map(str::to_owned), record.tally.figures(1).calls)
        };
        let kept = || {
            let mut all = Vec::new();
            ended.each(1, |kind, name, figures| all.push((kind, name.to_string(), figures.calls)));
            all.sort_by(|a, b| a.1.cmp(&b.1));
            all
        };
        add();
        slot.set_name("disk".into());
        assert_eq!(of_slot(), (Some("disk".to_owned()), 1), "it had no name before");
        add();
        slot.set_name("disk".into());
        assert_eq!((of_slot().1, kept().len()), (2, 0), "the same name");
        slot.set_name("disk 0".into());
        assert_eq!(of_slot(), (Some("disk 0".to_owned()), 0));
        assert_eq!(kept(), [(CallbackKind::Timer, "disk".to_owned(), 2)]);
        add();
        drop(slot);
        let names = kept().into_iter().map(|(_, name, calls)| (name, calls)).collect::<Vec<_>>();
        assert_eq!(names, [("disk".to_owned(), 2), ("disk 0".to_owned(), 1)]);
    }
}
