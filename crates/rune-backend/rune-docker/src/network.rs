//! Networks of the engine: one for each network of Rune, made when it is needed, and one for replicas that are in none, in
//! which each is alone with the daemon. All of them reach the daemon at the address that this machine has in the latter.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};

use crate::DockerError;
use crate::engine::{DockerEngine, status};

/// Label: which network of Rune.
const NETWORK: &str = "rune.network";
/// Whether containers of a network reach each other.
const AMONG_THEMSELVES: &str = "com.docker.network.bridge.enable_icc";

/// The engine's networks for those of Rune that a replica is in, made where there are none; where it is in none, the one
/// in which it is alone with the daemon.
pub(crate) async fn of_replica(
    engine: &DockerEngine,
    networks: &[String],
) -> Result<Vec<String>, DockerError> {
    if networks.is_empty() {
        return Ok(vec![of_daemon(engine).await?.0]);
    }
    let (label, daemon) = engine.label_of_daemon();
    let mut names = Vec::with_capacity(networks.len());
    let _alone = engine.networks().await;
    for network in networks {
        let name = format!("rune-{daemon}-{network}");
        find(engine, &name, &[(label, daemon), (NETWORK, network)], false).await?;
        names.push(name);
    }
    Ok(names)
}

/// Puts a container into a network of the engine.
pub(crate) async fn join(
    engine: &DockerEngine,
    container: &str,
    name: &str,
) -> Result<(), DockerError> {
    let ask = NetworkConnectRequest {
        container: container.to_owned(),
        endpoint_config: Some(EndpointSettings::default()),
    };
    match engine.client().await?.connect_network(name, ask).await {
        Ok(()) => Ok(()),
        // It is connected already.
        Err(error) if status(&error) == Some(403) => Ok(()),
        Err(error) => Err(engine.error("connect a network", &error)),
    }
}

/// The network in which replicas reach the daemon, nothing outside and not each other. Answers its name and the address
/// of this machine in it.
pub(crate) async fn of_daemon(engine: &DockerEngine) -> Result<(String, IpAddr), DockerError> {
    let (label, daemon) = engine.label_of_daemon();
    let name = format!("rune-{daemon}");
    let _alone = engine.networks().await;
    let gateway = find(engine, &name, &[(label, daemon)], true).await?;
    let gateway = gateway.ok_or_else(|| DockerError::Refused {
        action: "say the address of this machine in a network",
        reason: format!("the network `{name}` has no gateway"),
    })?;
    Ok((name, gateway))
}

/// Looks for a network, makes it where there is none, and answers its gateway.
async fn find(
    engine: &DockerEngine,
    name: &str,
    labels: &[(&str, &str)],
    closed: bool,
) -> Result<Option<IpAddr>, DockerError> {
    if let Some(found) = gateway(engine, name).await? {
        return Ok(found);
    }
    let options = [(AMONG_THEMSELVES, "false")];
    let ask = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        internal: Some(closed),
        options: closed.then(|| owned(&options)),
        labels: Some(owned(labels)),
        ..NetworkCreateRequest::default()
    };
    match engine.client().await?.create_network(ask).await {
        Ok(_) => {}
        // Somebody else has made it meanwhile.
        Err(error) if status(&error) == Some(409) => {}
        Err(error) => return Err(engine.error("make a network", &error)),
    }
    Ok(gateway(engine, name).await?.flatten())
}

/// The gateway of a network that is there.
async fn gateway(engine: &DockerEngine, name: &str) -> Result<Option<Option<IpAddr>>, DockerError> {
    let docker = engine.client().await?;
    let found = docker
        .inspect_network(name, None::<InspectNetworkOptions>)
        .await;
    match found {
        Ok(found) => {
            let mut configs = found
                .ipam
                .and_then(|ipam| ipam.config)
                .into_iter()
                .flatten();
            Ok(Some(
                configs.find_map(|config| config.gateway?.parse().ok()),
            ))
        }
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(engine.error("look at a network", &error)),
    }
}

/// Removes the networks of Rune that nobody is in.
pub(crate) async fn remove_unused(engine: &DockerEngine) -> Result<(), DockerError> {
    let docker = engine.client().await?;
    let _alone = engine.networks().await;
    let (label, daemon) = engine.label_of_daemon();
    let labels = vec![format!("{label}={daemon}"), NETWORK.to_owned()];
    let options = ListNetworksOptionsBuilder::default()
        .filters(&HashMap::from([("label", labels)]))
        .build();
    let found = docker.list_networks(Some(options)).await;
    let found = found.map_err(|error| engine.error("list networks", &error))?;
    for name in found.into_iter().filter_map(|network| network.name) {
        match docker.remove_network(&name).await {
            Ok(()) => {}
            // Somebody is in it, or it is gone.
            Err(error) if matches!(status(&error), Some(403 | 404 | 409)) => {}
            Err(error) => return Err(engine.error("remove a network", &error)),
        }
    }
    Ok(())
}

fn owned(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}
