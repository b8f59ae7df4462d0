//! What the wire protocols share: the stream decoder, the call itself, errors.
//!
//! [`decode()`] is the whole way from bytes to [`ModelEvent`](super::ModelEvent)s and knows no socket, clock
//! or runtime, so that tests and fuzzers can drive it; [`decode_chunks`] does so for
//! bytes in memory.

mod arguments;
mod body;
mod call_ids;
mod classify;
mod client;
mod decode;
mod history;
mod meter;
mod protocol;
mod reply;
mod schema;

pub use client::{ClientConfig, Timeouts};
pub use decode::{DecodeContext, decode, decode_chunks};
pub use protocol::Protocol;

pub(super) use arguments::{arguments_object, parse_arguments};
pub(super) use body::text as body_text;
pub(super) use call_ids::CallIds;
pub(super) use classify::{Fault, error_fault, error_of};
pub(super) use client::{WholeRequest, WireClient, failed_response};
pub(super) use decode::{Decode, Step};
pub(super) use history::{call_ids, native_json, ordered_results};
pub(super) use reply::Reply;
pub(super) use schema::{closed_schema, is_object_schema, is_strict};
