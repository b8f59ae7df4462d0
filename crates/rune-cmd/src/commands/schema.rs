//! `rune schema`

use std::io::Write;

use clap::{Args, ValueEnum};
use rune_spec::SchemaKind;

use crate::failure::{Exit, Outcome};

/// Prints the JSON Schema of a file format, for editors and checks.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune schema runefile > runefile.schema.json\n  rune schema config"
)]
pub(crate) struct SchemaArgs {
    /// The format
    kind: Kind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Runefile,
    Tool,
    Workflow,
    Compose,
    Channels,
    Eval,
    Config,
}

pub(crate) fn run(args: &SchemaArgs) -> Outcome {
    let schema = match args.kind {
        Kind::Runefile => rune_spec::schema(SchemaKind::Runefile),
        Kind::Tool => rune_spec::schema(SchemaKind::Tool),
        Kind::Workflow => rune_spec::schema(SchemaKind::Workflow),
        Kind::Compose => rune_spec::schema(SchemaKind::Compose),
        Kind::Channels => rune_spec::schema(SchemaKind::Channels),
        Kind::Eval => rune_spec::schema(SchemaKind::Eval),
        Kind::Config => rune_env::schema(),
    };
    writeln!(std::io::stdout().lock(), "{schema:#}")?;
    Ok(Exit::Ok)
}
