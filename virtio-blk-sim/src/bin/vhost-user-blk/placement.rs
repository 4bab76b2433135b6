//! On which loops the queues of a disk run.

/// How the loops of queues are chosen that nobody has placed by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Each queue goes to the loop that has the fewest queues, and of those to the first one.
    #[default]
    LeastQueues,
    /// Queue `n` of each disk goes to loop `n`, modulo the number of loops. So the queues of a disk
    /// are spread evenly, and the first loop has a queue of each disk.
    RoundRobin,
}

/// Returns the loop of each of the `queues` queues of a new disk. `given` are those that were
/// placed by hand, and `taken` is how many queues each loop has, `None` for a loop that has ended.
/// Empty if there are no loops.
pub(crate) fn place(rule: Rule, queues: u16, given: &[usize], mut taken: Vec<Option<usize>>) -> Vec<usize> {
    let living = taken.iter().enumerate().filter(|(_, count)| count.is_some());
    let living: Vec<usize> = living.map(|(index, _)| index).collect();
    let mut places = Vec::new();
    for queue in 0..usize::from(queues) {
        let by_rule = || match rule {
            Rule::LeastQueues => living.iter().copied().min_by_key(|index| taken.get(*index)),
            Rule::RoundRobin => living.get(queue.checked_rem(living.len())?).copied(),
        };
        let Some(place) = given.get(queue).copied().or_else(by_rule) else { break };
        if let Some(Some(count)) = taken.get_mut(place) {
            *count += 1;
        }
        places.push(place);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_go_where_there_are_fewest() {
        let least = |queues, given: &[usize], taken: &[usize]| {
            place(Rule::LeastQueues, queues, given, taken.iter().copied().map(Some).collect())
        };
        assert_eq!(least(1, &[], &[0, 0, 0]), [0]);
        assert_eq!(least(1, &[], &[2, 1, 1]), [1]);
        assert_eq!(least(4, &[], &[3, 0, 1]), [1, 1, 2, 1]);
        assert_eq!(least(3, &[2, 2], &[0, 0, 0]), [2, 2, 0]);
        assert_eq!(least(3, &[], &[]), [0; 0]);
    }

    #[test]
    fn round_robin_starts_at_the_first_loop_for_each_disk() {
        assert_eq!(place(Rule::RoundRobin, 5, &[], vec![Some(9), Some(0), Some(0)]), [0, 1, 2, 0, 1]);
        assert_eq!(place(Rule::RoundRobin, 3, &[2], vec![Some(0); 3]), [2, 1, 2]);
    }

    #[test]
    fn a_loop_that_has_ended_gets_nothing() {
        let taken = || vec![None, Some(2), Some(1)];
        assert_eq!(place(Rule::LeastQueues, 4, &[], taken()), [2, 1, 2, 1]);
        assert_eq!(place(Rule::RoundRobin, 3, &[], taken()), [1, 2, 1]);
        assert_eq!(place(Rule::RoundRobin, 3, &[], vec![None, None]), [0; 0]);
    }
}
