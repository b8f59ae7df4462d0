//! Stores for tests: an in-memory [`FakeStore`], the suite that every store must
//! pass ([`crate::store_suite`]), and random command sequences.

mod fake;
mod script;
mod snapshot;
pub mod suite;

use std::any::Any;
use std::sync::Arc;

use rune_store_runtime::RuntimeStore;

pub use fake::FakeStore;
pub use script::random_commands;
pub use snapshot::snapshot;

/// A store under test with whatever must live as long as it does.
pub struct TestStore {
    /// The store.
    pub store: Arc<dyn RuntimeStore>,
    _guard: Box<dyn Any + Send>,
}

impl TestStore {
    /// A store and its guard, such as a temporary directory.
    pub fn new(store: Arc<dyn RuntimeStore>, guard: impl Any + Send) -> Self {
        Self {
            store,
            _guard: Box::new(guard),
        }
    }
}

/// Runs the conformance suite: one test for each promise of the store's traits.
/// `$make` is a function that answers a fresh, empty [`TestStore`].
#[macro_export]
macro_rules! store_suite {
    ($make:path) => {
        $crate::store_suite! { @each $make;
            accepting_a_request_writes_everything_in_one_step,
            a_retried_accept_is_the_same_request,
            an_idempotency_key_answers_the_earlier_request,
            a_request_follows_only_the_newest_one_of_its_session,
            an_idempotency_key_is_forgotten_after_its_window,
            a_session_of_another_agent_is_a_conflict,
            a_plain_request_runs_to_its_end,
            a_tool_call_is_projected_from_intent_and_result,
            a_refused_tool_call_has_no_input,
            a_spilled_output_belongs_to_its_session,
            a_compaction_is_a_message_and_is_billed,
            what_a_component_does_is_a_message_and_what_it_asks_is_billed,
            what_is_read_at_once_ends_where_it_is_large,
            entries_that_break_the_journal_are_rejected,
            a_rejected_command_writes_nothing,
            a_command_of_another_leadership_is_rejected,
            nothing_follows_the_end,
            a_retried_append_writes_once,
            cancel_is_asked_for_once,
            journals_are_read_from_any_position,
            requests_are_listed_newest_first_by_filter,
            requests_are_listed_and_counted_by_their_last_change,
            messages_are_paged_in_order,
            a_session_is_created_once_and_deleted_whole,
            a_version_is_published_once,
            a_deployment_belongs_to_one_project,
            deployments_count_their_changes,
            an_observation_of_an_older_generation_is_ignored,
            replicas_belong_to_a_deployment,
            a_canary_waits_until_it_is_promoted,
            a_deployment_is_scaled_within_the_bounds_of_its_version,
            a_decision_about_another_state_is_rejected,
            what_a_person_asks_for_is_where_scaling_goes_on,
            who_deploys_and_names_no_number_leaves_how_many_run,
            a_namespace_has_no_more_than_its_quota,
            a_quota_that_is_exceeded_holds_up_nothing_but_more,
            a_decision_and_a_rollout_keep_within_the_quota,
            a_rollout_ends_without_its_version,
            a_rollout_that_cannot_be_is_rejected,
            a_version_is_rolled_out_where_another_one_serves,
            a_version_takes_the_place_of_one_that_does_not_serve,
            every_release_can_be_gone_back_to_in_its_order,
            cached_values_expire,
            a_fire_by_hand_stands_beside_the_planned_one,
            a_fire_is_settled_once,
            a_schedule_fires_once_per_planned_time,
            a_schedule_that_goes_back_repeats_no_fire,
            only_the_newest_fires_are_kept,
            schedules_are_found_by_name_and_due_time,
            audit_rows_are_listed_newest_first,
            audit_rows_ride_along_with_the_change_they_tell_of,
            the_usage_ledger_sums_up_to_the_request,
            the_usage_ledger_is_summed_by_group,
            an_approval_parks_its_request_and_is_decided_once,
            an_approval_is_withdrawn_with_its_request,
            a_remembered_decision_is_found_by_its_scope,
            a_verdict_is_an_audit_row,
            a_request_knows_its_parent,
            a_fork_begins_with_the_entries_of_another_request,
            a_fork_spends_only_what_it_does_itself,
            a_fork_takes_over_compactions_and_spilled_outputs,
            a_fork_that_cannot_be_is_rejected,
            a_session_outlives_the_forks_that_show_it,
            memories_are_found_by_prefix_and_words,
            entities_are_found_by_the_beginnings_of_words,
            relations_are_found_from_either_end,
            what_is_known_of_an_entity_is_merged,
            a_budget_of_a_day_begins_anew,
            a_call_takes_less_output_where_that_is_enough,
            a_deleted_session_takes_its_budget_along,
            a_reply_settles_what_its_call_reserved,
            a_call_that_a_tool_makes_is_in_the_ledger_and_settles_what_it_reserved,
            a_request_that_is_not_stored_can_reserve,
            a_reservation_that_makes_no_sense_is_rejected,
            an_unknown_outcome_counts_as_all_that_was_reserved,
            no_interleaving_spends_more_than_the_cap,
            what_is_reserved_is_not_there_for_others,
            a_task_comes_back_when_its_lease_is_over_and_fails_in_the_end,
            a_task_is_claimed_by_one_in_order_of_priority_and_age,
            only_the_holder_ends_a_task,
            an_event_is_published_once_with_its_fires,
            an_event_that_breaks_a_limit_is_rejected,
            messages_wait_in_their_order,
            a_webhook_is_due_until_it_was_told_of_the_last_entry_of_its_request,
            webhooks_are_listed_replaced_and_removed,
            a_secret_is_replaced_and_removed_by_its_name,
            a_secret_that_breaks_a_limit_is_rejected,
            limits_are_rejections,
            a_cursor_of_another_list_is_refused,
            a_write_is_seen_by_the_next_read,
            commands_of_one_caller_keep_their_order,
        }
    };
    (@each $make:path; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::store::suite::$name($make()).await;
            }
        )+
    };
}
