//! W3C Trace Context: which trace a request belongs to.

use std::fmt::Write as _;

use crate::RequestId;

/// The longest list that is passed on, in bytes; what is longer may be dropped (§3.3.1.5).
const MAX_STATE_BYTES: usize = 512;
/// The most members of a list.
const MAX_STATE_MEMBERS: usize = 32;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const PARENT_BYTES: usize = 55;
/// The flags that are passed on: sampled, and a random trace id.
const KNOWN_FLAGS: u8 = 0b11;

/// The trace that a request belongs to, and the span that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// What the headers `traceparent` and `tracestate` say; nothing where the first is not valid. A list that is not
    /// valid is dropped alone.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let text = traceparent.trim_matches([' ', '\t']);
        let (head, rest) = text.split_at_checked(PARENT_BYTES)?;
        let mut fields = head.split('-');
        let mut field = |digits: usize| {
            let field = fields.next()?;
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (field.len() == digits && field.bytes().all(is_hex)).then_some(field)
        };
        let version = u8::from_str_radix(field(2)?, 16).ok()?;
        let trace_id = u128::from_str_radix(field(32)?, 16).ok()?;
        let parent_id = u64::from_str_radix(field(16)?, 16).ok()?;
        let flags = u8::from_str_radix(field(2)?, 16).ok()?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            // Whatever a later version adds stands behind a dash.
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        (fits && trace_id != 0 && parent_id != 0).then(|| Self {
            trace_id,
            parent_id,
            flags: flags & KNOWN_FLAGS,
            state: tracestate.and_then(state),
        })
    }

    /// A trace that begins with a request, for callers that named none. Nobody is asked to record it.
    #[must_use]
    pub fn begin(request: RequestId) -> Self {
        Self {
            trace_id: u128::from_be_bytes(*request.as_bytes()).max(1),
            parent_id: span_of(request),
            flags: 0,
            state: None,
        }
    }

    /// The same trace, as a request passes it on.
    #[must_use]
    pub fn within(self, request: RequestId) -> Self {
        Self {
            parent_id: span_of(request),
            ..self
        }
    }

    /// The trace, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The header `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(PARENT_BYTES);
        // A text takes everything.
        let _ = write!(
            text,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.parent_id, self.flags
        );
        text
    }

    /// The header `tracestate`.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// The span of a request: the random half of its id.
fn span_of(request: RequestId) -> u64 {
    let id = u128::from_be_bytes(*request.as_bytes());
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    low.max(1)
}

/// A list that is valid (§3.3.1), without empty members.
fn state(text: &str) -> Option<String> {
    let members = text
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']));
    let members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    let is_valid = |member: &&str| {
        let Some((key, value)) = member.split_once('=') else {
            return false;
        };
        let of_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
        let of_value = |b: u8| (0x20..=0x7e).contains(&b) && b != b'=';
        let begins = key.bytes().next();
        begins.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && key.len() <= 256
            && key.bytes().all(of_key)
            && (1..=256).contains(&value.len())
            && value.bytes().all(of_value)
    };
    let list = members.join(",");
    let fits = (1..=MAX_STATE_MEMBERS).contains(&members.len())
        && list.len() <= MAX_STATE_BYTES
        && members.iter().all(is_valid);
    fits.then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_valid_is_passed_on_with_another_parent() {
        let trace = TraceContext::parse(PARENT, Some("a=1, b@c=2 ,,")).unwrap();
        assert_eq!(trace.traceparent(), PARENT);
        assert_eq!(trace.tracestate(), Some("a=1,b@c=2"));
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let request = RequestId::from_bytes([7; 16]);
        assert_eq!(
            trace.within(request).traceparent(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01"
        );
        let later = format!("42{}-what", PARENT.trim_start_matches("00"));
        let later = TraceContext::parse(&later, None).unwrap();
        assert_eq!(later.traceparent(), PARENT);
    }

    #[test]
    fn what_is_not_valid_is_nothing() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
        ] {
            assert_eq!(TraceContext::parse(wrong, None), None, "{wrong}");
        }
        let long = "a=1,".repeat(33);
        for wrong in ["", "a", "A=1", "=1", "a=", "a=b=c", "a=\u{7f}", &long] {
            let trace = TraceContext::parse(PARENT, Some(wrong)).unwrap();
            assert_eq!(trace.tracestate(), None, "{wrong}");
        }
    }

    #[test]
    fn a_trace_of_a_request_is_valid() {
        for bytes in [[0; 16], [9; 16]] {
            let trace = TraceContext::begin(RequestId::from_bytes(bytes));
            assert_eq!(TraceContext::parse(&trace.traceparent(), None), Some(trace));
        }
    }
}
