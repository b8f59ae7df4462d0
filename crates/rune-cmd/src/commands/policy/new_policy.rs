//! The policy that is tried.

use std::path::Path;

use reqwest::Method;
use rune_runtime::PolicySet;
use rune_spec::package::{RUNEFILE, unpack};
use rune_spec::{AgentPackage, PolicyFile, SpecErrors};

use crate::cli::Target;
use crate::client::{Api, Client, part, with_query};
use crate::commands::validate::{agent_dir, invalid};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};

/// Policies with the package whose tools they are about.
pub(super) struct NewPolicy {
    pub(super) package: AgentPackage,
    pub(super) policies: PolicySet,
}

/// Reads the policy at `path`; a Cedar file takes the place of the deployed agent's.
pub(super) async fn load(
    context: &Context,
    client: &Client,
    path: &Path,
    agent: Option<&str>,
    target: &Target,
) -> Outcome<NewPolicy> {
    let cedar = path.extension().is_some_and(|end| end == "cedar") && !path.is_dir();
    let loaded = if cedar {
        let agent = agent.ok_or_else(|| {
            Failure::usage("a Cedar file says nothing of the agent it is for")
                .help("name it: rune policy test FILE --agent NAME")
        })?;
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        let mut package = deployed(client, agent, target).await?;
        if let Ok(package) = &mut package {
            let path = path.to_owned();
            package.policy = Some(PolicyFile { path, text });
        }
        package
    } else if path.is_dir() || path.file_name().is_some_and(|name| name == RUNEFILE) {
        AgentPackage::load(&agent_dir(path))
    } else {
        let message = format!("{} is no policy", path.display());
        return Err(Failure::usage(message)
            .help("name an agent directory, its Runefile, or a file that ends in `.cedar`"));
    };
    let compiled = loaded.and_then(|package| {
        let policies = PolicySet::compile(&package)?;
        Ok(NewPolicy { package, policies })
    });
    compiled.map_err(|errors| invalid(context.output, &errors))
}

/// The package of the deployed agent.
async fn deployed(
    client: &Client,
    agent: &str,
    target: &Target,
) -> Outcome<Result<AgentPackage, SpecErrors>> {
    let query = [
        ("ns", target.namespace.as_str()),
        ("agent", agent),
        ("alias", target.alias.as_str()),
    ];
    let path = with_query("/v1/deployments", &query);
    let found = client.get(Api::ControlPlane, &path).await?;
    let version = found["items"][0]["version_id"].as_str().ok_or_else(|| {
        let Target { namespace, alias } = target;
        let message = format!("agent `{namespace}/{agent}` is not deployed as `{alias}`");
        Failure::new(Exit::Failed, message).help("`rune agent ls` lists what is deployed")
    })?;
    let path = format!("/v1/agent-versions/{}/package", part(version));
    let request = client.request(Api::ControlPlane, Method::GET, &path);
    let response = client.send(Api::ControlPlane, request).await?;
    let bytes = response
        .bytes()
        .await
        .map_err(|error| client.unreachable(Api::ControlPlane, &error))?;
    let dir = tempfile::tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    // What is needed of it is in memory when the directory goes.
    unpack(&bytes, dir.path())
        .map_err(|error| Failure::because("cannot unpack the deployed package", &error))?;
    Ok(AgentPackage::load(dir.path()))
}
