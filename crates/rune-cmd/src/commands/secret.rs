//! `rune secret`

mod value;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::client::{Api, part, with_query};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::Column;

/// Most rows of a list.
const MAX_ROWS: usize = 10_000;

const COLUMNS: [Column; 4] = [
    ("NAME", "/name"),
    ("NAMESPACE", "/namespace"),
    ("UPDATED", "/updated_at"),
    ("BY", "/updated_by"),
];

/// Secrets that tools are granted with `secret:NAME`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Store a secret, or replace it; tools get the new value with their next call
    #[command(
        after_help = "The value is asked for where a terminal is, and read from standard input elsewhere: one line \
end behind it is dropped.\nIt has 8 to 65536 bytes and is never an argument, where other users could read it.\n\n\
Examples:\n  rune secret set STRIPE_KEY\n  rune secret set DEPLOY_KEY --ns prod --from-file deploy.pem\n  \
rune secret set API_TOKEN --from-env API_TOKEN\n  pass show stripe | rune secret set STRIPE_KEY"
    )]
    Set {
        #[command(flatten)]
        named: Named,
        /// Take the value of this variable of the environment
        #[arg(long, value_name = "VAR", conflicts_with = "from_file")]
        from_env: Option<String>,
        /// Take what this file holds
        #[arg(long, value_name = "PATH")]
        from_file: Option<PathBuf>,
    },
    /// List secrets; their values are never shown
    #[command(after_help = "Examples:\n  rune secret ls\n  rune secret ls --ns prod -o json")]
    Ls {
        /// Only of this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
    },
    /// Remove a secret; calls of tools that are granted it fail from then on
    #[command(
        after_help = "Examples:\n  rune secret rm STRIPE_KEY\n  rune secret rm DEPLOY_KEY --ns prod"
    )]
    Rm(Named),
}

/// One secret.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name: letters, digits and `_`, no digit first
    name: String,
    /// Namespace of the agents whose tools can be granted it
    #[arg(long, visible_alias = "ns", default_value = "dev")]
    namespace: String,
}

impl Named {
    fn path(&self) -> String {
        let path = format!("/v1/secrets/{}", part(&self.name));
        with_query(&path, &[("ns", &self.namespace)])
    }
}

pub(crate) fn run(context: &Context, command: SecretCommand) -> Outcome {
    match command {
        SecretCommand::Set {
            named,
            from_env,
            from_file,
        } => {
            let value = match (from_env, from_file) {
                (Some(variable), _) => value::of_variable(context, &variable)?,
                (None, Some(path)) => value::of_file(&path)?,
                (None, None) => value::typed(context.output, &named.name)?,
            };
            context.block_on(async {
                let client = context.client()?;
                let request = client.request(Api::ControlPlane, Method::PUT, &named.path());
                let request = request.json(&json!({ "value": value.expose_secret() }));
                let row = client.json(Api::ControlPlane, request).await?;
                let said = format!("stored {}/{}", named.namespace, named.name);
                context.output.data(&row, |_| said)?;
                Ok(Exit::Ok)
            })
        }
        SecretCommand::Ls { namespace } => context.block_on(ls(context, namespace)),
        SecretCommand::Rm(named) => context.block_on(async {
            let client = context.client()?;
            let removed = client.delete(Api::ControlPlane, &named.path()).await;
            removed.map_err(|failure| match failure.exit {
                Exit::Failed => failure.help("`rune secret ls` lists what is stored"),
                _ => failure,
            })?;
            let data = json!({ "removed": named.name, "namespace": named.namespace });
            let said = format!("removed {}/{}", named.namespace, named.name);
            context.output.data(&data, |_| said)?;
            Ok(Exit::Ok)
        }),
    }
}

async fn ls(context: &Context, namespace: Option<String>) -> Outcome {
    let query: Vec<(&str, &str)> = namespace.iter().map(|ns| ("ns", ns.as_str())).collect();
    let client = context.client()?;
    let rows = client
        .list(Api::ControlPlane, "/v1/secrets", &query, MAX_ROWS)
        .await?;
    let nothing = "no secret is stored; `rune secret set --help` shows how";
    context.output.list_or(&rows, &COLUMNS, nothing)?;
    Ok(Exit::Ok)
}
