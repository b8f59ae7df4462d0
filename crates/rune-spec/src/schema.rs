//! JSON Schemas of the file formats.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::channels::ChannelsDocument;
use crate::compose::ComposeDocument;
use crate::error::InvalidValue;
use crate::eval::EvalDocument;
use crate::runefile::RunefileDocument;
use crate::suggest::help_for;
use crate::tool::ToolDocument;
use crate::workflow::WorkflowDocument;

/// A file format with a JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// `Runefile`
    Runefile,
    /// `tools/*.yaml`
    Tool,
    /// `workflow.yaml`
    Workflow,
    /// `rune-compose.yml`
    Compose,
    /// `channels.yaml`
    Channels,
    /// `evals/*.yaml`
    Eval,
}

impl SchemaKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Runefile,
        Self::Tool,
        Self::Workflow,
        Self::Compose,
        Self::Channels,
        Self::Eval,
    ];

    /// The word used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runefile => "runefile",
            Self::Tool => "tool",
            Self::Workflow => "workflow",
            Self::Compose => "compose",
            Self::Channels => "channels",
            Self::Eval => "eval",
        }
    }
}

impl fmt::Display for SchemaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SchemaKind {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                InvalidValue::new(format!("unknown format `{text}`"))
                    .with_help(help_for(text, Self::ALL.into_iter().map(Self::as_str)))
            })
    }
}

/// The JSON Schema (2020-12) of what a person may write in a file of this kind.
pub fn schema(kind: SchemaKind) -> Value {
    let schema = match kind {
        SchemaKind::Runefile => schemars::schema_for!(RunefileDocument),
        SchemaKind::Tool => schemars::schema_for!(ToolDocument),
        SchemaKind::Workflow => schemars::schema_for!(WorkflowDocument),
        SchemaKind::Compose => schemars::schema_for!(ComposeDocument),
        SchemaKind::Channels => schemars::schema_for!(ChannelsDocument),
        SchemaKind::Eval => schemars::schema_for!(EvalDocument),
    };
    schema.to_value()
}
