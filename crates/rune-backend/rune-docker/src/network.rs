//! Networks of the engine: one for each network of Rune, made when it is needed.

use std::collections::HashMap;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};

use crate::DockerError;
use crate::engine::{DockerEngine, status};

/// Label: which network of Rune.
const NETWORK: &str = "rune.network";

/// The engine's networks for those of Rune that a replica is in, made where there are none.
pub(crate) async fn of_replica(
    engine: &DockerEngine,
    networks: &[String],
) -> Result<Vec<String>, DockerError> {
    let (label, daemon) = engine.label_of_daemon();
    let mut names = Vec::with_capacity(networks.len());
    let _alone = engine.networks().await;
    for network in networks {
        let name = format!("rune-{daemon}-{network}");
        make(engine, &name, &[(label, daemon), (NETWORK, network)]).await?;
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

/// Makes a network where there is none of this name.
async fn make(
    engine: &DockerEngine,
    name: &str,
    labels: &[(&str, &str)],
) -> Result<(), DockerError> {
    let docker = engine.client().await?;
    let found = docker
        .inspect_network(name, None::<InspectNetworkOptions>)
        .await;
    match found {
        Ok(_) => return Ok(()),
        Err(error) if status(&error) == Some(404) => {}
        Err(error) => return Err(engine.error("look at a network", &error)),
    }
    let ask = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        labels: Some(owned(labels)),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(ask).await {
        Ok(_) => Ok(()),
        // Somebody else has made it meanwhile.
        Err(error) if status(&error) == Some(409) => Ok(()),
        Err(error) => Err(engine.error("make a network", &error)),
    }
}

/// Removes the networks of Rune that nobody is in.
pub(crate) async fn remove_unused(engine: &DockerEngine) -> Result<(), DockerError> {
    let docker = engine.client().await?;
    let _alone = engine.networks().await;
    let (label, daemon) = engine.label_of_daemon();
    let labels = vec![format!("{label}={daemon}")];
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
