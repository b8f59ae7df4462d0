//! When a start is tried again, and whether replicas end again and again.

use std::collections::HashMap;
use std::time::Duration;

use rune_store_runtime::{DeploymentId, DeploymentRow};
use tokio::time::Instant;

use super::Role;

/// Pause after the first failing start; doubles with every further one.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause between two starts.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How long a replica has to have been ready for its end to count as nothing of a loop.
pub(super) const CALM: Duration = Duration::from_secs(600);

/// The pauses of everything that does not start, or does not stay.
#[derive(Default)]
pub(super) struct Backoffs(HashMap<(DeploymentId, Role), Backoff>);

struct Backoff {
    generation: u64,
    /// Failing starts and early ends.
    failures: u32,
    last: Instant,
    not_before: Instant,
    /// Whether it is so now.
    failing: bool,
    reason: String,
}

impl Backoffs {
    /// Notes a failing start.
    pub(super) fn failed(&mut self, row: &DeploymentRow, role: Role, reason: &str) {
        let entry = self.entry(row, role);
        let doublings = entry.failures;
        entry.failures += 1;
        entry.pause(doublings);
        reason.clone_into(&mut entry.reason);
        tracing::warn!(
            deployment = %row.id,
            agent = row.agent,
            failures = entry.failures,
            reason,
            "replica did not start"
        );
    }

    /// Notes that a replica ended so soon after it was ready. The first time another one is started at once.
    pub(super) fn ended(&mut self, row: &DeploymentRow, role: Role, after: Duration, why: &str) {
        let entry = self.entry(row, role);
        entry.failures += 1;
        match entry.failures.checked_sub(2) {
            None => entry.last = Instant::now(),
            Some(doublings) => entry.pause(doublings),
        }
        entry.reason = format!(
            "crash loop: replicas ended or did not start {} times, the last one {} s after it was ready ({why}); \
             starts are tried again with growing pauses",
            entry.failures,
            after.as_secs()
        );
        tracing::warn!(
            deployment = %row.id,
            agent = row.agent,
            failures = entry.failures,
            why,
            "a replica ended soon after it was ready"
        );
    }

    /// Notes that everything that is wanted runs.
    pub(super) fn rest(&mut self, id: DeploymentId, role: Role) {
        if let Some(entry) = self.0.get_mut(&(id, role)) {
            entry.failing = false;
            if entry.last.elapsed() >= CALM {
                self.0.remove(&(id, role));
            }
        }
    }

    /// Why nothing is started now; `more`: whether something would be, once the pause is over.
    pub(super) fn holds(&self, row: &DeploymentRow, role: Role, more: bool) -> Option<&str> {
        let entry = self.of(row, role).filter(|it| it.failing)?;
        let is_held = !more || Instant::now() < entry.not_before;
        is_held.then_some(entry.reason.as_str())
    }

    /// How often a start failed or a replica ended early, and the last reason.
    pub(super) fn failures(&self, row: &DeploymentRow, role: Role) -> Option<(u32, &str)> {
        let entry = self.of(row, role)?;
        Some((entry.failures, entry.reason.as_str()))
    }

    /// Whether something of a deployment does not start.
    pub(super) fn knows(&self, id: DeploymentId) -> bool {
        let mut keys = self.0.keys();
        keys.any(|(deployment, _)| *deployment == id)
    }

    pub(super) fn remove(&mut self, id: DeploymentId, role: Role) {
        self.0.remove(&(id, role));
    }

    /// What is known of the version that was rolled out is that of the deployment's own from now on.
    pub(super) fn take_over(&mut self, id: DeploymentId) {
        self.0.remove(&(id, Role::Stable));
        if let Some(entry) = self.0.remove(&(id, Role::Candidate)) {
            self.0.insert((id, Role::Stable), entry);
        }
    }

    pub(super) fn forget(&mut self, id: DeploymentId) {
        self.0.retain(|(deployment, _), _| *deployment != id);
    }

    /// Until the next start that is to be tried again. One that is due and was not tried waits for a store that does not
    /// answer.
    pub(super) fn next(&self) -> Option<Duration> {
        let now = Instant::now();
        let failing = self.0.values().filter(|entry| entry.failing);
        let pauses = failing.map(
            |entry| match entry.not_before.saturating_duration_since(now) {
                Duration::ZERO => FIRST_BACKOFF,
                pause => pause,
            },
        );
        pauses.min()
    }

    fn of(&self, row: &DeploymentRow, role: Role) -> Option<&Backoff> {
        let entry = self.0.get(&(row.id, role));
        entry.filter(|it| it.generation == row.generation)
    }

    fn entry(&mut self, row: &DeploymentRow, role: Role) -> &mut Backoff {
        let now = Instant::now();
        let fresh = || Backoff {
            generation: row.generation,
            failures: 0,
            last: now,
            not_before: now,
            failing: false,
            reason: String::new(),
        };
        let entry = self.0.entry((row.id, role)).or_insert_with(fresh);
        if entry.generation != row.generation {
            *entry = fresh();
        }
        entry
    }
}

impl Backoff {
    fn pause(&mut self, doublings: u32) {
        let pause = FIRST_BACKOFF
            .saturating_mul(1 << doublings.min(6))
            .min(MAX_BACKOFF);
        self.last = Instant::now();
        self.not_before = self.last + pause;
        self.failing = true;
    }
}
