//! Artefacts of packages: built of a directory, read from a layout.

use std::path::{Path, PathBuf};

use rune_oci::{Artifact, Layout, OciError, Refusal, Signatures};
use rune_spec::AgentPackage;

use crate::commands::validate::{agent_dir, checked, invalid};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};

/// A directory that is never part of a package.
const BUILD_DIR: &str = "target";

/// An artefact on this machine, with its signatures.
pub(crate) struct Local {
    /// What it is.
    pub(crate) layout: Layout,
    /// Where its layout is, or would be.
    pub(crate) path: PathBuf,
}

impl Local {
    /// The artefact at a path: a layout, or an agent directory, which is built.
    pub(crate) fn at(context: &Context, path: &Path) -> Outcome<Self> {
        if Layout::is_at(path) {
            let layout = read(path)?;
            let path = path.to_owned();
            return Ok(Self { layout, path });
        }
        let dir = agent_dir(path);
        if !dir.is_dir() {
            let message = format!(
                "there is neither an agent nor an OCI layout at `{}`",
                path.display()
            );
            return Err(Failure::usage(message)
                .help("`rune build DIR` makes a layout of an agent directory"));
        }
        Self::build(context, &dir, None).map(|(_, local)| local)
    }

    /// Builds the artefact of an agent directory, printing what is wrong with it, for a layout at this path or else where
    /// `rune build` puts it. A layout of the same artefact at either place gives its signatures.
    pub(crate) fn build(
        context: &Context,
        dir: &Path,
        path: Option<&Path>,
    ) -> Outcome<(AgentPackage, Self)> {
        let agent = checked(context, dir).map_err(|errors| invalid(context.output, &errors))?;
        let packed = rune_spec::package::pack(dir).map_err(|error| {
            Failure::usage(format!("cannot pack {}: {}", dir.display(), chain(&error)))
        })?;
        let artifact = Artifact::build(&agent, packed);
        let name = format!("{}-{}.oci.tar", artifact.name(), artifact.version());
        let usual = dir.join(BUILD_DIR).join(name);
        let mut signatures = Signatures::default();
        for place in path.into_iter().chain([usual.as_path()]) {
            let before = Layout::is_at(place).then(|| Layout::read(place).ok());
            let before = before.flatten();
            let same = before.filter(|before| before.artifact.digest() == artifact.digest());
            for signature in same.map(|same| same.signatures.0).into_iter().flatten() {
                if !signatures.0.contains(&signature) {
                    signatures.0.push(signature);
                }
            }
        }
        let path = path.map_or(usual, Path::to_owned);
        let layout = Layout {
            artifact,
            signatures,
        };
        Ok((agent, Self { layout, path }))
    }

    /// Writes the layout where it belongs.
    pub(crate) fn write(&self) -> Outcome<()> {
        self.layout
            .write(&self.path)
            .map_err(|error| failure("cannot write the layout", &error))
    }
}

/// Reads a layout.
pub(crate) fn read(path: &Path) -> Outcome<Layout> {
    Layout::read(path).map_err(|error| failure(&format!("cannot use {}", path.display()), &error))
}

/// How a command ends that could not get at an artefact.
pub(crate) fn failure(what: &str, error: &OciError) -> Failure {
    let exit = match error {
        OciError::Unreachable { .. }
        | OciError::Refused {
            transient: true, ..
        } => Exit::Unavailable,
        OciError::Denied { .. } => Exit::Denied,
        OciError::TooLarge { .. } => Exit::Limit,
        OciError::NotFound { .. }
        | OciError::Refused { .. }
        | OciError::Digest { .. }
        | OciError::NotAnAgent { .. }
        | OciError::Malformed { .. }
        | OciError::Credentials { .. }
        | OciError::Io { .. } => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("{what}: {}", chain(error)));
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// How a command ends whose artefact is signed by nobody who is trusted.
pub(crate) fn refused(name: &str, refusal: &Refusal) -> Failure {
    let help = match refusal {
        Refusal::Unsigned => format!("who built it signs it with `rune sign {name} --key FILE`"),
        Refusal::UnknownKey(_) => {
            "where the key is to be trusted, name its file with --key or in `packages.trusted_keys`"
                .to_owned()
        }
        Refusal::OtherRepository { .. } => {
            format!("who vouches for it here signs it here: `rune sign {name} --key FILE`")
        }
        Refusal::Invalid(_) | Refusal::Malformed(_) => {
            "do not use it; ask whoever signed it what happened".to_owned()
        }
    };
    Failure::new(Exit::Denied, format!("{name} is refused: {refusal}")).help(help)
}
