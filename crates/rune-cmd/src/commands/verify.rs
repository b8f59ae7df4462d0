//! `rune verify`

use std::path::{Path, PathBuf};

use clap::Args;
use rune_oci::{Layout, PublicKey};
use serde_json::json;

use crate::artifact::{Local, refused};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys;
use crate::source::registry::{pull, reference};

/// Checks a package: that it is what its digests say, and that a trusted key has signed it under the name of its repository.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune verify ghcr.io/acme/hello:1.0.0 --key release.pub\n  rune verify hello.oci.tar --key release.pub\n  rune verify ghcr.io/acme/hello:1.0.0        with the keys of `packages.trusted_keys`\n\nExit codes: 0 it is signed, 1 it is not what its digest says, 3 nobody who is trusted has signed it, 6 the registry does\nnot answer."
)]
pub(crate) struct VerifyArgs {
    /// A reference of a registry, an OCI layout or an agent directory that was signed
    #[arg(value_name = "REF|PATH")]
    subject: String,
    /// A public key; several: one of them has to have signed [default: those of `packages.trusted_keys`]
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: &VerifyArgs) -> Outcome {
    let keys: Vec<PublicKey> = if args.key.is_empty() {
        keys::trusted(&context.config)?
    } else {
        let keys = args.key.iter().map(|path| keys::public(path));
        keys.collect::<Outcome<_>>()?
    };
    if keys.is_empty() {
        return Err(Failure::usage("no key is trusted")
            .help("name one with --key FILE, or in `packages.trusted_keys` of config.toml"));
    }
    let path = Path::new(&args.subject);
    let (layout, repository): (Layout, Option<String>) = if path.exists() {
        (Local::at(context, path)?.layout, None)
    } else {
        let subject = reference(&args.subject)?;
        (pull(context, &subject).await?, Some(subject.name()))
    };
    let digest = layout.artifact.digest();
    let verified = layout
        .signatures
        .verify(&keys, digest, repository.as_deref());
    let verified = verified.map_err(|refusal| refused(&args.subject, &refusal))?;
    let data = json!({
        "subject": args.subject,
        "digest": digest,
        "key": verified.key,
        "repository": verified.statement.repository,
    });
    context.output.data(&data, |_| {
        let bound = verified
            .statement
            .repository
            .as_deref()
            .unwrap_or("no repository");
        format!(
            "[ok] {} is signed\ndigest      {digest}\nkey         {}\nrepository  {bound}",
            args.subject, verified.key
        )
    })?;
    Ok(Exit::Ok)
}
