//! Ids of tool calls.

use std::collections::HashSet;

use rune_store_runtime::{Block, Message};

/// Gives every call of a reply an id that is not empty and was not used before in the
/// conversation.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct CallIds {
    taken: HashSet<String>,
}

impl CallIds {
    /// The ids that a conversation has used.
    pub(in crate::model) fn of(messages: &[Message]) -> Self {
        let blocks = messages.iter().flat_map(|message| &message.blocks);
        let ids = blocks.filter_map(|block| match block {
            Block::ToolCall { id, .. } => Some(id.clone()),
            _ => None,
        });
        Self {
            taken: ids.collect(),
        }
    }

    /// The id `wanted`, or a new `call_<n>` where it is empty or taken.
    pub(in crate::model) fn assign(&mut self, wanted: &str) -> String {
        let mut id = wanted.to_owned();
        let mut n = self.taken.len();
        while id.is_empty() || self.taken.contains(&id) {
            id = format!("call_{n}");
            n += 1;
        }
        self.taken.insert(id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invents_ids_that_are_missing_or_taken() {
        let mut ids = CallIds::default();
        let given: Vec<_> = ["", "x", "x", "call_4", ""]
            .map(|wanted| ids.assign(wanted))
            .into();
        assert_eq!(given, ["call_0", "x", "call_2", "call_4", "call_5"]);
    }
}
