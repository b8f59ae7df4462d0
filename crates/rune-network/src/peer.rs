//! The agents that run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rune_store_runtime::DeploymentId;

use crate::{AgentAddress, Member};

/// An agent that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// By which name.
    pub address: AgentAddress,
    /// Its networks.
    pub networks: Vec<String>,
    /// What serves it.
    pub deployment_id: DeploymentId,
}

impl Peer {
    /// The agent as the network rule sees it; `agent` is its printed address.
    #[must_use]
    pub fn member<'a>(&'a self, agent: &'a str) -> Member<'a> {
        Member {
            agent,
            networks: &self.networks,
        }
    }
}

/// Knows the agents that run. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PeerRegistry {
    peers: Arc<Mutex<HashMap<AgentAddress, Arc<Peer>>>>,
}

impl PeerRegistry {
    /// Adds an agent, or changes what is known of it.
    pub fn join(&self, peer: Peer) {
        self.lock().insert(peer.address.clone(), Arc::new(peer));
    }

    /// Forgets what a deployment served.
    pub fn leave(&self, deployment_id: DeploymentId) {
        self.lock()
            .retain(|_, peer| peer.deployment_id != deployment_id);
    }

    /// The agent with this address.
    #[must_use]
    pub fn find(&self, address: &AgentAddress) -> Option<Arc<Peer>> {
        self.lock().get(address).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentAddress, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(networks: &[&str]) -> Peer {
        Peer {
            address: AgentAddress::resolve(&"a".parse().unwrap(), "dev"),
            networks: networks.iter().map(|name| (*name).to_owned()).collect(),
            deployment_id: DeploymentId::generate(),
        }
    }

    #[test]
    fn the_last_to_join_under_a_name_counts_until_it_leaves() {
        let registry = PeerRegistry::default();
        let (old, new) = (peer(&["x"]), peer(&["y"]));
        registry.join(old.clone());
        registry.join(new.clone());
        // The deployment before it says goodbye late.
        registry.leave(old.deployment_id);
        assert_eq!(registry.find(&new.address).as_deref(), Some(&new));
        registry.leave(new.deployment_id);
        assert_eq!(registry.find(&new.address), None);
    }
}
