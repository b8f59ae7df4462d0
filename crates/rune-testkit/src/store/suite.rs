//! The conformance suite of a store; [`crate::store_suite`] makes tests of it.

#![expect(
    clippy::unwrap_used,
    reason = "a suite is test code, only called by tests"
)]
#![expect(missing_docs, reason = "the name of a test says what it tests")]

mod approval;
mod budget;
mod control_plane;
mod event;
mod fixture;
mod fork;
mod journal;
mod knowledge;
mod outbox;
mod push;
mod quota;
mod records;
mod reject;
mod rollout;
mod scaling;
mod schedule;
mod secret;
mod session;
mod task;

pub use approval::{
    a_remembered_decision_is_found_by_its_scope, a_request_knows_its_parent,
    a_verdict_is_an_audit_row, an_approval_is_withdrawn_with_its_request,
    an_approval_parks_its_request_and_is_decided_once,
};
pub use budget::{
    a_budget_of_a_day_begins_anew, a_call_takes_less_output_where_that_is_enough,
    a_call_that_a_tool_makes_is_in_the_ledger_and_settles_what_it_reserved,
    a_deleted_session_takes_its_budget_along, a_reply_settles_what_its_call_reserved,
    a_request_that_is_not_stored_can_reserve, a_reservation_that_makes_no_sense_is_rejected,
    an_unknown_outcome_counts_as_all_that_was_reserved, no_interleaving_spends_more_than_the_cap,
    what_is_reserved_is_not_there_for_others,
};
pub use control_plane::{
    a_deployment_belongs_to_one_project, a_version_is_published_once,
    an_observation_of_an_older_generation_is_ignored, deployments_count_their_changes,
    replicas_belong_to_a_deployment,
};
pub use event::{
    an_event_is_published_once_with_its_fires, an_event_that_breaks_a_limit_is_rejected,
};
pub use fork::{
    a_fork_begins_with_the_entries_of_another_request, a_fork_spends_only_what_it_does_itself,
    a_fork_takes_over_compactions_and_spilled_outputs, a_fork_that_cannot_be_is_rejected,
    a_session_outlives_the_forks_that_show_it,
};
pub use journal::{
    a_compaction_is_a_message_and_is_billed, a_plain_request_runs_to_its_end,
    a_refused_tool_call_has_no_input, a_retried_append_writes_once,
    a_spilled_output_belongs_to_its_session, a_tool_call_is_projected_from_intent_and_result,
    cancel_is_asked_for_once, commands_of_one_caller_keep_their_order,
    journals_are_read_from_any_position, the_usage_ledger_is_summed_by_group,
    the_usage_ledger_sums_up_to_the_request,
    what_a_component_does_is_a_message_and_what_it_asks_is_billed,
    what_is_read_at_once_ends_where_it_is_large,
};
pub use knowledge::{
    entities_are_found_by_the_beginnings_of_words, relations_are_found_from_either_end,
    what_is_known_of_an_entity_is_merged,
};
pub use outbox::messages_wait_in_their_order;
pub use push::{
    a_webhook_is_due_until_it_was_told_of_the_last_entry_of_its_request,
    webhooks_are_listed_replaced_and_removed,
};
pub use quota::{
    a_decision_and_a_rollout_keep_within_the_quota, a_namespace_has_no_more_than_its_quota,
    a_quota_that_is_exceeded_holds_up_nothing_but_more,
};
pub use records::{
    a_cursor_of_another_list_is_refused, a_write_is_seen_by_the_next_read,
    audit_rows_are_listed_newest_first, audit_rows_ride_along_with_the_change_they_tell_of,
    cached_values_expire, memories_are_found_by_prefix_and_words,
};
pub use reject::{
    a_command_of_another_leadership_is_rejected, a_rejected_command_writes_nothing,
    entries_that_break_the_journal_are_rejected, limits_are_rejections, nothing_follows_the_end,
};
pub use rollout::{
    a_canary_waits_until_it_is_promoted, a_rollout_ends_without_its_version,
    a_rollout_that_cannot_be_is_rejected, a_version_is_rolled_out_where_another_one_serves,
    a_version_takes_the_place_of_one_that_does_not_serve,
    every_release_can_be_gone_back_to_in_its_order,
};
pub use scaling::{
    a_decision_about_another_state_is_rejected,
    a_deployment_is_scaled_within_the_bounds_of_its_version,
    what_a_person_asks_for_is_where_scaling_goes_on,
    who_deploys_and_names_no_number_leaves_how_many_run,
};
pub use schedule::{
    a_fire_by_hand_stands_beside_the_planned_one, a_fire_is_settled_once,
    a_schedule_fires_once_per_planned_time, a_schedule_that_goes_back_repeats_no_fire,
    only_the_newest_fires_are_kept, schedules_are_found_by_name_and_due_time,
};
pub use secret::{
    a_secret_is_replaced_and_removed_by_its_name, a_secret_that_breaks_a_limit_is_rejected,
};
pub use session::{
    a_request_follows_only_the_newest_one_of_its_session, a_retried_accept_is_the_same_request,
    a_session_is_created_once_and_deleted_whole, a_session_of_another_agent_is_a_conflict,
    accepting_a_request_writes_everything_in_one_step,
    an_idempotency_key_answers_the_earlier_request,
    an_idempotency_key_is_forgotten_after_its_window, messages_are_paged_in_order,
    requests_are_listed_and_counted_by_their_last_change,
    requests_are_listed_newest_first_by_filter,
};
pub use task::{
    a_task_comes_back_when_its_lease_is_over_and_fails_in_the_end,
    a_task_is_claimed_by_one_in_order_of_priority_and_age, only_the_holder_ends_a_task,
};
