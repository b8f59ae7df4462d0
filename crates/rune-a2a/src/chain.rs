//! Calls of agents by agents: an extension of A2A that keeps them from going round in circles, and from being made twice.

use serde_json::{Value, json};

use crate::node::Node;
use crate::{A2aError, AgentExtension, Message};

/// Names the extension in cards and in the metadata of messages.
pub const CHAIN_EXTENSION: &str = "urn:rune:a2a:chain:1";
/// The member that says how deep a call is.
const DEPTH: &str = "depth";

/// The extension as cards name it. Whose card does so keeps two promises: it counts the `depth` of messages and
/// refuses what is too deep, and messages with the same `Idempotency-Key` begin one task.
#[must_use]
pub fn chain_extension() -> AgentExtension {
    AgentExtension {
        uri: CHAIN_EXTENSION.to_owned(),
        description: "Calls of agents by agents: `depth` in the metadata of a message is counted, and messages with \
                      the same `Idempotency-Key` begin one task."
            .to_owned(),
        required: false,
    }
}

impl Message {
    /// The same message, from an agent: `depth` agents stand above whom it is sent to, the outermost included.
    #[must_use]
    pub fn at_depth(mut self, depth: u32) -> Self {
        let value = json!({ DEPTH: depth });
        self.metadata.insert(CHAIN_EXTENSION.to_owned(), value);
        self
    }

    /// How many agents stand above whom it is sent to; 0 where no agent sends it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`](crate::ErrorKind::InvalidParams), where it says something else than a number.
    pub fn depth(&self) -> Result<u32, A2aError> {
        let Some(value) = self.metadata.get(CHAIN_EXTENSION) else {
            return Ok(0);
        };
        let wrong = |why: &str| {
            let place = format!("message.metadata.{CHAIN_EXTENSION}");
            A2aError::invalid(place, why)
        };
        let Value::Object(_) = value else {
            return Err(wrong("has to be an object"));
        };
        let depth = Node::root(value).get_count(DEPTH);
        let depth = depth.map_err(|_| wrong("`depth` has to be a whole number"))?;
        Ok(depth.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, ProtocolVersion, Role};

    #[test]
    fn a_depth_is_said_in_either_version() {
        let message = Message::new("m", Role::User, vec![Part::text("x")]);
        assert_eq!(message.depth(), Ok(0));
        let message = message.at_depth(3);
        for version in ProtocolVersion::ALL {
            let read = Message::decode(version, &message.encode(version)).unwrap();
            assert_eq!(read.depth(), Ok(3));
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for wrong in [json!(1), json!({"depth": -1}), json!({"depth": "deep"})] {
            let mut message = Message::new("m", Role::User, vec![Part::text("x")]);
            let key = CHAIN_EXTENSION.to_owned();
            message.metadata.insert(key, wrong);
            let error = message.depth().unwrap_err();
            assert!(error.violation().is_some(), "{error}");
        }
    }
}
