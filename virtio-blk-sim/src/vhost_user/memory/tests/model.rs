//! A frontend that changes its table at random, and regions with arbitrary numbers.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;

/// A frontend's change of a table, in pages. Most of these changes are invalid.
#[derive(Debug, Clone)]
enum Change {
    Add { guest: u64, user: u64, pages: u64, offset: u64 },
    Remove { guest: u64, user: u64, pages: u64 },
    RemoveOneThatIsThere(prop::sample::Index),
}

const PAGE: u64 = 4096;
const FILE_PAGES: u64 = 8;

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..24_u64, 0..24_u64, 0..5_u64, 0..10_u64)
            .prop_map(|(guest, user, pages, offset)| Change::Add { guest, user, pages, offset }),
        1 => (0..24_u64, 0..24_u64, 0..5_u64)
            .prop_map(|(guest, user, pages)| Change::Remove { guest, user, pages }),
        2 => any::<prop::sample::Index>().prop_map(Change::RemoveOneThatIsThere),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Compares a table with a list of pages: which changes are accepted, and what each address
    /// translates to.
    #[test]
    fn a_table_agrees_with_a_page_by_page_model(changes in prop::collection::vec(change(), 1..40)) {
        let peer = Peer::new("model", FILE_PAGES * PAGE);
        for page in 0..FILE_PAGES {
            peer.file.write_all_at(&[page as u8 + 1], page * PAGE).unwrap();
        }
        let mut table = MemoryTable::default();
        // Guest page, user page, pages, first page in the file.
        let mut model: Vec<[u64; 4]> = Vec::new();
        for change in changes {
            let bytes = |[guest, user, pages, offset]: [u64; 4]| MemoryRegion {
                guest_addr: guest * PAGE,
                size: pages * PAGE,
                user_addr: user * PAGE,
                mmap_offset: offset * PAGE,
            };
            match change {
                Change::Add { guest, user, pages, offset } => {
                    let overlaps = |a: u64, b: u64, b_pages: u64| (a..a + pages).any(|p| (b..b + b_pages).contains(&p));
                    let good = pages > 0
                        && offset + pages <= FILE_PAGES
                        && !model.iter().any(|&[g, u, n, _]| overlaps(guest, g, n) || overlaps(user, u, n));
                    let result = table.with(bytes([guest, user, pages, offset]), peer.fd());
                    prop_assert_eq!(result.is_ok(), good, "{:?}", result);
                    if let Ok(new) = result {
                        table = new;
                        model.push([guest, user, pages, offset]);
                    }
                }
                Change::Remove { guest, user, pages } => {
                    let at = model.iter().position(|&[g, u, n, _]| [g, u, n] == [guest, user, pages]);
                    let result = table.without(&bytes([guest, user, pages, 0]));
                    prop_assert_eq!(result.is_ok(), at.is_some());
                    if let (Ok(new), Some(at)) = (result, at) {
                        table = new;
                        model.remove(at);
                    }
                }
                Change::RemoveOneThatIsThere(index) if !model.is_empty() => {
                    let there = model.remove(index.index(model.len()));
                    table = table.without(&bytes(there)).unwrap();
                }
                Change::RemoveOneThatIsThere(_) => {}
            }
            let pages: u64 = model.iter().map(|[_, _, pages, _]| pages).sum();
            prop_assert_eq!((table.len(), peer.mapped(), peer.held()), (model.len(), pages * PAGE, 0));
        }
        for page in 0..30 {
            let in_file = model.iter().find_map(|&[g, _, n, o]| (g..g + n).contains(&page).then(|| o + page - g));
            let seen = table.memory().read_obj::<u8>(GuestAddress(page * PAGE)).ok();
            prop_assert_eq!(seen, in_file.map(|page| page as u8 + 1));
            let in_guest = model.iter().find_map(|&[g, u, n, _]| (u..u + n).contains(&page).then(|| g + page - u));
            for (offset, len) in [(0, PAGE), (1, PAGE - 1), (PAGE - 1, 1)] {
                let found = table.user_to_guest(page * PAGE + offset, len).ok();
                prop_assert_eq!(found.map(|addr| addr.0), in_guest.map(|page| page * PAGE + offset));
            }
        }
        drop(table);
        prop_assert_eq!(peer.mapped(), 0);
    }

    /// For any numbers that a frontend sends, either the table is refused, or its memory is
    /// accessible up to the last byte.
    #[test]
    fn regions_with_arbitrary_numbers_never_reach_outside_the_file(
        regions in prop::collection::vec((any_number(), any_number(), any_number(), any_number()), 1..4),
    ) {
        let peer = Peer::new("numbers", FILE_PAGES * PAGE);
        let regions: Vec<_> = regions
            .into_iter()
            .map(|(guest_addr, size, user_addr, mmap_offset)| MemoryRegion { guest_addr, size, user_addr, mmap_offset })
            .collect();
        let table = MemoryTable::new(regions.iter().map(|region| (*region, peer.fd())).collect());
        if let Ok(table) = &table {
            for region in &regions {
                let (first, last) = (region.guest_addr, region.guest_addr + region.size - 1);
                for addr in [first, last] {
                    table.memory().write_obj(1_u8, GuestAddress(addr)).unwrap();
                }
                prop_assert_eq!(table.user_to_guest(region.user_addr, region.size).unwrap().0, first);
            }
            prop_assert!(!table.is_broken());
        }
        drop(table);
        prop_assert_eq!((peer.mapped(), peer.held()), (0, 0));
    }
}

/// Numbers in the range of the test's sizes, and numbers near the limits of the types.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..FILE_PAGES * PAGE,
        2 => any::<u64>(),
        1 => (0..8_u64).prop_map(|n| u64::MAX - n),
        1 => (0..8_u64).prop_map(|n| i64::MAX as u64 - n),
    ]
}
