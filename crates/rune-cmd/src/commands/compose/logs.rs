//! `rune compose logs`

use std::path::PathBuf;

use clap::Args;
use rune_spec::nearest;

use super::project::{Deployed, Project};
use crate::commands::agent::logs::{Watched, show};
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// What `rune compose logs` takes.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Only of these agents
    #[arg(value_name = "AGENT")]
    agents: Vec<String>,
    /// Follow, as --follow; with the name of a file, as --file
    #[arg(short = 'f', num_args = 0..=1, value_name = "FILE")]
    short: Option<Option<String>>,
    /// Go on with what happens from now on
    #[arg(long)]
    follow: bool,
    /// The compose file [default: rune-compose.yml, else rune-compose.yaml]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Requests of each agent to begin with
    #[arg(long, default_value_t = 20)]
    tail: usize,
}

/// What is shown.
pub(super) struct Shown {
    agents: Vec<String>,
    follow: bool,
    tail: usize,
}

impl LogsArgs {
    /// Says what `-f` means: no agent's name has a dot or a slash in it, and a file's does.
    pub(super) fn resolve(self) -> (Option<PathBuf>, Shown) {
        let mut shown = Shown {
            agents: self.agents,
            follow: self.follow,
            tail: self.tail,
        };
        let mut file = self.file;
        match self.short {
            None => {}
            Some(Some(name)) if name.contains(['.', '/']) => file = Some(name.into()),
            Some(name) => {
                shown.follow = true;
                shown.agents.extend(name);
            }
        }
        (file, shown)
    }
}

pub(super) async fn run(context: &Context, project: &Project, shown: &Shown) -> Outcome {
    let client = context.client()?;
    let deployed = project.deployed(&client).await?;
    let names: Vec<&str> = deployed.iter().map(Deployed::name).collect();
    if let Some(unknown) = shown
        .agents
        .iter()
        .find(|name| !names.contains(&name.as_str()))
    {
        let message = format!(
            "`{unknown}` is not deployed by the project `{}`",
            project.name()
        );
        return Err(
            Failure::usage(message).help(match nearest(unknown, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`rune compose ps` lists its agents".to_owned(),
            }),
        );
    }
    let wanted = |row: &&Deployed| {
        shown.agents.is_empty() || shown.agents.iter().any(|name| name == row.name())
    };
    let width = names
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or_default();
    let watched: Vec<Watched> = deployed
        .iter()
        .enumerate()
        .filter(|(_, row)| wanted(row))
        .map(|(index, row)| {
            Watched::agent(row.agent(), row.namespace())
                .of_deployment(row.id())
                .with_prefix(format!("{:<width$} |", row.name()), index)
        })
        .collect();
    if watched.is_empty() {
        context
            .output
            .note("nothing is deployed; `rune compose up` deploys the project");
    }
    show(context, &client, &watched, shown.follow, shown.tail).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        logs: LogsArgs,
    }

    fn check(line: &str, file: Option<&str>, agents: &[&str], follow: bool) {
        let cli = Cli::parse_from(std::iter::once("logs").chain(line.split_whitespace()));
        let (found, shown) = cli.logs.resolve();
        assert_eq!(found, file.map(PathBuf::from), "{line}");
        assert_eq!(
            (shown.agents, shown.follow),
            (agents.iter().map(|&a| a.to_owned()).collect(), follow),
            "{line}"
        );
    }

    #[test]
    fn the_short_flag_follows_or_names_the_file() {
        check("", None, &[], false);
        check("-f", None, &[], true);
        check("-f front", None, &["front"], true);
        check("front -f", None, &["front"], true);
        check("-f shop.yml", Some("shop.yml"), &[], false);
        check(
            "-f shop.yml --follow front",
            Some("shop.yml"),
            &["front"],
            true,
        );
        check(
            "--file shop.yml -f front",
            Some("shop.yml"),
            &["front"],
            true,
        );
    }
}
