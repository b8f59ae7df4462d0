//! Which process is meant, also by a later daemon.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often a process that ends is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Which process a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    /// When it began, as the kernel counts: a process id is used again.
    began: u64,
    /// Where it listens, once that is known.
    pub(super) endpoint: Option<String>,
}

impl Record {
    /// The record of a process that has just begun.
    pub(super) fn of(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or_default();
        Self {
            pid,
            began: began(pid).unwrap_or_default(),
            endpoint: None,
        }
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// Signals it, and waits for its end. Answers whether it has ended.
    pub(super) async fn ends(&self, signal: Signal, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended by now.
            let _ = kill_process(pid, signal);
        }
        while self.is_alive() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// When a process began; nothing where there is none, or only its remains.
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = Record::of(std::process::id());
        assert!(own.is_alive());
        let earlier = Record {
            began: own.began.wrapping_sub(1),
            ..own
        };
        assert!(!earlier.is_alive());
    }
}
