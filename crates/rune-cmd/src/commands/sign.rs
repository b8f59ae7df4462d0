//! `rune sign`

use std::path::{Path, PathBuf};

use clap::Args;
use rune_oci::{Access, Artifact, Signature, SigningKey};
use serde_json::json;

use crate::artifact::{Local, failure};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::keys;
use crate::source::registry::{open, reference};

/// Signs a package: in a registry, under the name of its repository, or in the OCI layout of an agent directory.
///
/// The signature is over the digest of the artefact and the name of its repository. In a registry it is kept as an artefact
/// of its own that refers to the signed one.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune key generate release\n  rune sign ghcr.io/acme/hello:1.0.0 --key release.key\n  rune sign hello --key release.key                              before it is pushed, or deployed from here\n  rune sign hello --key release.key --repository ghcr.io/acme/hello  for where it will be pushed"
)]
pub(crate) struct SignArgs {
    /// A reference of a registry, an agent directory or an OCI layout
    #[arg(value_name = "REF|DIR")]
    subject: String,
    /// The private key, as `rune key generate` makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// For a directory or a layout: the repository that it will be pushed to
    #[arg(long, value_name = "HOST/REPOSITORY")]
    repository: Option<String>,
}

pub(crate) async fn run(context: &Context, args: &SignArgs) -> Outcome {
    let key = keys::signing(&args.key)?;
    let path = Path::new(&args.subject);
    let (name, digest, repository) = if path.exists() {
        let named = args.repository.as_deref().map(reference).transpose()?;
        let repository = named.map(|reference| reference.name());
        let mut local = Local::at(context, path)?;
        let descriptor = local.layout.artifact.descriptor();
        let signature = Signature::make(&key, &descriptor, repository.clone());
        // Ed25519 gives the same signature again.
        if !local.layout.signatures.0.contains(&signature) {
            local.layout.signatures.0.push(signature);
        }
        local.write()?;
        (
            local.path.display().to_string(),
            descriptor.digest,
            repository,
        )
    } else {
        in_registry(context, &args.subject, &key).await?
    };
    let id = key.public().id();
    let data = json!({ "subject": name, "digest": digest, "key": id, "repository": repository });
    context.output.data(&data, |_| {
        let bound = repository.as_deref().unwrap_or("no repository");
        format!("[ok] signed {name}\ndigest      {digest}\nkey         {id}\nrepository  {bound}")
    })?;
    Ok(Exit::Ok)
}

/// Signs what a reference names; answers its name, digest and repository.
async fn in_registry(
    context: &Context,
    subject: &str,
    key: &SigningKey,
) -> Outcome<(String, rune_oci::Digest, Option<String>)> {
    let subject = reference(subject)?;
    let failed = |error| failure(&format!("cannot sign {subject}"), &error);
    let registry = open(context, &subject, Access::Push).await?;
    let (descriptor, manifest) = registry.resolve().await.map_err(failed)?;
    // Nobody vouches for something else than a package by mistake.
    Artifact::parts(&manifest).map_err(failed)?;
    let repository = Some(subject.name());
    let signature = Signature::make(key, &descriptor, repository.clone());
    registry
        .push_signature(&descriptor.digest, &signature)
        .await
        .map_err(failed)?;
    Ok((subject.to_string(), descriptor.digest, repository))
}
