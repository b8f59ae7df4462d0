//! The store seam: the records of Rune, the commands that change them and the
//! traits that read them.
//!
//! * [`Command`] is the only way to change anything. It is a serialisable value
//!   that already holds every id, time and random number it needs, so that
//!   applying it is deterministic on every node.
//! * [`RuntimeStore`] is what the engine, the gateway and a replica hold. It is
//!   one write method ([`CommandLog::submit`]) and one small read trait per
//!   aggregate.
//! * [`Store`] is the cheap handle that stamps commands and types their replies.
//! * [`Entry`] is a line of a request's journal; everything else a request
//!   leaves behind (messages, tool invocations, usage) is projected from it in
//!   the same commit.
//!
//! What is not here: SQLite, Raft, HTTP. A replica links this crate and not
//! `rune-storage`.

mod approval;
mod audit;
mod blob;
mod budget;
mod cache;
mod canvas;
mod clock;
mod command;
mod compaction;
mod deployment;
mod error;
mod event;
mod fork;
mod id;
mod input;
mod journal;
mod knowledge;
pub mod limits;
mod memory;
mod message;
mod outbox;
mod page;
mod prompt;
mod push;
mod quota;
mod registry;
mod replica;
mod request;
mod rollout;
mod scaling;
mod schedule;
mod secret;
mod session;
mod store;
mod task;
mod tool_invocation;
mod trace;
mod usage;

pub use approval::{
    ApprovalAnswer, ApprovalDecision, ApprovalFilter, ApprovalQuestion, ApprovalRow, ApprovalState,
    DecideApproval, GrantQuery, GrantRow, Remember,
};
pub use audit::{AuditFilter, AuditRow, AuditVerdict, RecordAudit};
pub use blob::BlobStore;
pub use budget::{
    BudgetBalance, BudgetCap, BudgetClaim, BudgetFilter, BudgetKind, BudgetRow, BudgetScope,
    BudgetShortage, BudgetUnit, CallPrice, HeldBudget, ReservationRow, ReserveBudget, SettleBudget,
    Settlement,
};
pub use cache::{CachePut, CacheRemove, CacheRow, CacheSweep};
pub use canvas::{CANVAS_WINDOW, Canvas, CanvasFormat};
pub use clock::{Clock, SystemClock, Timestamp};
pub use command::{Command, Leadership, Op, Operation, Reply};
pub use compaction::{Compaction, ModelCall, Replaced, RequestSpan};
pub use deployment::{
    ApplyDeployment, DeleteDeployment, DeploymentFilter, DeploymentRow, DeploymentState,
    ProjectRef, ScaleDeployment, SetDeploymentState,
};
pub use error::{Reject, StoreError};
pub use event::{EventFilter, EventFire, EventRow, PublishEvent, topic_matches};
pub use fork::{Fork, ForkChanges, ForkOrigin, ForkPolicy, Identity};
pub use id::{
    ApprovalId, AuditId, CommandId, DeploymentId, EventId, IdError, MessageId, ReplicaId,
    RequestId, ScheduleId, SessionId, TaskId, VersionId,
};
pub use input::input_parts;
pub use journal::{
    ComponentTurn, Entry, EntryBody, ErrorCode, Failure, ListedTool, ModelAsk, ModelReply,
    OUTPUT_REPAIR, PolicyVerdict, SpilledOutput, StepOutcome, StepStatus, ToolIntent,
    ToolModelCall, ToolOutcome,
};
pub use knowledge::{
    EntityRow, Properties, PutEntity, PutRelation, RelationFilter, RelationRow, entity_text,
    merge_properties, search_words,
};
pub use memory::{MemoryForget, MemoryPut, MemoryQuery, MemoryRow, MemoryScope};
pub use message::{
    Block, ImageSource, Message, MessageRow, NativeBlock, Role, StopReason, StoredImage, Usage,
};
pub use outbox::{OutboxFilter, OutboxRow, QueueMessage};
pub use page::{Page, PageRequest};
pub use prompt::{PromptMeasure, PromptParts};
pub use push::{PushRow, PutPush, RemovePush, SettlePush};
pub use quota::{Quota, QuotaUse};
pub use registry::{PublishVersion, VersionFilter, VersionRow};
pub use replica::{PutReplica, RemoveReplica, ReplicaFilter, ReplicaRow, ReplicaState};
pub use request::{
    AcceptRequest, Accepted, AppendEntries, Appended, CheckpointPolicy, IdempotencyKey, ParentCall,
    RequestCancel, RequestFilter, RequestOrder, RequestRow, RequestStatus,
};
pub use rollout::{
    CompleteRollout, PromoteRollout, Release, RollBack, Rollout, RolloutState, RolloutStrategy,
    StartRollout,
};
pub use scaling::{AutoscaleDeployment, ScaleBounds, Scaling};
pub use schedule::{
    Advance, CatchUp, DeleteSchedule, FireFilter, FirePlan, FireSchedule, FireState, NewFire,
    Overlap, PauseSchedule, PutSchedule, ScheduleFilter, ScheduleFireRow, ScheduleKind,
    ScheduleRow, ScheduleSpec, SettleFire,
};
pub use secret::{PutSecret, RemoveSecret, SealedSecret, SecretFilter, SecretRow, is_secret_name};
pub use session::{CreateSession, DeleteSession, SessionFilter, SessionRow};
pub use store::{
    ApprovalReader, AuditReader, BudgetReader, CacheReader, CommandLog, DeploymentReader,
    EventReader, KnowledgeReader, MemoryReader, OutboxReader, PushReader, RegistryReader,
    RequestReader, RuntimeStore, ScheduleReader, SecretReader, SessionReader, Store, TaskReader,
    UsageReader,
};
pub use task::{ClaimTask, CompleteTask, PostTask, TaskFilter, TaskHolder, TaskRow, TaskState};
pub use tool_invocation::{ToolInvocationRow, ToolInvocationState};
pub use trace::TraceContext;
pub use usage::{Billed, Cost, UsageFilter, UsageGroup, UsageRow, UsageTotal};
