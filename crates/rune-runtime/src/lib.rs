//! The engine: runs requests of agents over the journal.
//!
//! Follow a request: [`Engine::invoke`] accepts it and starts its task; the task gets a
//! place on a replica from the [`ReplicaRouter`], then the planner asks the model
//! ([`model`]), runs the tools and writes every step to the journal; whoever follows
//! ([`RequestEvents`]) reads the journal and its live tail.
//!
//! Beside it: [`ReconcileLoop`] keeps the replicas that the deployments ask for, on a
//! backend ([`LocalBackend`] is this process); [`AgentLoader`] makes an [`Agent`] of a
//! package; [`SecretVault`] knows the secrets of its tools; [`Scheduler`] makes requests at planned times; [`Tasks`] is where every task of the process starts.
//!
//! Invariants:
//! * a tool runs only after its intent is committed, and every call gets a result;
//! * nothing leaves the engine before the entry it stands for is committed, but for
//!   live text, which becomes an entry when it is whole;
//! * a request runs to its end whether or not somebody follows it; only cancel, its
//!   limits or the end of the process stop it, and the next start takes it up again.
//!
//! What is not here: HTTP, SQL, and any platform but this process.

mod agent;
mod budget;
mod cassette;
mod dispatch;
mod engine;
mod event;
mod feed;
mod history;
mod journal;
mod local_backend;
mod media;
pub mod model;
mod package_cache;
mod planner;
mod policy;
mod reconcile;
mod remote;
mod replay;
mod replica;
mod router;
mod schedule;
mod secrets;
mod spill;
mod task;
mod tokens;
mod workflow;

pub use agent::{
    Agent, AgentError, AgentLoader, AgentTarget, AgentTool, McpRunner, McpServerReport,
    McpToolReport, SchemaMismatch, Tool, ToolCost, ToolRunner, VariableLookup,
};
pub use budget::daily_budget;
pub use cassette::{Cassette, Played, Unmet};
pub use engine::{
    AgentCall, Asker, Ending, Engine, EngineAnswer, EngineError, EngineLink, EngineOp, Followed,
    Forking, Hold, Invocation, Invoked, JoinedRun, MAX_IMAGE_BYTES, MAX_INPUT_IMAGES, Origin,
    Publication, RequestEvents, ToolAnswer, ToolOp, ToolRun, WAKEUP_PATH, Waiting, store_code,
};
pub use event::{ForkPoint, RequestEvent, SequencedEvent};
pub use feed::CallProgress;
pub use local_backend::LocalBackend;
pub use package_cache::{PackageCache, PackageCacheError};
pub use policy::{
    AdmissionPolicies, AdmissionQuery, AdmittedDeployment, AdmittedVersion, JournaledCall,
    JournaledResource, JournaledVerdict, MAX_CACHED_VERDICTS, PolicyCallee, PolicyChange,
    PolicyComparison, PolicyDecision, PolicyEngine, PolicyPrincipal, PolicyQuery, PolicyResource,
    PolicySet, Verdict, policy_verdicts, undecided,
};
pub use reconcile::{ReconcileHandle, ReconcileLoop};
pub use remote::{
    RemoteBackend, ReplicaAccess, ReplicaClient, ReplicaError, ReplicaStatus, ReplicaUsage, Resume,
    RunItem, RunRequest, Unstored, deployment_of, read_run,
};
pub use replay::{Divergence, Replayed, event_hash};
pub use replica::Replica;
pub use router::{Lease, Load, ReadyAgent, ReplicaRouter, Route, RouteError, Tally};
pub use schedule::{
    MAX_INTERVAL_MS, MAX_JITTER, MIN_INTERVAL_MS, Recurrence, ScheduleError, Scheduler,
    SchedulerHandle, first_planned,
};
pub use secrets::{SecretError, SecretKeySource, SecretVault};
pub use task::Tasks;
