//! Which process is meant, also by a later daemon.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
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
    /// Where it listens, once it does.
    pub(super) endpoint: String,
}

impl Record {
    /// The record of a process that has just begun.
    pub(super) fn of(pid: u32, endpoint: String) -> io::Result<Self> {
        let pid = i32::try_from(pid).unwrap_or_default();
        Ok(Self {
            pid,
            began: began(pid)?.unwrap_or_default(),
            endpoint,
        })
    }

    /// Whether it still runs. An error says that this is not known.
    pub(super) fn is_alive(&self) -> io::Result<bool> {
        Ok(began(self.pid)? == Some(self.began))
    }

    /// Signals it, and waits for its end. Answers whether it has ended.
    pub(super) async fn ends(&self, signal: Signal, longest: Duration) -> io::Result<bool> {
        let until = Instant::now() + longest;
        if self.is_alive()?
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended by now.
            let _ = kill_process(pid, signal);
        }
        while self.is_alive()? {
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    }
}

/// When a process began; nothing where there is none, or only its remains.
fn began(pid: i32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name of the program stands in brackets and may hold anything.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
    let mut fields = fields.into_iter().flatten();
    if fields.next() == Some("Z") {
        return Ok(None);
    }
    let began = fields.nth(18).and_then(|field| field.parse().ok());
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "its `stat` cannot be read");
    began.map(Some).ok_or_else(unknown)
}

/// Whether an error of the kernel says that there is no such process. One that ends while it is read has no file any more,
/// but an open one.
fn is_gone(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || code == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = Record::of(std::process::id(), String::new()).unwrap();
        assert!(own.is_alive().unwrap());
        let earlier = Record {
            began: own.began.wrapping_sub(1),
            ..own
        };
        assert!(!earlier.is_alive().unwrap());
    }
}
