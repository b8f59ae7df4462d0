//! Calls of agents that others serve.
//!
//! [`A2aClient`] finds the card of an agent, keeps it for a while, and chooses an interface of it: [`RemoteAgent`].
//! That sends, follows and cancels; [`RemoteAgent::run`] does what most want: it sends a message and answers what has
//! come of it in the end, over a stream where the agent has one, and whatever breaks on the way.
//!
//! How bytes come and go is a [`Transport`], which also decides where they may go; what an agent says is bounded by the
//! limits of this module.

mod agent;
mod card;
mod discovery;
mod error;
mod events;
mod follow;
mod limits;
mod transport;
mod view;
mod wire;

pub use agent::RemoteAgent;
pub use card::{CardInterface, RemoteCard};
pub use discovery::{A2aClient, CardCache};
pub use error::{ClientError, RemoteError};
pub use events::{Events, read_events};
pub use follow::{Outcome, TaskSink, Wakeup};
pub use transport::{HttpRequest, HttpResponse, Transport, TransportError};
pub use wire::read_answer;
