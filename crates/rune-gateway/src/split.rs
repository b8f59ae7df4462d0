//! A gateway apart from its control plane: [`front`] takes what callers ask and sends it on, [`behind`] answers it where
//! the engine is.
//!
//! The front authenticates the caller and names it; the control plane believes it because of the token of a gateway, and
//! nobody else. The front keeps nothing, so that any number of them are the same, and each may be killed.

mod behind;
mod control_plane;
mod front;

use std::borrow::Cow;

use http::HeaderName;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

pub(crate) use behind::forwarded;
pub use control_plane::SplitError;
pub use front::SplitGateway;

/// What stands before the path of a call that a front sends on.
const PREFIX: &str = "/internal/v1/gateway";
/// Who asked the front, as [`written`].
const CALLER: HeaderName = HeaderName::from_static("x-rune-caller");
/// Set on every answer of the API behind a gateway, and on none that refuses the gateway itself: their statuses are the same.
const ANSWERED: HeaderName = HeaderName::from_static("x-rune-answered");

/// What a header does not carry as it is: HTTP takes off blanks at the ends, and knows ASCII only.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The name of a caller as the value of a header.
fn written(caller: &str) -> String {
    utf8_percent_encode(caller, ESCAPED).to_string()
}

/// The name of a caller from the value of a header.
fn read(value: &[u8]) -> Option<String> {
    percent_decode(value)
        .decode_utf8()
        .ok()
        .map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_the_same_behind_a_gateway() {
        for caller in [
            "jwt:alice",
            "jwt:alice ",
            " jwt: a",
            "jwt:Ada Ünal",
            "jwt:100%25",
            "api-key",
        ] {
            let value = written(caller);
            assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{value}");
            assert_eq!(read(value.as_bytes()).as_deref(), Some(caller));
        }
        assert_eq!(read(b"%ff"), None);
    }
}
