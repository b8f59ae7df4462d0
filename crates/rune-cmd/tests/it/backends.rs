//! The same agent, unchanged, in every backend: one suite of cases, one of what replicas outside the daemon have to stand,
//! and what is of one backend alone.

mod any_cluster;
mod cases;
pub(crate) mod cluster;
pub(crate) mod containers;
mod docker_tools;
mod losses;
mod nodes;
mod outside;
mod pods;
mod processes;
mod real;
pub(crate) mod rig;
mod watch;

/// Makes the tests of the suite for a backend.
macro_rules! backend_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread")]
            async fn answers_streams_and_remembers_the_conversation() {
                if super::rig::is_here(BACKEND) {
                    super::cases::answers(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn runs_tools_with_their_grants() {
                if super::rig::is_here(BACKEND) {
                    super::cases::tools(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn has_the_daemon_do_what_is_the_daemons() {
                if super::rig::is_here(BACKEND) {
                    super::cases::engine_access(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_to_its_concurrency_limit() {
                if super::rig::is_here(BACKEND) {
                    super::cases::limit(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_cancel_ends_a_request_within_a_second() {
                if super::rig::is_here(BACKEND) {
                    super::cases::cancel(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_request_waits_for_a_person_and_goes_on_once() {
                if super::rig::is_here(BACKEND) {
                    super::cases::approval(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stopped_deployment_ends_its_requests_and_its_replicas() {
                if super::rig::is_here(BACKEND) {
                    super::cases::stop(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_deleted_deployment_ends_its_requests_and_its_replicas() {
                if super::rig::is_here(BACKEND) {
                    super::cases::delete(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_nothing_of_a_request_where_nothing_is_to_be_kept() {
                if super::rig::is_here(BACKEND) {
                    super::cases::unkept(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_a_session_on_its_replica() {
                if super::rig::is_here(BACKEND) {
                    super::cases::sticky(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn requests_under_way_end_well_when_what_runs_them_is_killed() {
                if super::rig::is_here(BACKEND) {
                    super::cases::killed_under_load(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn shows_what_a_replica_logs_and_uses() {
                if super::rig::is_here(BACKEND) {
                    super::cases::logs_and_stats(BACKEND).await;
                }
            }
        }
    )+};
}

// `real_cluster` is the backend `kubernetes`, too, in the cluster that `KUBECONFIG` names.
backend_suite!(wasm, process, docker, kubernetes, real_cluster);
