//! What the tests of several crates share.
//!
//! * [`ModelServer`] plays a [`ModelScript`] on the wire protocols of the real model providers (Anthropic Messages,
//!   OpenAI Chat Completions, Gemini), streaming and whole, with faults on demand. It checks what clients send as the
//!   providers do and records it. The binary `rune-model-server` is the same server with a script from a file.
//! * [`TestDaemon`] runs a `rune` binary as a child process with a home of its own.
//! * [`TestDocker`] is the Docker Engine of the machine, with images that are made here.
//! * [`TestRegistry`] and [`DockerRegistry`] are OCI registries on loopback.
//! * [`VirtualClock`] is a clock that moves only by hand.
//! * [`skip`] says that a test needs what is not on this machine.
//! * [`openapi`] holds an API to the document that it serves.
//!
//! It is not a simulator of a model's mind: an answer is what the script says, or an echo of the last user text.
//!
//! Invariants: no fixed ports, no inherited environment, nothing left behind after a drop; the same script means the
//! same on every protocol; a wait has a deadline and its error says what was seen instead.

mod clock;
mod daemon;
mod docker;
mod error;
mod model_server;
pub mod openapi;
mod registry;
mod skip;
pub mod store;
mod task;

pub use clock::VirtualClock;
pub use daemon::{TestDaemon, TestDaemonBuilder};
pub use docker::TestDocker;
pub use error::TestkitError;
pub use model_server::{
    CopilotAccount, CutAt, Fault, FaultKind, Garbage, ModelScript, ModelServer, Otherwise,
    Protocol, RecordedRequest, Reply, ReplyFile, Rule, Stop, Text, ToolCall, Usage, When,
};
pub use registry::{DockerRegistry, REGISTRY_LOGIN, TestRegistry};
pub use skip::skip;
