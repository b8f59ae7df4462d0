//! `rune build`: the artefact of an agent directory.

mod image;

use std::path::{Path, PathBuf};

use clap::Args;
use rune_oci::components;
use rune_spec::AgentPackage;
use rune_spec::package::{inspect, is_ignored, replace_file};
use serde_json::{Value, json};

use super::validate::agent_dir;
use crate::artifact::Local;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::table;

/// Builds the artefact of an agent directory: an OCI image layout with the package, its description and a bill of materials.
///
/// The same directory gives the same bytes and so the same digest. Left out are `.git`, `target`, `node_modules`,
/// `__pycache__`, `.venv`, `.DS_Store` and `.env*`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune build hello                               hello/target/hello-0.1.0.oci.tar\n  rune build hello --layout hello.oci            a directory instead of an archive\n  rune build hello --sbom hello.cdx.json         what it is made of, as CycloneDX\n  rune build hello --image --tag hello:0.1.0     an image that Docker runs\n  docker run --rm hello:0.1.0 run /agent \"Hi\"\n\nnext: rune push REF, rune sign hello --key FILE"
)]
pub(crate) struct BuildArgs {
    /// The agent directory, or its Runefile
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the layout; an archive where it ends in .tar [default: DIR/target/NAME-VERSION.oci.tar]
    #[arg(long, value_name = "PATH")]
    layout: Option<PathBuf>,
    /// Write the bill of materials (CycloneDX in JSON) here as well
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
    /// Make an image of Docker Engine with the package in it, at /agent
    #[arg(long)]
    image: bool,
    /// Name of the image [default: NAME:VERSION]
    #[arg(long, short, requires = "image", value_name = "NAME:TAG")]
    tag: Option<String>,
}

pub(crate) fn run(context: &Context, args: &BuildArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let (agent, local) = Local::build(context, &dir, args.layout.as_deref())?;
    for path in [&args.layout, &args.sbom].into_iter().flatten() {
        outside(&agent, path)?;
    }
    local.write()?;
    if let Some(path) = &args.sbom {
        replace_file(path, local.layout.artifact.sbom()).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot write {}: {error}", path.display()),
            )
        })?;
    }
    let image = if args.image {
        let tag = args.tag.as_deref();
        Some(context.block_on(image::make(context, &local.layout.artifact, tag))?)
    } else {
        None
    };
    let report = report(&agent, &local, args.sbom.as_deref(), image.as_deref())?;
    context.output.data(&report, text)?;
    Ok(Exit::Ok)
}

/// What is written into the package would be part of the next one.
fn outside(agent: &AgentPackage, path: &Path) -> Outcome<()> {
    let name = Path::new(path.file_name().unwrap_or_default());
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    // A directory that is still to be made is below one that is there.
    let inner = parent.ancestors().find_map(|there| {
        let rest = parent.strip_prefix(there).ok()?;
        Some(there.canonicalize().ok()?.join(rest).join(name))
    });
    let inner = inner
        .as_deref()
        .and_then(|path| path.strip_prefix(&agent.dir).ok());
    if inner.is_none_or(is_ignored) {
        return Ok(());
    }
    let message = format!(
        "{} would become a part of the package itself",
        path.display()
    );
    Err(Failure::usage(message).help("write it elsewhere, or below `target`, which is left out"))
}

fn report(
    agent: &AgentPackage,
    local: &Local,
    sbom: Option<&Path>,
    image: Option<&str>,
) -> Outcome<Value> {
    let artifact = &local.layout.artifact;
    let files = inspect(artifact.package())
        .map_err(|error| Failure::because("cannot list the package", &error))?;
    Ok(json!({
        "name": artifact.name(),
        "version": artifact.version(),
        "description": artifact.description(),
        "digest": artifact.digest(),
        "size": artifact.size(),
        "layout": local.path,
        "signatures": local.layout.signatures.0.len(),
        "sbom": sbom,
        "image": image,
        "files": files,
        "components": components(agent),
    }))
}

fn text(report: &Value) -> String {
    let word = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let rows = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let mut text = format!(
        "[ok] {} {}, {} bytes\ndigest  {}\nlayout  {}",
        word("name"),
        word("version"),
        report["size"],
        word("digest"),
        word("layout"),
    );
    for (name, label) in [("sbom", "sbom  "), ("image", "image ")] {
        if let Some(value) = report[name].as_str() {
            text.push_str(&format!("\n{label}  {value}"));
        }
    }
    let files = [("FILE", "/path"), ("BYTES", "/size")];
    text.push_str(&format!("\n\n{}", table(&rows("files"), &files)));
    let components = rows("components");
    if !components.is_empty() {
        let columns = [
            ("KIND", "/kind"),
            ("NAME", "/name"),
            ("VERSION", "/version"),
            ("FROM", "/origin"),
            ("DIGEST", "/digest"),
        ];
        text.push_str(&format!("\n\n{}", table(&components, &columns)));
    }
    text
}
