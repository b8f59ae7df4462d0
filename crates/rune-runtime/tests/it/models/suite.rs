//! The behaviours that every provider client has. [`provider_suite!`] runs all of them on
//! one client against the scripted server; what a provider cannot do by its nature it
//! names as a [`Gap`].

pub(crate) mod faults;
pub(crate) mod replies;

use async_trait::async_trait;
use rune_runtime::model::{LlmClient, RetryPolicy, Timeouts};
use rune_testkit::{ModelServer, Protocol};

/// What the clients log in with.
pub(crate) const KEY: &str = "test-key";

/// A provider client under test.
#[async_trait]
pub(crate) trait Subject: Sync {
    /// The protocol in which the client speaks to the server.
    fn wire(&self) -> Protocol;

    /// A client of `server` with [`KEY`].
    async fn client(&self, server: &ModelServer, tune: &Tune) -> Box<dyn LlmClient>;

    /// What it cannot do.
    fn gaps(&self) -> &[Gap] {
        &[]
    }

    /// Whether it cannot do this.
    fn lacks(&self, gap: Gap) -> bool {
        self.gaps().contains(&gap)
    }

    /// That so many requests were sent, where the client is the one who decides.
    fn sent(&self, requests: usize, expected: usize) {
        assert!(
            requests == expected || self.lacks(Gap::Retries),
            "{requests} requests instead of {expected}"
        );
    }
}

/// How a client is set up.
pub(crate) struct Tune {
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: RetryPolicy,
    /// Instead of the server's.
    pub(crate) base_url: Option<String>,
}

impl Default for Tune {
    fn default() -> Self {
        Self {
            timeouts: super::LIMITS,
            retry: RetryPolicy::default(),
            base_url: None,
        }
    }
}

/// What a provider cannot do by its nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Its calls cannot hold arguments that are not JSON.
    BrokenArguments,
    /// It has no header that forbids a retry.
    RetryHeaders,
    /// Its errors have no codes that tell a limit of money from one of requests.
    ErrorCodes,
    /// Somebody else decides how often a call is sent again.
    Retries,
    /// It cannot see.
    Images,
    /// It has no field for a schema of the answer.
    Schemas,
}

/// A test for every case of these groups.
macro_rules! cases {
    ($subject:expr; $($group:ident: [$($case:ident,)*])*) => {
        $($(
            #[tokio::test]
            async fn $case() {
                $crate::models::suite::$group::$case(&$subject).await;
            }
        )*)*
    };
}

/// The whole suite on one client, as a module of tests.
macro_rules! provider_suite {
    ($module:ident, $subject:expr) => {
        mod $module {
            use super::*;

            cases! {
                $subject;
                replies: [
                    streams_text_as_it_comes,
                    multi_byte_text_survives_any_cut,
                    counts_every_kind_of_token,
                    calls_one_tool,
                    carries_a_tool_loop_with_parallel_calls,
                    sends_reasoning_back_as_it_came,
                    repeats_the_prefix_byte_for_byte,
                    reports_why_the_model_stopped,
                    hands_over_broken_arguments_as_text,
                    shows_images,
                    holds_the_answer_to_a_schema,
                    a_schema_that_cannot_be_sent_is_said_in_words,
                ]
                faults: [
                    a_rate_limit_is_waited_for,
                    a_lasting_rate_limit_is_an_error_with_its_wait,
                    a_wait_that_is_too_long_is_not_waited_for,
                    server_errors_and_lost_connections_are_retried,
                    lasting_server_errors_are_errors,
                    what_a_retry_cannot_help_is_not_retried,
                    a_provider_may_forbid_a_retry,
                    a_limit_of_money_is_not_waited_for,
                    a_slow_first_byte_is_a_timeout,
                    silence_in_the_middle_is_a_timeout,
                    pings_alone_are_a_timeout_in_the_end,
                    a_reply_that_breaks_off_is_truncated_and_not_repeated,
                    a_reply_that_breaks_off_before_it_shows_anything_is_retried,
                    garbage_between_events_is_malformed,
                    a_web_page_is_malformed_and_tried_twice,
                    an_error_event_after_text_is_an_error,
                    an_error_event_before_anything_is_shown_is_retried,
                    an_empty_reply_is_a_reply,
                    a_provider_that_is_not_there_is_a_transport_error,
                    the_key_is_never_in_a_message,
                    dropping_the_stream_closes_the_connection,
                ]
            }
        }
    };
}
