//! Commands: the only way to change anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AcceptRequest, Accepted, AppendEntries, Appended, ApplyDeployment, ApprovalRow,
    AutoscaleDeployment, CachePut, CacheRemove, CacheSweep, ClaimTask, CommandId, CompleteRollout,
    CompleteTask, CreateSession, DecideApproval, DeleteDeployment, DeleteSchedule, DeleteSession,
    DeploymentRow, FireSchedule, MemoryForget, MemoryPut, PauseSchedule, PostTask, PromoteRollout,
    PublishEvent, PublishVersion, PutEntity, PutPush, PutRelation, PutReplica, PutSchedule,
    PutSecret, QueueMessage, Quota, RecordAudit, Reject, RemovePush, RemoveReplica, RemoveSecret,
    RequestCancel, RequestId, ReserveBudget, RollBack, ScaleDeployment, SetDeploymentState,
    SettleBudget, SettleFire, SettlePush, StartRollout, StoreError, TaskRow, Timestamp, VersionRow,
};

/// A change, complete with everything it depends on: applying the same commands
/// in the same order gives the same state on every node, whenever it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Version of the command format that it needs; [`Op::since`] when made here.
    pub v: u16,
    /// The same for every retry of one change.
    pub id: CommandId,
    /// The time of the change, from the clock of whoever made it.
    pub at: Timestamp,
    /// The change.
    pub op: Op,
    /// What is written to the audit trail with it: in the same commit, and only where the change is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<RecordAudit>,
    /// The leadership that it counts under, where it counts under one alone: a log that was led by
    /// another one when the command came into it refuses the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Leadership>,
    /// What a change of a deployment must keep within.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// Who orders the commands of a replicated log, and since when. It is nobody's twice: a node that
/// leads again, also after a restart, does so in a greater term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leadership {
    /// The term. Two nodes may lead in one, the greater number after the smaller one, so that it
    /// says nothing alone.
    pub term: u64,
    /// The node.
    pub node: u64,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} in term {}", self.node, self.term)
    }
}

impl Op {
    /// The journal that the change writes, where a store knows only the last such change again: no
    /// two of them are to be under way at once.
    #[must_use]
    pub const fn journal(&self) -> Option<RequestId> {
        match self {
            Self::AcceptRequest(op) => Some(op.request_id),
            Self::AppendEntries(op) => Some(op.request_id),
            _ => None,
        }
    }

    /// The version of the command format in which the change came up. A new change, and a new field
    /// without which an old one means something else, is of a new version: a cluster whose nodes do not all understand it
    /// refuses it.
    #[must_use]
    pub const fn since(&self) -> u16 {
        Command::OLDEST
    }
}

impl Command {
    /// The oldest version of the command format, which is understood for as long as there are logs
    /// with it.
    pub const OLDEST: u16 = 1;
    /// The newest version of the command format that this code understands.
    pub const VERSION: u16 = 1;

    /// Whether this code understands its version.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        Self::OLDEST <= self.v && self.v <= Self::VERSION
    }

    /// A command made at `at`.
    pub fn new(at: Timestamp, op: impl Into<Op>) -> Self {
        let op = op.into();
        Self {
            v: op.since(),
            id: CommandId::generate(),
            at,
            op,
            audit: Vec::new(),
            fence: None,
            quota: None,
        }
    }

    /// The same command with rows for the audit trail.
    #[must_use]
    pub fn audited(self, audit: Vec<RecordAudit>) -> Self {
        Self { audit, ..self }
    }

    /// The same command, which is rejected where it adds more to the deployments of a namespace than they may come to.
    #[must_use]
    pub fn within(self, quota: Quota) -> Self {
        let quota = Some(quota);
        Self { quota, ..self }
    }

    /// The same command, which counts only as long as this leadership lasts.
    #[must_use]
    pub fn fenced(self, by: Leadership) -> Self {
        let fence = Some(by);
        Self { fence, ..self }
    }

    /// Whether it counts in a log that was led so when the command came into it; there is none in
    /// the store of a single node.
    ///
    /// # Errors
    /// [`Reject::Fenced`].
    pub fn check_fence(&self, led: Option<Leadership>) -> Result<(), Reject> {
        match self.fence {
            Some(made) if led != Some(made) => Err(Reject::Fenced { made }),
            _ => Ok(()),
        }
    }
}

/// A change that a command can carry, with the type of its reply.
pub trait Operation: Into<Op> + Send {
    /// What applying it answers.
    type Reply;

    /// The typed form of the reply.
    ///
    /// # Errors
    /// [`StoreError::Protocol`] where the reply belongs to another change.
    fn reply(reply: Reply) -> Result<Self::Reply, StoreError>;
}

