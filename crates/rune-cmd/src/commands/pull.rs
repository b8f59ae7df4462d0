//! `rune pull`

use std::path::PathBuf;

use clap::Args;
use rune_spec::package::unpack;
use serde_json::json;

use crate::artifact::failure;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::source::registry::{pull, reference};

/// Takes a package out of a registry: into a directory, or with its signatures into an OCI layout.
///
/// Everything is compared with its digest before it is used. Whether somebody who is trusted has signed it is what
/// `rune verify` says; `rune run REF` asks for that itself where keys are trusted.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune pull ghcr.io/acme/hello:1.0.0                     into ./hello\n  rune pull ghcr.io/acme/hello@sha256:… ./there\n  rune pull ghcr.io/acme/hello:1.0.0 --layout hello.tar  for a machine without the registry\n\nExit codes: 0 it is here, 1 it is not what its digest says, 3 the registry refuses, 6 the registry does not answer."
)]
pub(crate) struct PullArgs {
    /// What: `HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`
    #[arg(value_name = "REF")]
    reference: String,
    /// Where to unpack it; must not be there, or be empty [default: the name of the agent]
    dir: Option<PathBuf>,
    /// Write an OCI layout instead; an archive where it ends in .tar
    #[arg(long, value_name = "PATH", conflicts_with = "dir")]
    layout: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: &PullArgs) -> Outcome {
    let source = reference(&args.reference)?;
    let layout = pull(context, &source).await?;
    let artifact = &layout.artifact;
    let place = if let Some(path) = &args.layout {
        layout
            .write(path)
            .map_err(|error| failure("cannot write the layout", &error))?;
        path.clone()
    } else {
        let default = || PathBuf::from(artifact.name());
        let dir = args.dir.clone().unwrap_or_else(default);
        let empty = |mut entries: std::fs::ReadDir| entries.next().is_none();
        if dir.exists() && !std::fs::read_dir(&dir).is_ok_and(empty) {
            let message = format!("{} is there already, and not empty", dir.display());
            return Err(Failure::new(Exit::Failed, message)
                .help(format!("name another directory: rune pull {source} DIR")));
        }
        unpack(artifact.package(), &dir)
            .map_err(|error| Failure::because(format!("cannot unpack {source}"), &error))?;
        dir
    };
    let data = json!({
        "reference": source.to_string(),
        "digest": artifact.digest(),
        "name": artifact.name(),
        "version": artifact.version(),
        "description": artifact.description(),
        "path": place,
        "signatures": layout.signatures.0.len(),
    });
    context.output.data(&data, |_| {
        format!(
            "[ok] pulled {} {} into {}\ndigest      {}\nsignatures  {}",
            artifact.name(),
            artifact.version(),
            place.display(),
            artifact.digest(),
            layout.signatures.0.len(),
        )
    })?;
    Ok(Exit::Ok)
}
