//! Tests of the contract of the event loop. Each test runs with every monitor and every reset mode
//! that the monitor supports.
//!
//! One file holds one family of tests. A test is a plain function of a [`Setup`]; the lists below
//! define the setups on which it runs, and the instances at the end create a `#[test]` for each
//! pair: `epoll_edge::notifier_written_before_add_is_delivered`. A test that is in no list is dead
//! code, and the compiler reports it.
//!
//! No test relies on sleeping or on measured time. Tests count events, and the hang guard names a
//! test that hangs and aborts it.

mod blocking;
mod bottom_halves;
mod bounded_turns;
mod busy_poll;
mod chains;
mod embedded;
mod errors;
mod fd_reuse;
mod file_operations;
mod futures;
mod gsource;
mod guide_uart;
mod intervals;
mod io_thread;
mod levels;
mod moving;
mod moving_callbacks;
mod multishot_operations;
mod nesting;
mod notifiers;
mod observed_calls;
mod observing;
mod operations;
mod outer_loops;
mod performed;
mod polled;
mod probe;
mod progress;
mod registered;
mod releases;
mod remote;
mod removal;
mod ringers;
mod safe_operations;
mod scale;
mod setup;
mod shutdown;
mod signals;
mod socket_operations;
mod subscriber_ends;
mod subscriber_threads;
mod subscriber_turns;
mod subscribers;
#[path = "../support/mod.rs"]
mod support;
mod tasks;
mod timer_handles;
mod timers;
mod virtual_clock;

use aio::Method::{KernelFlag, RingRead, RingReadMultishot};
use aio::MonitorKind::{Epoll, IoUring, Poll};
use aio::Reset::{Autoreset, AutoresetBy, Classic};
use aio::RingSetup::{CoopTaskrun, Plain};
use setup::Setup;

