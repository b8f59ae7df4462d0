//! `rune push`

use std::path::PathBuf;

use clap::Args;
use rune_oci::Access;
use serde_json::json;

use crate::artifact::{Local, failure};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::progress::Progress;
use crate::source::registry::{open, reference, watch};

/// Puts a package into a registry, and its signatures beside it.
///
/// Credentials are Docker's: `docker login REGISTRY` keeps them. Registries on this machine are asked without TLS.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune push ghcr.io/acme/hello:1.0.0 hello\n  rune push 127.0.0.1:5000/hello:1.0.0 hello/target/hello-1.0.0.oci.tar\n\nExit codes: 0 it is there, 3 the registry refuses, 6 the registry does not answer."
)]
pub(crate) struct PushArgs {
    /// Where to: `HOST[:PORT]/REPOSITORY[:TAG]`
    #[arg(value_name = "REF")]
    reference: String,
    /// The agent directory, or an OCI layout of it
    #[arg(default_value = ".")]
    from: PathBuf,
}

pub(crate) async fn run(context: &Context, args: &PushArgs) -> Outcome {
    let target = reference(&args.reference)?;
    if target.digest().is_some() {
        return Err(
            Failure::usage("a package is pushed under a tag, not under a digest")
                .help("the digest follows from the content and is printed"),
        );
    }
    let local = Local::at(context, &args.from)?;
    let layout = &local.layout;
    let failed = |error| failure(&format!("cannot push to {target}"), &error);
    let registry = open(context, &target, Access::Push).await?;
    let line = Progress::new(context.output).line("");
    line.step(&format!(
        "pushing {} {} to {target}",
        layout.artifact.name(),
        layout.artifact.version()
    ));
    registry
        .push(&layout.artifact, &watch(&line, "pushing"))
        .await
        .map_err(failed)?;
    let digest = layout.artifact.digest();
    for signature in &layout.signatures.0 {
        registry
            .push_signature(digest, signature)
            .await
            .map_err(failed)?;
    }
    drop(line);
    let pushed = target.pinned(digest);
    let data = json!({
        "reference": target.to_string(),
        "digest": digest,
        "pinned": pushed.to_string(),
        "size": layout.artifact.size(),
        "signatures": layout.signatures.0.len(),
    });
    context.output.data(&data, |_| {
        format!("[ok] pushed {target}\ndigest  {digest}\n\nnext:\n  rune sign {target} --key FILE\n  rune run {pushed} \"Hello\"")
    })?;
    Ok(Exit::Ok)
}