macro_rules! replies {
    ($($(#[$doc:meta])* $variant:ident($ty:ty)),+ $(,)?) => {
        /// What applying a command answers.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "reply", content = "value", rename_all = "snake_case")]
        pub enum Reply {
            $($(#[$doc])* $variant($ty),)+
        }

        impl Reply {
            const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)+ }
            }
        }
    };
}

replies! {
    /// The change has nothing to say.
    Unit(()),
    /// A request was accepted, now or earlier.
    Accepted(Accepted),
    /// Entries were added.
    Appended(Appended),
    /// An approval as it is now.
    Approval(ApprovalRow),
    /// A deployment as it is now.
    Deployment(DeploymentRow),
    /// A version as it is now.
    Version(VersionRow),
    /// Whether this command was the first of its kind.
    First(bool),
    /// A task as it is now, where there is one.
    Task(Option<Box<TaskRow>>),
    /// How many: of rows that were touched, of tokens that were granted.
    Count(u64),
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident => $reply:ident($ty:ty)),+ $(,)?) => {
        /// Every change there is. The tag is the stored name; it is never renamed.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", content = "args", rename_all = "snake_case")]
        pub enum Op {
            $($(#[$doc])* $variant($variant),)+
        }

        impl Op {
            /// The name of the change, for metrics and logs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)+ }
            }
        }

        $(
            impl From<$variant> for Op {
                fn from(op: $variant) -> Self {
                    Self::$variant(op)
                }
            }

            impl Operation for $variant {
                type Reply = $ty;

                fn reply(reply: Reply) -> Result<$ty, StoreError> {
                    match reply {
                        Reply::$reply(value) => Ok(value),
                        other => Err(StoreError::Protocol {
                            expected: stringify!($reply).into(),
                            found: other.name().into(),
                        }),
                    }
                }
            }
        )+
    };
}

operations! {
    /// Accepts a request.
    AcceptRequest => Accepted(Accepted),
    /// Adds entries to a journal.
    AppendEntries => Appended(Appended),
    /// Asks for a request to be cancelled.
    RequestCancel => Appended(Appended),
    /// Answers an approval.
    DecideApproval => Approval(ApprovalRow),
    /// Creates a session.
    CreateSession => Unit(()),
    /// Deletes a session.
    DeleteSession => Unit(()),
    /// Registers a package.
    PublishVersion => Version(VersionRow),
    /// Creates or changes a deployment.
    ApplyDeployment => Deployment(DeploymentRow),
    /// Changes how many replicas are wanted.
    ScaleDeployment => Deployment(DeploymentRow),
    /// Writes down how many replicas the daemon has decided for.
    AutoscaleDeployment => Deployment(DeploymentRow),
    /// Rolls out a version, or changes how.
    StartRollout => Deployment(DeploymentRow),
    /// Has a rollout replace what is there.
    PromoteRollout => Deployment(DeploymentRow),
    /// Ends a rollout with its version.
    CompleteRollout => Deployment(DeploymentRow),
    /// Ends a rollout without its version, or goes back to an earlier release.
    RollBack => Deployment(DeploymentRow),
    /// Records what was observed of a deployment.
    SetDeploymentState => Unit(()),
    /// Deletes a deployment.
    DeleteDeployment => Unit(()),
    /// Writes a replica's row.
    PutReplica => Unit(()),
    /// Removes a replica's row.
    RemoveReplica => Unit(()),
    /// Puts a value into the cache.
    CachePut => Unit(()),
    /// Removes a key from the cache.
    CacheRemove => Unit(()),
    /// Deletes expired cache rows.
    CacheSweep => Count(u64),
    /// Creates or replaces a schedule.
    PutSchedule => Unit(()),
    /// Holds a schedule or lets it go on.
    PauseSchedule => Unit(()),
    /// Records fires.
    FireSchedule => First(bool),
    /// Says what came of a fire.
    SettleFire => First(bool),
    /// Deletes a schedule.
    DeleteSchedule => Unit(()),
    /// Adds an audit row.
    RecordAudit => Unit(()),
    /// Remembers a value.
    MemoryPut => Unit(()),
    /// Forgets a key.
    MemoryForget => Unit(()),
    /// Adds an entity.
    PutEntity => First(bool),
    /// Adds a relation.
    PutRelation => First(bool),
    /// Posts a task.
    PostTask => Unit(()),
    /// Claims a task.
    ClaimTask => Task(Option<Box<TaskRow>>),
    /// Ends a task.
    CompleteTask => Unit(()),
    /// Publishes an event.
    PublishEvent => Count(u64),
    /// Queues a message to a person.
    QueueMessage => Unit(()),
    /// Reserves what a model call can use.
    ReserveBudget => Count(u64),
    /// Settles a reservation.
    SettleBudget => First(bool),
    /// Stores a secret.
    PutSecret => Unit(()),
    /// Deletes a secret.
    RemoveSecret => Unit(()),
    /// Adds a webhook to a request.
    PutPush => Unit(()),
    /// Removes a webhook of a request.
    RemovePush => Unit(()),
    /// Says what came of telling a webhook.
    SettlePush => Unit(()),
}