/// Defines a list of tests: a macro that creates a `#[test]` of each for the `SETUP` in scope.
macro_rules! suite {
    ($d:tt $list:ident $($family:ident { $($test:ident,)+ })+) => {
        macro_rules! $list {
            ($d(#[$d attribute:meta])*) => {
                $($(
                    #[test]
                    $d(#[$d attribute])*
                    fn $test() {
                        let name = concat!(module_path!(), "::", stringify!($test));
                        SETUP.run(name, crate::$family::$test);
                    }
                )+)+
            };
        }
    };
}

suite! { $ everywhere
    observed_calls {
        what_a_name_has_counted_outlives_its_callbacks,
        a_nested_turn_is_not_the_time_of_its_callback,
        a_panic_out_of_a_nested_turn_keeps_the_times_right,
        a_panic_of_hook_and_callback_is_that_of_the_callback,
        what_a_callback_drops_with_itself_is_its_time,
        a_callback_names_itself,
        what_tasks_and_subscribers_wait_for_has_names,
        a_device_that_moves_is_named,
        a_report_is_grammatical,
    }
    intervals {
        ticks_keep_their_distance,
        a_tick_ends_the_ticks,
        a_period_of_zero_lets_everything_else_run,
        a_timer_is_armed_by_its_callback,
        its_captures_go_with_it,
        a_cancel_of_another_thread_is_not_lost,
        a_nested_turn_may_enter_a_tick_again,
    }
    moving_callbacks {
        a_descriptor_calls_the_device,
        a_completion_keeps_the_device,
    }
    guide_uart {
        output_reaches_a_peer_that_sends_nothing_more,
        a_peer_that_does_not_read_costs_no_turns,
        a_peer_that_is_gone_costs_no_turns,
    }
    progress {
        a_turn_without_events_is_not_progress,
        the_own_notifier_is_not_progress,
        a_sleeping_loop_is_woken_by_notify,
        notify_before_the_turn_keeps_it_from_sleeping,
        an_idle_bottom_half_is_not_progress,
        a_cancelled_bottom_half_is_not_progress,
        each_kind_of_callback_is_progress,
        bottom_halves_then_handlers_then_timers,
        a_bottom_half_of_a_handler_runs_in_the_next_turn,
        a_bottom_half_of_a_timer_runs_in_the_next_turn,
        a_due_timer_keeps_the_turn_from_sleeping,
        stop_ends_run,
        stop_before_run_ends_the_next_run,
        a_nested_run_takes_the_stop_first,
        an_idle_loop_sleeps,
        counters_count,
        work_in_every_turn_does_not_starve_descriptors,
    }
    bottom_halves {
        all_that_are_scheduled_run_once,
        schedules_coalesce,
        a_cancelled_one_does_not_run,
        a_cancelled_one_can_be_scheduled_again,
        cancel_reaches_one_that_is_due_in_this_turn,
        dropping_takes_the_schedule_back,
        delete_reaches_one_that_is_due_in_this_turn,
        one_may_delete_itself_in_its_callback,
        one_that_schedules_itself_runs_in_the_next_turn,
        an_idle_one_runs_without_being_progress,
        an_idle_one_becomes_urgent_when_scheduled,
        an_urgent_one_stays_urgent_when_scheduled_idle,
        a_deferred_closure_runs_once_in_the_next_turn,
        closures_from_four_threads_run_once_each,
        a_sleeping_loop_is_written_to_once,
        four_threads_schedule_one_and_nothing_is_lost,
        a_thread_wakes_the_sleeping_loop,
        handles_outlive_bottom_half_and_context,
        a_nested_turn_runs_what_its_parent_has_left,
        what_a_nested_turn_schedules_is_not_lost,
        captures_are_dropped_with_the_bottom_half,
    }
    timers {
        run_in_order_of_their_deadlines,
        equal_deadlines_run_in_order_of_arming,
        arming_again_moves_to_the_end_of_equals,
        armed_in_the_past_by_its_callback_runs_in_the_next_turn,
        cancel_reaches_one_that_expired_in_this_turn,
        rearming_reaches_one_that_expired_in_this_turn,
        anticipate_only_moves_forward_in_time,
        pending_from_arming_until_the_callback_begins,
        one_may_be_dropped_in_its_callback,
        drop_reaches_one_that_expired_in_this_turn,
        the_virtual_clock_stands_still_until_started,
        the_virtual_clock_steps_exactly,
        a_running_virtual_clock_wakes_the_loop,
        a_stopped_virtual_clock_does_not_keep_the_loop_awake,
        never_early,
        the_end_of_time_is_no_error,
        one_armed_by_a_handler_shortens_the_next_sleep,
        a_nested_turn_runs_what_its_parent_has_left_over,
        random_arming_agrees_with_a_model,
        a_dead_context_leaves_its_timers_inert,
    }
    timer_handles {
        another_thread_arms_the_timer_of_a_sleeping_loop,
        what_was_written_before_is_visible,
        the_last_call_wins,
        calls_of_the_home_thread_come_after_those_before_them,
        a_request_is_no_progress,
        many_calls_are_carried_out_as_one,
        a_cancel_does_not_wake_the_loop,
        each_call_is_followed_by_one_run,
        calls_of_four_threads_and_the_home_thread,
        its_callback_arms_it_through_the_handle,
        on_the_virtual_clock,
        handles_outlive_timer_and_context,
    }
    virtual_clock {
        a_context_has_a_clock_of_its_own_unless_it_is_given_one,
        one_step_is_seen_by_the_timers_of_every_loop,
        a_step_by_another_thread_wakes_the_loop,
        a_start_by_another_thread_wakes_the_loop,
        a_loop_without_timers_on_the_clock_sleeps_on,
        a_loop_does_not_wake_itself,
        a_loop_that_is_awake_is_not_written_to,
        time_never_goes_back_between_threads,
        nothing_expires_after_a_stop,
        a_clock_outlives_its_loops,
    }
    moving {
        a_device_moves_there_and_back,
        a_ring_that_was_not_dispatched_is_heard_on_the_next_loop,
        it_moves_itself_in_its_callback,
        it_does_not_leave_in_its_own_callback,
        a_stay_keeps_it,
        a_loop_that_refuses_sends_it_back,
        a_refusal_at_the_first_loop_leaves_it_with_its_owner,
        an_order_given_in_a_refusal_comes_before_the_way_back,
        a_dropped_target_is_an_error_and_it_stays,
        it_survives_its_loop,
        it_is_detached_when_its_loop_ends,
        a_panic_in_detach_at_the_end_of_a_loop_loses_nothing,
        the_last_move_wins,
        it_is_called_back_from_its_way_to_a_loop_that_does_not_turn,
        each_call_reports_the_reason_in_each_state,
        release_gives_it_back,
        dropping_the_owner_takes_it_off_its_loop,
        a_panic_in_detach_loses_nothing,
        a_panic_in_attach_sends_it_back,
        a_panic_in_the_report_of_a_replaced_move_loses_nothing,
        the_attachment_is_dropped_with_the_loop,
        a_stream_moves_between_two_threads,
        rings_of_two_threads_survive_moves_between_two_others,
        rings_survive_moves_of_a_device_with_a_task,
        a_stay_may_outlive_the_context,
    }
    notifiers {
        notifier_written_before_add_is_delivered,
        notifier_written_after_add_is_delivered,
        notifier_written_in_its_handler_is_delivered_again,
        each_of_many_writes_is_delivered,
        writes_coalesce,
        a_silent_notifier_is_not_called,
        no_read_unless_classic,
        the_method_is_the_one_asked_for,
        autoreset_reports_its_fallback,
        an_unfit_method_is_refused_and_the_handler_comes_back,
        a_full_counter_rings,
        a_full_counter_is_delivered,
        test_and_clear_tells_and_resets,
        clones_ring_the_same_bell,
        a_registered_notifier_outlives_its_owner,
        adopts_an_eventfd,
        adopt_refuses_what_is_no_doorbell,
        a_peer_that_fills_the_counter_blocks_nobody,
        what_was_published_is_visible,
        nothing_is_lost_while_the_loop_lives_on,
        rung_for_one_context_is_heard_in_the_next,
        a_loop_that_never_sleeps_hears_other_threads,
    }
    ringers {
        it_is_heard_when_the_loop_turns_again,
        it_is_heard_while_the_loop_sleeps,
        it_rides_on_the_sleep,
        it_is_at_once_if_the_loop_has_more_to_do,
        dropping_the_ringer_loses_nothing,
        dropping_the_context_loses_nothing,
        a_peer_cannot_hold_it_up,
        a_full_counter_is_rung,
        many_rings_of_a_turn_do_not_deafen_it,
        it_is_heard_when_the_loop_ends,
        an_embedded_loop_does_not_wait,
    }
    levels {
        an_undrained_handler_is_called_every_turn,
        a_drained_handler_is_not_called_again,
        data_that_came_before_add_counts,
        a_writable_socket_is_ready_every_turn,
        readable_and_writable_come_in_one_call,
        the_end_of_a_stream_is_a_hang_up,
        a_closed_reader_is_an_error,
        interest_none_is_silent_but_hears_the_hang_up,
        interest_can_be_taken_back_and_given_again,
        interest_is_in_force_in_the_next_turn,
        interest_changes_in_the_callback,
        interest_masks_what_was_collected,
        set_interest_is_for_live_fd_handlers,
        a_half_closed_peer_does_not_spin,
        a_half_closed_peer_leaves_the_other_half_working,
        a_stream_arrives_whole,
    }
    releases {
        the_peer_sees_the_close_of_a_removed_handler,
        the_peer_sees_the_close_of_a_handler_that_changed,
        the_peer_sees_the_close_by_its_own_callback,
        the_peers_of_many_removed_handlers_see_the_close,
        the_address_of_a_removed_listener_can_be_bound,
        a_child_sees_the_end_of_its_input,
        the_peers_of_a_dropped_context_see_the_close,
        a_removal_races_with_the_peer,
        a_handler_closes_the_descriptor_that_it_owns,
        a_handler_that_removes_itself_closes_after_its_callback,
        a_refused_descriptor_comes_back_open,
    }
    removal {
        a_dropped_handler_is_not_called,
        a_removed_handler_leaves_the_kernel,
        one_handler_removes_the_other_while_both_are_ready,
        a_handler_removes_itself,
        a_handler_removes_itself_and_turns,
        a_nested_turn_removes_its_parents_handlers,
        another_thread_removes_by_id,
        remove_is_once,
        replaced_while_ready,
        replaced_in_its_callback,
        a_replaced_notifier_hears_what_was_rung,
        a_replaced_registration_is_inert,
        a_dead_context_leaves_registrations_inert,
        detached_handlers_stay_until_removed,
        captures_are_dropped_after_the_callback,
        captures_may_hold_registrations,
        added_and_removed_in_one_turn,
        added_in_a_callback_is_served,
    }
    fd_reuse {
        a_number_reused_in_a_callback_does_not_reach_the_old_handler,
        a_number_reused_under_a_new_registration_reaches_only_that,
        a_copy_that_outlives_the_handler_does_not_spin,
        a_copy_that_outlives_the_number_does_not_starve_the_others,
        the_same_file_again_under_the_same_number,
        two_numbers_of_one_file_are_two_handlers,
        slots_are_reused_without_confusion,
        a_late_event_does_not_reach_the_next_in_the_slot,
        a_descriptor_closed_under_its_handler_does_not_spin,
    }
    nesting {
        from_an_fd_handler,
        from_a_notifier,
        from_a_bottom_half,
        from_a_deferred_closure,
        from_a_timer,
        from_a_polled_device,
        blocking_from_every_kind_of_callback,
        what_the_parent_collected_is_dispatched_once,
        a_nested_turn_reenters_an_undrained_handler,
        deep_nesting_unwinds,
        stop_in_a_nested_run_returns_to_the_outer,
        two_contexts_in_one_thread,
    }
    signals {
        a_signal_ends_a_sleep_without_an_error,
        nothing_is_lost_in_a_storm,
        timers_are_never_early_in_a_storm,
        streams_arrive_whole_in_a_storm,
    }
    subscribers {
        events_say_which_descriptor_and_why,
        added_in_process_is_heard_in_the_next_turn,
        a_number_is_taken_once,
        a_refused_descriptor_leaves_no_trace,
        removed_in_process_is_not_heard_again,
        modify_replaces_interest_and_data,
        what_was_collected_comes_with_new_data,
        a_removed_subscriber_comes_back,
        each_of_many_hears_its_own,
        a_hang_up_is_reported_until_it_is_removed,
        added_again_in_process_is_not_heard_in_the_same_turn,
        timers_and_operations_are_at_hand,
    }
    subscriber_turns {
        a_nested_turn_keeps_its_descriptor_back,
        a_ring_during_the_call_is_processed_after_it,
        a_nested_turn_serves_the_others,
        events_wait_for_init_and_with,
        changes_of_what_is_kept_back_count,
        a_ring_that_was_kept_back_stays_for_the_next_handler,
        what_cannot_be_watched_again_is_an_error,
        a_handler_of_the_context_keeps_a_number_that_it_took,
    }
    subscriber_ends {
        a_subscriber_removes_itself,
        one_subscriber_removes_the_other_while_both_are_ready,
        one_that_is_being_called_can_only_be_dropped,
        a_subscriber_drops_the_manager,
        a_dropped_manager_leaves_nothing,
        a_panic_in_process_leaves_all_of_them_working,
        a_panic_in_init_takes_the_subscriber_away,
        a_panic_in_drop_spares_the_others,
        a_subscriber_may_use_the_manager_while_it_is_dropped,
        a_dead_context_refuses_subscribers,
    }
    subscriber_threads {
        boxes_and_shared_subscribers_are_subscribers,
        a_thread_of_its_own_serves_others,
        another_thread_changes_the_subscribers,
        a_scheduled_closure_may_end_the_manager,
        a_manager_that_was_dropped_in_a_call_runs_no_closure,
    }
    errors {
        a_regular_file_is_refused,
        a_device_that_cannot_be_polled_is_refused,
        a_regular_file_that_can_be_polled_is_watched,
        a_closed_descriptor_is_refused,
        a_refused_handler_leaves_no_trace,
        what_was_chosen_can_be_asked,
        a_panic_leaves_the_loop_working,
    }
}

// What an outer loop does not do (busy polling), or has no part in.
suite! { $ by_itself
    busy_poll {
        off_never_begins,
        lingering_looks_after_work_and_comes_to_an_end,
        begins_after_the_first_event_and_ends_before_sleep,
        a_hit_needs_no_event_and_no_system_call,
        the_last_look_follows_the_end,
        the_mode_survives_turns_that_do_not_sleep,
        begin_and_end_balance_on_removal,
        begin_and_end_balance_on_switching_off,
        begin_and_end_balance_on_replacement,
        begin_and_end_balance_when_the_context_goes,
        a_busy_device_does_not_starve_descriptors,
        a_timer_ends_the_search,
        a_notified_bottom_half_ends_the_search,
        a_device_that_becomes_ready_ends_the_search,
        hits_and_misses_are_counted,
        a_nested_turn_does_not_reenter_a_ready_device,
        a_nested_turn_serves_the_other_devices,
        work_that_came_while_the_mode_ended_inside_process_is_done,
        what_a_hook_schedules_is_not_slept_over,
        a_hook_may_remove_handlers,
        work_left_by_a_removed_device_rings,
        many_devices_are_all_served,
    }
    scale {
        five_thousand_ready_at_once,
        one_ready_of_five_thousand,
        more_contexts_in_one_thread_than_it_has_ring_slots,
    }
    io_thread {
        runs_closures_in_its_thread,
        its_state_is_dropped_in_its_thread_before_the_context,
        stop_returns_after_the_turn,
        drop_stops_it,
        an_error_of_init_comes_back,
        a_panic_of_init_is_an_error,
        stop_returns_the_panic_of_a_callback,
        the_end_by_a_panic_is_noticed,
        the_end_by_a_stop_is_noticed,
        one_that_is_dropped_or_stopped_in_its_own_thread,
        run_in_its_own_thread_is_an_error,
        run_on_one_that_ended_is_an_error,
        serves_notifiers,
    }
    blocking {
        a_result_comes_back_to_the_home_thread,
        many_come_back_once_each,
        cancel_reaches_work_that_has_not_begun,
        cancel_is_too_late_for_work_that_has_begun,
        work_begins_in_order,
        a_panic_of_the_work_is_a_result,
        a_sleeping_loop_is_woken_by_a_result,
        the_callback_may_submit_turn_and_cancel,
        a_dropped_context_waits_for_work_that_has_begun,
        captures_of_a_dropped_context_may_cancel,
        a_range_without_a_thread_is_refused,
        blocking_work_is_awaited,
        a_dropped_future_cancels_work_that_has_not_begun,
        blocking_work_that_cannot_be_submitted_is_an_error,
    }
    observing {
        a_dump_has_names_and_states,
        a_timer_with_a_handle_gets_its_name,
        a_dump_is_printed_one_line_for_each,
        a_name_can_be_changed_and_goes_with_the_handler,
        a_profile_counts_every_kind_of_callback,
        a_profile_begins_from_zero_and_is_kept_when_it_ends,
        a_profile_measures_the_time_of_a_callback,
        a_callback_that_panics_counts,
        a_callback_may_dump_and_switch_the_profile,
        slow_callbacks_are_reported_with_name_and_kind,
        a_hook_that_was_replaced_or_removed_is_not_called,
        a_hook_may_turn_the_loop_and_remove_itself,
        a_panic_of_the_hook_leaves_the_loop_working,
        the_hook_is_dropped_with_the_context,
        a_dump_has_the_tasks_with_names_and_states,
        polls_of_tasks_are_profiled_by_name,
        polls_of_tasks_between_turns_are_observed,
        a_panic_of_the_hook_after_a_poll_loses_no_task,
    }
    remote {
        a_task_on_another_loop_returns_its_result,
        a_thousand_results_come_back_and_none_is_lost,
        remote_tasks_keep_the_order_of_schedule,
        a_panic_of_a_remote_task_is_an_error_and_its_loop_goes_on,
        a_loop_that_ends_first_is_an_error,
        a_remote_task_runs_on_without_its_handle,
    }
    tasks {
        a_spawned_future_runs_in_the_next_turn,
        a_handle_is_awaited_by_another_task,
        tasks_come_last_in_a_turn,
        a_task_runs_in_the_turn_in_which_it_is_woken,
        many_wakes_are_one_poll,
        a_wake_in_the_home_thread_writes_nothing,
        a_wake_from_another_thread_ends_the_sleep,
        wakes_of_four_threads_are_all_followed_by_a_poll,
        a_task_that_never_rests_does_not_keep_the_turn,
        as_many_tasks_as_were_ready_are_polled_in_a_turn,
        two_tasks_hand_over_without_growing_the_stack,
        an_aborted_task_is_dropped_in_the_next_turn,
        a_task_aborts_itself,
        a_task_drops_its_own_handle,
        a_panic_is_a_result_or_unwinds_out_of_poll,
        a_panic_of_a_drop_is_reported_once,
        a_dropped_context_drops_its_tasks,
        panics_of_detached_tasks_go_on_when_the_context_is_dropped,
        a_stale_waker_wakes_nobody,
        a_task_that_turns_the_loop_is_not_entered_again,
        block_on_returns_the_result,
        block_on_is_woken_by_another_thread,
        a_panic_in_block_on_leaves_the_loop_working,
        block_on_does_not_sleep_over_a_future_that_the_last_poll_made_ready,
        yielding_lets_the_others_go_first,
        a_local_handle_outlives_its_context,
        a_task_drops_its_context,
        slots_are_used_again,
    }
    futures {
        sleeps_are_over_in_order_and_never_early,
        a_sleep_follows_its_clock,
        a_sleep_moves_to_another_task,
        a_dropped_sleep_wakes_nobody,
        a_sleep_of_a_dropped_context_is_never_over,
        a_waker_of_a_sleep_uses_the_loop_while_it_is_dropped,
        a_timeout_limits_a_future,
        a_doorbell_is_awaited,
        no_ring_is_lost_between_awaits,
        a_doorbell_rung_by_a_thread_is_heard_each_time,
        a_dropped_doorbell_leaves_its_ring_to_the_next_handler,
        a_descriptor_is_awaited,
        both_directions_of_a_stream_are_awaited_at_once,
        a_descriptor_that_nobody_awaits_is_silent,
        a_dropped_wait_for_a_descriptor_loses_nothing,
        two_wait_for_one_descriptor,
        a_dropped_async_fd_leaves_nothing,
        a_descriptor_that_cannot_be_awaited_comes_back,
    }
    bounded_turns {
        a_device_that_stays_ready_runs_once_in_a_turn,
        two_devices_that_stay_ready_do_not_keep_the_turn,
        stop_ends_run_while_a_device_stays_ready,
        others_are_served_while_a_device_stays_ready,
        a_handler_that_rings_itself_and_nests_loses_nothing_of_its_parent,
        what_a_removal_collects_waits_for_the_next_turn,
        closures_of_threads_that_never_rest_do_not_keep_the_turn,
        stop_ends_run_while_threads_never_rest,
        a_bottom_half_that_schedules_itself_runs_once_in_a_turn,
        a_deferred_closure_that_defers_again_runs_once_in_a_turn,
        a_closure_that_schedules_another_runs_once_in_a_turn,
        a_timer_that_is_armed_in_the_past_again_runs_once_in_a_turn,
        sources_that_are_due_again_and_nest_do_not_keep_the_turn,
        others_are_served_while_nothing_rests,
    }
}

suite! { $ on_a_ring
    observing {
        a_dump_has_the_operations_in_flight,
    }
    operations {
        a_file_is_written_and_read,
        an_error_comes_as_a_result,
        a_pending_read_completes_and_gives_its_buffer_back,
        a_queued_operation_does_not_wait_behind_a_sleep,
        operations_may_be_submitted_in_their_callback,
        completions_run_before_bottom_halves,
        every_value_comes_back_once,
        more_operations_than_the_ring_has_entries,
        a_full_completion_queue_loses_nothing,
        cancel_ends_a_pending_read,
        cancel_is_too_late_for_what_has_completed,
        a_multishot_operation_completes_many_times,
        a_nested_turn_runs_its_parents_completions,
        nested_turns_from_a_completion,
        in_a_storm_of_signals,
        other_threads_complete_them,
        a_ring_of_any_size_will_do,
    }
    safe_operations {
        a_waiting_operation_is_cancelled,
        a_poll_sees_what_it_waits_for,
        a_timeout_is_never_early,
        a_dropped_context_frees_what_operations_own,
        a_pool_gives_each_output_to_its_request,
        a_pool_is_used_in_its_callback,
        a_panic_of_a_users_file_starts_nothing,
    }
    file_operations {
        every_kind_of_buffer_is_written_and_read,
        the_position_of_a_file_is_used_and_moved,
        reads_and_writes_report_errors,
        vectors_are_written_and_read,
        storage_is_flushed_and_allocated,
        a_path_is_opened_and_its_status_is_read,
        a_descriptor_is_closed_once,
        bytes_are_spliced_through_a_pipe,
        files_come_back,
    }
    socket_operations {
        a_connection_is_made_and_accepted,
        accepts_in_flight_keep_their_addresses,
        waiting_socket_operations_are_cancelled,
        bytes_of_a_stream_are_received_as_they_come,
        descriptors_are_passed,
        what_does_not_fit_is_reported,
        an_empty_message_with_descriptors_is_refused_on_a_stream,
        a_dropped_context_closes_what_the_kernel_has_opened,
    }
    multishot_operations {
        a_listener_accepts_again_and_again,
        a_full_completion_queue_ends_no_listener,
        a_full_completion_queue_ends_no_stream,
        an_item_of_an_interrupted_operation_may_cancel_it,
        a_stream_is_received_in_pieces,
        without_buffers_the_data_waits,
        many_connections_share_four_buffers,
        a_connection_that_found_no_buffer_keeps_its_turn,
        a_receive_that_waits_for_a_buffer_can_be_cancelled,
        an_operation_that_waits_for_a_buffer_ends_with_its_context,
        a_group_belongs_to_its_context,
        groups_come_and_go,
        lent_buffers_outlive_their_context,
        a_dropped_context_closes_connections_that_nobody_has_seen,
    }
    registered {
        a_registered_file_needs_no_descriptor,
        the_table_of_files_is_used_again,
        a_registration_ends_with_its_last_operation,
        a_registered_buffer_is_written_and_read,
        many_operations_share_one_registered_buffer,
        the_table_of_buffers_is_used_again,
    }
    chains {
        a_chain_is_never_split,
        many_chains_behind_a_full_queue,
        a_chain_ends_where_it_fails,
        cancel_ends_a_chain,
        the_loop_works_while_a_chain_waits,
        a_chain_that_does_not_fit_is_refused,
        flags_that_reach_further_are_refused,
        a_dropped_context_ends_a_chain,
    }
    shutdown {
        dropping_operations_cancels_nothing,
        a_dropped_context_waits_for_the_kernel,
        a_dropped_context_leaves_nothing_in_the_kernel,
        captures_of_a_dropped_context_cannot_submit,
        after_the_context_nothing_is_taken,
    }
    performed {
        an_operation_is_awaited,
        many_operations_are_awaited_at_once,
        a_dropped_perform_cancels_its_operation,
        a_timeout_cancels_an_operation,
        a_dropped_context_ends_what_is_awaited,
    }
    bounded_turns {
        an_operation_that_submits_the_next_does_not_keep_the_turn,
    }
}

suite! { $ in_an_outer_loop
    embedded {
        what_the_home_thread_adds_ends_the_sleep,
        a_woken_task_ends_the_sleep,
        a_step_of_the_clock_ends_the_sleep,
        a_change_of_an_interest_ends_the_sleep,
        a_removal_in_the_sleep_hides_no_event,
        additions_write_once,
        a_later_timer_does_not_end_the_sleep,
        the_deadline_is_the_nearest_timer,
        another_thread_ends_the_sleep,
        a_notification_outside_of_the_sleep_is_not_slept_over,
        no_ring_is_lost,
        a_descriptor_that_stays_ready_is_served_in_every_iteration,
        nobody_polls,
        a_doorbell_costs_one_look,
        a_turn_of_its_own_ends_the_sleep,
        a_turn_of_its_own_takes_no_notification_away,
        turns_nest_in_a_dispatch,
        the_outer_loop_nests_in_a_dispatch,
        a_panic_leaves_the_context_embedded,
        the_descriptor_stays_the_same,
        one_outer_loop_at_a_time,
        a_context_has_to_be_made_for_it,
        prepare_ends_busy_polling,
        an_outer_loop_may_go_in_a_callback,
        check_finds_an_idle_bottom_half,
        dispatch_alone_takes_a_notification,
    }
    gsource {
        flush,
        bottom_half_schedule,
        bottom_half_schedules_itself_ten_times,
        bottom_half_cancel,
        bottom_half_delete,
        bottom_halves_delete_themselves,
        a_notifier_comes_and_goes,
        a_notifier_is_waited_for,
        a_notifier_that_rings_itself_is_flushed,
        a_notifier_is_waited_for_beside_another,
        a_timer_is_armed_again_by_its_callback,
    }
}

suite! { $ in_an_outer_loop_on_a_ring
    embedded {
        an_operation_ends_the_sleep,
    }
}

suite! { $ without_a_ring
    operations {
        operations_are_refused_with_the_reason,
    }
    performed {
        an_awaited_operation_is_refused_with_the_reason,
    }
    safe_operations {
        without_a_ring_everything_comes_back,
    }
}

mod poll_classic {
    use super::*;
    const SETUP: Setup = Setup::new(Poll, Classic);
    everywhere!();
    by_itself!();
    without_a_ring!();
}

mod poll_autoreset {
    use super::*;
    const SETUP: Setup = Setup::new(Poll, Autoreset);
    everywhere!();
    by_itself!();
    without_a_ring!();
}

mod poll_kernel_flag {
    use super::*;
    const SETUP: Setup = Setup::new(Poll, AutoresetBy(KernelFlag));
    everywhere!(#[ignore = "needs a kernel with EFD_AUTORESET"]);
    by_itself!(#[ignore = "needs a kernel with EFD_AUTORESET"]);
}

mod epoll_classic {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, Classic);
    everywhere!();
    by_itself!();
    without_a_ring!();
}

mod epoll_edge {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, Autoreset);
    everywhere!();
    by_itself!();
    without_a_ring!();
}

mod epoll_edge_profiled {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, Autoreset).profiled();
    everywhere!();
}

mod epoll_kernel_flag {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, AutoresetBy(KernelFlag));
    everywhere!(#[ignore = "needs a kernel with an EFD_AUTORESET that acknowledges at delivery"]);
    by_itself!(#[ignore = "needs a kernel with an EFD_AUTORESET that acknowledges at delivery"]);
}

mod io_uring_classic {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Classic);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_edge {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Autoreset);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_edge_profiled {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Autoreset).profiled();
    everywhere!();
    on_a_ring!();
}

mod io_uring_ring_read {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingRead));
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_ring_read_multishot {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingReadMultishot));
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_plain_ring_read {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingRead)).ring(Plain);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_plain_ring_read_multishot {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingReadMultishot)).ring(Plain);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_coop_classic {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Classic).ring(CoopTaskrun);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_coop_edge {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Autoreset).ring(CoopTaskrun);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_plain_classic {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Classic).ring(Plain);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod io_uring_plain_edge {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Autoreset).ring(Plain);
    everywhere!();
    by_itself!();
    on_a_ring!();
}

