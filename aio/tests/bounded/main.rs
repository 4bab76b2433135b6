//! Tests of the contract of a bounded notifier, run with every method: the semantics of
//! EFD_IOC_SET_MAXIMUM (what the proposal's selftests check, and more), several threads, several
//! processes, and the loop.
//!
//! No test relies on sleeping or on measured time. Tests count events, and the hang guard names a
//! test that hangs and aborts it.

mod bias;
mod costs;
mod loops;
mod processes;
mod rules;
mod sleeping;
#[path = "../support/guard.rs"]
mod support;

use aio::{BoundedMethod, BoundedNotifier, Counting};

/// The setup of one instance of the suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) method: BoundedMethod,
}

impl Setup {
    /// Runs one test, or prints why this machine cannot run it.
    fn run(self, name: &'static str, test: fn(&Self)) {
        match self.method.obstacle() {
            Some(why) => eprintln!("{name} skipped: {why}"),
            None => support::guarded(name, || test(&self)),
        }
    }

    pub(crate) fn counter(&self, maximum: u64) -> BoundedNotifier {
        BoundedNotifier::builder(maximum).method(self.method).build().expect("a counter")
    }

    pub(crate) fn semaphore(&self, maximum: u64) -> BoundedNotifier {
        let builder = BoundedNotifier::builder(maximum).method(self.method);
        builder.counting(Counting::Semaphore).build().expect("a semaphore")
    }

    /// The highest maximum that the method enforces exactly.
    pub(crate) fn most(&self) -> u64 {
        match self.method {
            BoundedMethod::Kernel => u64::MAX - 1,
            BoundedMethod::Atomic => u32::MAX.into(),
            _ => 1 << 16,
        }
    }
}

/// Makes a `#[test]` of each for the `SETUP` in scope.
macro_rules! suite {
    ($($family:ident { $($test:ident,)+ })+) => {
        macro_rules! everything {
            () => {
                $($(
                    #[test]
                    fn $test() {
                        SETUP.run(concat!(module_path!(), "::", stringify!($test)), crate::$family::$test);
                    }
                )+)+
            };
        }
    };
}

suite! {
    rules {
        a_fresh_maximum_is_the_one_asked_for,
        a_maximum_that_is_set_is_got,
        a_maximum_at_the_count_or_below_is_refused,
        a_full_count_would_block_and_a_take_makes_room,
        the_count_is_seen_and_left,
        what_does_not_fit_changes_nothing,
        n_of_the_maximum_or_more_never_fits,
        maximum_one_admits_only_zero,
        maximum_zero_is_refused,
        all_ones_is_invalid,
        the_highest_maximum_is_kept,
        what_is_too_high_is_refused,
        a_counter_gives_all_and_a_semaphore_one,
        a_semaphore_is_a_queue,
        raising_makes_room_at_once,
        lowering_takes_room_away,
        random_calls_agree_with_a_model,
        clones_share_the_count,
    }
    sleeping {
        a_producer_sleeps_until_a_take,
        a_producer_sleeps_until_the_maximum_is_raised,
        a_consumer_sleeps_until_a_notify,
        stop_ends_sleeps_now_and_later,
        stop_leaves_the_rest_alone,
        a_large_producer_waits_for_all_its_room,
        small_producers_pass_a_large_one_that_can_never_go,
        posts_of_eight_producers_arrive,
        a_counter_of_eight_producers_adds_up,
        several_consumers_share_a_semaphore,
        two_large_producers_do_not_block_each_other,
        what_was_published_is_visible,
        the_maximum_changes_under_load,
    }
    loops {
        a_count_calls_the_consumer,
        what_came_before_counts,
        each_post_of_a_semaphore_is_one_call,
        many_counts_arrive_from_a_thread,
        a_consumer_may_turn_the_loop,
        a_removed_consumer_leaves_the_count_to_the_next,
        a_consumer_may_remove_itself,
        an_idle_loop_sleeps,
        a_producer_gets_a_callback_for_room,
        a_producer_that_asks_for_nothing_is_not_called,
        two_producers_in_two_loops_are_both_told,
        producer_and_consumer_in_one_loop,
        a_doorbell_that_is_never_read_is_refused_or_harmless,
    }
    processes {
        a_child_produces,
        a_child_consumes,
        a_bound_is_one_in_both_processes,
        wrong_descriptors_are_refused,
    }
    costs {
        a_pair_of_calls,
        a_batch_of_nine,
        a_sleeping_loop_is_rung_once,
    }
}

mod kernel {
    use super::*;
    const SETUP: Setup = Setup { method: BoundedMethod::Kernel };
    everything!();
}

mod atomic {
    use super::*;
    const SETUP: Setup = Setup { method: BoundedMethod::Atomic };
    everything!();
}

mod credit {
    use super::*;
    const SETUP: Setup = Setup { method: BoundedMethod::Credit };
    everything!();
}

#[test]
fn the_best_method_is_chosen_and_can_be_asked() {
    let best = BoundedNotifier::new(10).unwrap().method();
    match BoundedMethod::Kernel.obstacle() {
        None => assert_eq!(best, BoundedMethod::Kernel),
        Some(why) => {
            assert_eq!(best, BoundedMethod::Atomic);
            let refused = BoundedNotifier::builder(10).method(BoundedMethod::Kernel).build().unwrap_err();
            assert_eq!(
                (refused.kind(), refused.to_string()),
                (std::io::ErrorKind::Unsupported, why.to_owned())
            );
        }
    }
}
