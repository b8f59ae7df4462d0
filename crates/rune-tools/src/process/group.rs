//! A child process and everything it starts, as one process group.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long a group may take to end after `SIGTERM` before it is killed.
pub(crate) const TERMINATE_GRACE: Duration = Duration::from_millis(200);

/// How long the kernel may take to end a killed process. It is exceeded only by a
/// process that sleeps in the kernel; the call then ends without it.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// A process that leads a group of its own. Once it has ended, or this value is
/// dropped, no process of the group is left running. A process that starts a
/// session of its own (`setsid`) has left the group.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Child,
    id: Pid,
    ended: bool,
}

impl ProcessGroup {
    /// Starts the command as the leader of a new group.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let leader = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = leader
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the new process has no id"))?;
        Ok(Self {
            leader,
            id,
            ended: false,
        })
    }

    /// The ends of the leader's pipes.
    pub fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let leader = &mut self.leader;
        (
            leader.stdin.take(),
            leader.stdout.take(),
            leader.stderr.take(),
        )
    }

    /// Waits for the leader, then kills the rest of the group. May be dropped and
    /// called again.
    ///
    /// The group is killed while the leader is a zombie: its id is the group's id and
    /// cannot be given to somebody else before the leader is reaped.
    ///
    /// # Errors
    /// Where the system does not say how the leader ended.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut child_changed = signal(SignalKind::child())?;
        while !self.leader_has_exited()? {
            child_changed.recv().await;
        }
        self.send(Signal::KILL);
        let status = self.leader.wait().await?;
        self.ended = true;
        Ok(status)
    }

    /// Ends the group: politely first where `grace` is not zero.
    pub async fn stop(&mut self, grace: Duration) {
        if !grace.is_zero() {
            self.send(Signal::TERM);
            if matches!(timeout(grace, self.wait()).await, Ok(Ok(_))) {
                return;
            }
        }
        self.send(Signal::KILL);
        if timeout(KILL_GRACE, self.wait()).await.is_err() {
            tracing::warn!(pid = %self.id.as_raw_nonzero(), "a killed process has not ended");
        }
    }

    fn leader_has_exited(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(self.id), options) {
            Ok(status) => Ok(status.is_some()),
            Err(Errno::CHILD) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&self, signal: Signal) {
        if self.ended {
            return;
        }
        if let Err(errno) = kill_process_group(self.id, signal)
            && errno != Errno::SRCH
        {
            tracing::warn!(pid = %self.id.as_raw_nonzero(), %errno, "cannot signal a process group");
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}
