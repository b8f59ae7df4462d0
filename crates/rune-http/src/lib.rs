//! What every HTTP listener of Rune shares: serving, authentication, limits, errors.
//!
//! * [`Server`] serves a router on a [`Listener`], which is an address or a Unix socket, and ends gracefully.
//! * [`Edge`] is the one layer around every route: request id, authentication, browser
//!   protection, panics, span and metrics. [`Edge::protect`] puts it on.
//! * [`admission`] and [`refusal`] ask it ahead, for what has requests be answered elsewhere.
//! * [`Auth`] says who a caller is, and [`TokenScope`] what its token is for; [`check_bind`] refuses to expose a listener without it.
//! * [`ApiError`] is the only way to answer an error; [`Json`], [`JsonOrDefault`], [`Query`],
//!   [`List`] and [`Path`] refuse bad input with it.
//! * [`Metrics`] keeps the metrics of the process and shows them to Prometheus.
//! * [`api!`] makes the routes and their document from one list of handlers, [`complete`] adds what all of them have, and
//!   [`mod@reference`] shows the document in a browser.
//!
//! Invariants:
//! * every answer carries `x-request-id`, and every error of a handler, an extractor or the
//!   router has the documented body;
//! * what went wrong inside is logged and never sent;
//! * headers, bodies and queries are never logged.
//!
//! What is not here: routes, but for those of the reference, and what they mean.

mod ahead;
mod api;
mod auth;
mod bind;
mod body;
mod caller;
mod edge;
mod error;
mod extract;
mod listener;
mod metrics;
mod openai;
mod openapi;
mod origin;
mod page;
mod readiness;
pub mod reference;
mod server;
mod view;

pub use ahead::{Admission, Admitted, admission, refusal};
pub use auth::{Auth, AuthConfigError, TokenScope, sign_user_token};
pub use axum::Router;
pub use bind::{BindError, check_bind};
pub use body::{MAX_BODY_BYTES, MAX_PACKAGE_BYTES, read_body, read_body_within};
pub use caller::Caller;
pub use edge::{Edge, HttpRequestId, MAX_HEADER_BYTES, MAX_URI_BYTES, REQUEST_ID};
pub use error::{AGENT_REQUEST_ID, ApiError};
pub use extract::{Json, JsonOrDefault, Path, Query};
pub use listener::Listener;
pub use metrics::recorder::Metrics;
pub use openai::{OpenAiError, OpenAiErrorBody};
pub use openapi::{ErrorBody, ErrorDetail, ServerSentEvent, complete, name_operations};
pub use page::{List, ListPage, NoFilter, PageQuery};
pub use readiness::{Health, PartStatus, Readiness, ReadyPart, ReadyReport};
pub use server::{Server, ServerLimits};
pub use view::{CostView, ReplicaView, ScalingView, TokenUsage};
