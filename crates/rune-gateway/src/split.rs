//! A gateway apart from its control plane: [`front`] takes what callers ask and sends it on, [`behind`] answers it where
//! the engine is.
//!
//! The front authenticates the caller and names it; the control plane believes it because of the token of a gateway, and
//! nobody else. The front keeps nothing, so that any number of them are the same, and each may be killed.

mod behind;
mod control_plane;
mod front;

use http::HeaderName;

pub(crate) use behind::forwarded;
pub use control_plane::SplitError;
pub use front::SplitGateway;

/// What stands before the path of a call that a front sends on.
const PREFIX: &str = "/internal/v1/gateway";
/// Who asked the front.
const CALLER: HeaderName = HeaderName::from_static("x-rune-caller");
/// Set on every answer of the API behind a gateway, and on none that refuses the gateway itself: their statuses are the same.
const ANSWERED: HeaderName = HeaderName::from_static("x-rune-answered");
