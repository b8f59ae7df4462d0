//! The Agent2Agent protocol (A2A): its values, and their forms on the wire.
//!
//! There is one set of values, named as version 1.0 of the specification names them, and two codecs:
//! [`ProtocolVersion::V1`] is 1.0 (the text of 1.0.1), [`ProtocolVersion::V03`] is 0.3. Every value has
//! `encode(version)`, and `decode(version, …)` where it comes in.
//!
//! * [`RpcRequest`] is the JSON-RPC envelope, [`Call`] what it, or a path of the HTTP binding, asks for.
//! * [`Message`], [`Task`], [`Artifact`] and [`StreamEvent`] are what is said.
//! * [`AgentCard`] is how an agent describes itself.
//! * [`CardSigner`] signs cards.
//! * [`client`] calls agents that others serve.
//! * [`CHAIN_EXTENSION`] is for calls of agents by agents.
//! * [`A2aError`] is the error table of both versions and all bindings.
//!
//! Invariants: what is decoded keeps the limits of [`limits`], and an error of decoding names the
//! field; fields that are not known are passed over, as both versions ask; what `encode` makes,
//! `decode` reads back.
//!
//! What is not here: HTTP itself (a [`client::Transport`] has it), agents, and what a task is in Rune.

mod call;
mod card;
mod chain;
pub mod client;
mod error;
pub mod limits;
mod message;
mod node;
mod push;
mod rpc;
mod sign;
mod stream;
mod task;
mod version;

pub use call::{
    Call, CancelTask, GetTask, ListPushConfigs, ListTasks, Operation, PushConfigRef, SendMessage,
};
pub use card::{
    AgentCapabilities, AgentCard, AgentExtension, AgentInterface, AgentProvider, AgentSkill,
    Binding, CardForm, CardSignature, SecurityScheme,
};
pub use chain::{CHAIN_EXTENSION, chain_extension};
pub use error::{A2aError, ErrorKind, FieldViolation};
pub use message::{Content, Message, Part, Role};
pub use push::{PushAuthentication, PushConfig};
pub use rpc::{NoCall, RpcId, RpcRequest, rpc_error, rpc_result};
pub use sign::{CardKeyError, CardSigner};
pub use stream::{ArtifactUpdate, StatusUpdate, StreamEvent};
pub use task::{Artifact, Task, TaskState, TaskStatus};
pub use version::ProtocolVersion;
