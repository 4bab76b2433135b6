//! A four-ary min-heap of deadlines that tracks the position of each member, so that a member can
//! be moved or removed from the middle in O(log n).

/// A member: deadline, then order of arming (first in, first out for equal deadlines), then the
/// slot of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at_ns: u64,
    pub(super) order: u64,
    pub(super) slot: u32,
}

impl Deadline {
    fn before(&self, other: &Self) -> bool {
        (self.at_ns, self.order) < (other.at_ns, other.order)
    }
}

/// Four children: half the depth of a binary heap, and the children of a node fit into one or two
/// cache lines.
const ARITY: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Heap {
    members: Vec<Deadline>,
}

/// Each method that moves members reports their new places through `place(slot, index)`.
impl Heap {
    pub(super) fn first(&self) -> Option<&Deadline> {
        self.members.first()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn push(&mut self, member: Deadline, mut place: impl FnMut(u32, u32)) {
        self.members.push(member);
        self.rise(self.members.len() - 1, &mut place);
    }

    /// Changes the deadline of the member at `index`.
    pub(super) fn change(&mut self, index: u32, member: Deadline, mut place: impl FnMut(u32, u32)) {
        let index = index as usize;
        if index < self.members.len() {
            let later = self.members[index].before(&member);
            self.members[index] = member;
            if later { self.sink(index, &mut place) } else { self.rise(index, &mut place) }
        }
    }

    /// Takes the member at `index` out, and returns its slot.
    pub(super) fn remove(&mut self, index: u32, mut place: impl FnMut(u32, u32)) -> Option<u32> {
        let index = index as usize;
        let last = self.members.pop()?;
        if index >= self.members.len() {
            return Some(last.slot);
        }
        let gone = std::mem::replace(&mut self.members[index], last);
        if gone.before(&last) {
            self.sink(index, &mut place)
        } else {
            self.rise(index, &mut place)
        }
        Some(gone.slot)
    }

    fn rise(&mut self, mut index: usize, place: &mut impl FnMut(u32, u32)) {
        let member = self.members[index];
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if !member.before(&self.members[parent]) {
                break;
            }
            self.members[index] = self.members[parent];
            place(self.members[index].slot, index as u32);
            index = parent;
        }
        self.members[index] = member;
        place(member.slot, index as u32);
    }

    fn sink(&mut self, mut index: usize, place: &mut impl FnMut(u32, u32)) {
        let member = self.members[index];
        loop {
            let first = index * ARITY + 1;
            let children = first..(first + ARITY).min(self.members.len());
            let Some(least) =
                children.reduce(|a, b| if self.members[b].before(&self.members[a]) { b } else { a })
            else {
                break;
            };
            if !self.members[least].before(&member) {
                break;
            }
            self.members[index] = self.members[least];
            place(self.members[index].slot, index as u32);
            index = least;
        }
        self.members[index] = member;
        place(member.slot, index as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Change(usize, u64),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..50u64).prop_map(Step::Push),
            2 => (any::<usize>(), 0..50u64).prop_map(|(i, at)| Step::Change(i, at)),
            2 => any::<usize>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(steps in steps()) {
            let mut heap = Heap::default();
            let mut model = BTreeMap::new(); // slot -> (deadline, order)
            let mut places = BTreeMap::new();
            for (order, step) in steps.into_iter().enumerate() {
                let order = order as u64;
                let pick = |i: usize| model.keys().nth(i % model.len().max(1)).copied();
                let mut place = |slot, index| { places.insert(slot, index); };
                match step {
                    Step::Push(at_ns) => {
                        heap.push(Deadline { at_ns, order, slot: order as u32 }, &mut place);
                        model.insert(order as u32, (at_ns, order));
                    }
                    Step::Change(i, at_ns) => if let Some(slot) = pick(i) {
                        let index = places[&slot];
                        heap.change(index, Deadline { at_ns, order, slot }, |s, i| { places.insert(s, i); });
                        model.insert(slot, (at_ns, order));
                    },
                    Step::Remove(i) => if let Some(slot) = pick(i) {
                        let gone = heap.remove(places[&slot], |s, i| { places.insert(s, i); });
                        prop_assert_eq!(gone, Some(slot));
                        model.remove(&slot);
                    },
                }
                let first = model.iter().min_by_key(|(_, v)| **v).map(|(slot, _)| *slot);
                prop_assert_eq!(heap.first().map(|d| d.slot), first);
                prop_assert_eq!(heap.len(), model.len());
            }
        }
    }
}
