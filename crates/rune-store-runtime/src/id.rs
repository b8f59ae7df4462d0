//! Typed identifiers. Each is a UUIDv7 (RFC 9562) behind a short prefix, so that
//! ids sort by time and a log line says what an id names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not start with the kind's prefix or the rest is no UUID.
    #[error("`{text}` is not a {kind} id, expected `{prefix}` followed by 32 hexadecimal digits")]
    Malformed {
        /// What the id would have named, such as `request`.
        kind: &'static str,
        /// The prefix that ids of this kind carry.
        prefix: &'static str,
        /// The text as it came.
        text: String,
    },
    /// A session id has characters or a length that are not allowed.
    #[error("`{0}` is not a session id, expected 1 to 128 of A-Z a-z 0-9 . _ : @ -")]
    Session(String),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What ids of this kind start with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, ordered after those made before it on this machine.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these bytes, for decoding stored rows.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes that are stored.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let malformed = || IdError::Malformed {
                    kind: $kind,
                    prefix: $prefix,
                    text: text.chars().take(80).collect(),
                };
                let hex = text.strip_prefix($prefix).ok_or_else(malformed)?;
                if hex.len() != 32 {
                    return Err(malformed());
                }
                Uuid::try_parse(hex).map(Self).map_err(|_| malformed())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Uuid::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(
    /// One invocation of an agent.
    RequestId, "request", "req_"
);
id!(
    /// One desired set of replicas of an agent version.
    DeploymentId, "deployment", "dep_"
);
id!(
    /// One running copy of a deployment.
    ReplicaId, "replica", "rep_"
);
id!(
    /// One immutable version of an agent package.
    VersionId, "version", "ver_"
);
id!(
    /// One schedule.
    ScheduleId, "schedule", "sch_"
);
id!(
    /// One message to a person.
    MessageId, "message", "msg_"
);
id!(
    /// One event.
    EventId, "event", "evt_"
);
id!(
    /// One task.
    TaskId, "task", "tsk_"
);
id!(
    /// One audit row.
    AuditId, "audit", "aud_"
);
id!(
    /// One question to a person.
    ApprovalId, "approval", "apr_"
);
id!(
    /// One command; a retry carries the same id and is applied once.
    CommandId, "command", "cmd_"
);

/// A conversation. Callers may choose it (a chat thread, a ticket number), so it is
/// a short text and not a UUID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Longest session id in bytes.
    pub const MAX_LEN: usize = 128;

    /// A new id for a caller that named none.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("ses_{}", Uuid::now_v7().as_simple()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:@-".contains(&c);
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(allowed) {
            return Err(IdError::Session(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_json() {
        let id = RequestId::generate();
        assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<RequestId>(&json).unwrap(), id);
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let id = DeploymentId::generate().to_string();
        assert!(id.parse::<RequestId>().is_err());
        assert!("req_".parse::<RequestId>().is_err());
        assert!("req_zz".parse::<RequestId>().is_err());
    }

    #[test]
    fn ids_sort_by_creation() {
        let ids: Vec<RequestId> = (0..1000).map(|_| RequestId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn session_ids_are_short_and_plain() {
        assert!("ticket-42:alice@example.org".parse::<SessionId>().is_ok());
        assert!("".parse::<SessionId>().is_err());
        assert!("a b".parse::<SessionId>().is_err());
        assert!("x".repeat(129).parse::<SessionId>().is_err());
    }
}
