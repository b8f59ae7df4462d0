//! `rune key`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rune_oci::SigningKey;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};

/// Keys that sign and verify packages.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a pair of ed25519 keys: NAME.key, which signs and only its owner can read, and NAME.pub, which verifies
    #[command(
        after_help = "Examples:\n  rune key generate release\n  rune sign hello --key release.key\n  rune verify ghcr.io/acme/hello:1.0.0 --key release.pub\n\nBoth files are PEM, as OpenSSL reads and writes them (`openssl genpkey -algorithm ed25519`)."
    )]
    Generate {
        /// The files' name, without its ending
        #[arg(default_value = "rune")]
        name: PathBuf,
    },
}

pub(crate) fn run(context: &Context, command: KeyCommand) -> Outcome {
    let KeyCommand::Generate { name } = command;
    let (key, text) =
        SigningKey::generate().map_err(|error| Failure::because("cannot make a key", &error))?;
    let file = |ending: &str| {
        let mut name = name.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (private, public) = (file(".key"), file(".pub"));
    create(&private, 0o600, &text)?;
    create(&public, 0o644, &key.public().to_pem())?;
    let id = key.public().id();
    let data = json!({ "id": id, "private": private, "public": public });
    context.output.data(&data, |_| {
        format!(
            "[ok] made key {id}\nsigns     {}   keep it to yourself\nverifies  {}   for `packages.trusted_keys` and `rune verify --key`",
            private.display(),
            public.display()
        )
    })?;
    Ok(Exit::Ok)
}

/// A new file: a key is never overwritten.
fn create(path: &Path, mode: u32, text: &str) -> Outcome<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot write {}: {error}", path.display()),
        )
        .help("keys are never overwritten: choose another name")
    })
}
