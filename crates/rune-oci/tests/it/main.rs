//! Artefacts, layouts and registries as their users see them.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod artifact;
mod registry;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rune_oci::{Artifact, Layout, Signature, Signatures, SigningKey};
use rune_spec::{AgentPackage, package};
use tempfile::TempDir;

const RUNEFILE: &str = "\
name: hello
version: 1.0.0
description: Says hello.
instructions: Answer.
default_model: default
toolset: [rune@system-time, shout, box, docs/find]
mcp_servers:
  - { name: docs, url: \"https://me:word@docs.example.org/mcp?key=hidden\" }
models:
  providers: [offline, openai]
  model_mapping: { default: { offline: offline, openai: gpt-x } }
";

/// An agent with a tool of several kinds.
pub(crate) fn agent() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    dir
}

pub(crate) fn write(dir: &Path) {
    fs::create_dir_all(dir.join("tools")).unwrap();
    fs::write(dir.join("Runefile"), RUNEFILE).unwrap();
    let tool = "name: shout\ndescription: Shouts.\nmodule: tools/shout.sh\nversion: 2.1.0\n";
    fs::write(dir.join("tools/shout.yaml"), tool).unwrap();
    fs::write(dir.join("tools/shout.sh"), "#!/bin/sh\necho '\"HI\"'\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.join("tools/shout.sh"), mode).unwrap();
    let tool = "name: box\ndescription: Boxes.\nruntime: container\nimage: acme/box:1\n";
    fs::write(dir.join("tools/box.yaml"), tool).unwrap();
}

pub(crate) fn build(dir: &Path) -> Artifact {
    let agent = AgentPackage::load(dir).unwrap();
    Artifact::build(&agent, package::pack(dir).unwrap())
}

/// The artefact of the agent, signed by a key for a repository.
pub(crate) fn signed(key: &SigningKey, repository: Option<&str>) -> Layout {
    let dir = agent();
    let artifact = build(dir.path());
    let repository = repository.map(str::to_owned);
    let signature = Signature::make(key, &artifact.descriptor(), repository);
    Layout {
        artifact,
        signatures: Signatures(vec![signature]),
    }
}