mod poll_classic_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(Poll, Classic).embedded();
    everywhere!();
    in_an_outer_loop!();
}

mod poll_autoreset_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(Poll, Autoreset).embedded();
    everywhere!();
    in_an_outer_loop!();
}

mod epoll_classic_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, Classic).embedded();
    everywhere!();
    in_an_outer_loop!();
}

mod epoll_edge_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(Epoll, Autoreset).embedded();
    everywhere!();
    in_an_outer_loop!();
}

mod io_uring_classic_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Classic).ring(CoopTaskrun).embedded();
    everywhere!();
    in_an_outer_loop!();
    in_an_outer_loop_on_a_ring!();
    on_a_ring!();
}

mod io_uring_edge_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, Autoreset).ring(CoopTaskrun).embedded();
    everywhere!();
    in_an_outer_loop!();
    in_an_outer_loop_on_a_ring!();
    on_a_ring!();
}

mod io_uring_ring_read_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingRead)).ring(CoopTaskrun).embedded();
    everywhere!();
    in_an_outer_loop!();
    in_an_outer_loop_on_a_ring!();
    on_a_ring!();
}

mod io_uring_plain_ring_read_multishot_embedded {
    use super::*;
    const SETUP: Setup = Setup::new(IoUring, AutoresetBy(RingReadMultishot)).ring(Plain).embedded();
    everywhere!();
    in_an_outer_loop!();
    in_an_outer_loop_on_a_ring!();
    on_a_ring!();
}
