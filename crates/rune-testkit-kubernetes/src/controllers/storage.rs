//! Volumes: a directory of this machine for every claim.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::options;
use crate::events;
use crate::garbage::{self, DeleteOptions};
use crate::object::{self, list, text};
use crate::resource::{Resource, named};
use crate::status::ApiResult;
use crate::store::{Key, Store};
use crate::{KubernetesError, defaults, write};

const COMPONENT: &str = "persistentvolume-controller";
/// What holds a claim as long as a pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The directories; removed when dropped.
#[derive(Debug)]
pub(super) struct Storage(TempDir);

impl Storage {
    pub(super) fn new() -> Result<Self, KubernetesError> {
        let path = std::env::temp_dir();
        let dir = TempDir::with_prefix("rune-test-volumes-");
        let dir = dir.map_err(|source| KubernetesError::File { path, source })?;
        Ok(Self(dir))
    }

    /// Gives claims their volumes, lets go of claims that nobody uses, and removes volumes without a claim.
    pub(super) fn reconcile(&self, store: &mut Store) {
        let (Some(claims), Some(volumes), Some(pods)) = (
            named("persistentvolumeclaims"),
            named("persistentvolumes"),
            named("pods"),
        ) else {
            return;
        };
        let found: Vec<(Key, Arc<Value>)> = store
            .list(claims, None)
            .map(|(key, claim)| (key.clone(), Arc::clone(claim)))
            .collect();
        for (key, claim) in &found {
            if object::is_deleting(claim) {
                if !is_used(store, pods, claim) {
                    release(store, claims, key, claim);
                }
            } else if text(claim, "/status/phase") != "Bound" {
                self.bind(store, claims, volumes, key, claim);
            }
        }
        let living: BTreeSet<String> = store
            .list(claims, None)
            .map(|(_, claim)| object::uid(claim).to_owned())
            .collect();
        let left: Vec<Key> = store
            .list(volumes, None)
            .filter(|(_, volume)| text(volume, "/spec/storageClassName") == defaults::STORAGE_CLASS)
            .filter(|(_, volume)| !living.contains(text(volume, "/spec/claimRef/uid")))
            .map(|(key, _)| key.clone())
            .collect();
        for key in left {
            // What is left of it goes with the kit.
            let _ = std::fs::remove_dir_all(self.path(&key.name));
            let _ = garbage::delete(store, volumes, &key, &DeleteOptions::default());
        }
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.0.path().join(volume)
    }

    fn bind(
        &self,
        store: &mut Store,
        claims: &Resource,
        volumes: &Resource,
        key: &Key,
        claim: &Value,
    ) {
        let class = text(claim, "/spec/storageClassName");
        if class != defaults::STORAGE_CLASS {
            let message = format!("storageclass.storage.k8s.io \"{class}\" not found");
            events::warn_once(store, claim, COMPONENT, "ProvisioningFailed", &message);
            return;
        }
        let name = format!("pvc-{}", object::uid(claim));
        let path = self.path(&name);
        let made = std::fs::create_dir_all(&path).map_err(|error| error.to_string());
        let bound = made.and_then(|()| {
            provision(store, volumes, &name, &path.display().to_string(), claim)
                .and_then(|()| tie(store, claims, key, claim, &name))
                .map_err(|error| text(&error.status(), "/message").to_owned())
        });
        if let Err(message) = bound {
            events::warn_once(store, claim, COMPONENT, "ProvisioningFailed", &message);
        }
    }
}

/// Makes the volume of a claim.
fn provision(
    store: &mut Store,
    volumes: &Resource,
    name: &str,
    path: &str,
    claim: &Value,
) -> ApiResult<()> {
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": claim.pointer("/spec/resources/requests"),
            "accessModes": claim.pointer("/spec/accessModes"),
            "volumeMode": claim.pointer("/spec/volumeMode"),
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": defaults::STORAGE_CLASS,
            "hostPath": {"path": path},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": object::name(claim),
                "namespace": object::namespace(claim), "uid": object::uid(claim),
            },
        },
    });
    let mut volume = Value::clone(&*write::create(store, volumes, "", volume, &options())?);
    object::set(&mut volume, &["status", "phase"], "Bound");
    let key = Key::new(volumes, "", name);
    write::update(store, volumes, &key, volume, "status", &options()).map(|_| ())
}

/// Binds a claim to its volume.
fn tie(
    store: &mut Store,
    claims: &Resource,
    key: &Key,
    claim: &Value,
    volume: &str,
) -> ApiResult<()> {
    let mut claim = claim.clone();
    object::set(&mut claim, &["spec", "volumeName"], volume);
    let bound = ["metadata", "annotations", "pv.kubernetes.io/bind-completed"];
    object::set(&mut claim, &bound, "yes");
    let mut finalizers = list(&claim, "/metadata/finalizers").to_vec();
    finalizers.push(json!(PROTECTION));
    object::set(&mut claim, &["metadata", "finalizers"], finalizers);
    let mut claim = Value::clone(&*write::update(store, claims, key, claim, "", &options())?);
    let status = json!({
        "phase": "Bound", "accessModes": claim.pointer("/spec/accessModes"),
        "capacity": claim.pointer("/spec/resources/requests"),
    });
    object::set(&mut claim, &["status"], status);
    write::update(store, claims, key, claim, "status", &options()).map(|_| ())
}

/// Whether a pod that has a node mounts a claim.
fn is_used(store: &Store, pods: &Resource, claim: &Value) -> bool {
    let mounts = |pod: &Value| {
        list(pod, "/spec/volumes")
            .iter()
            .any(|volume| text(volume, "/persistentVolumeClaim/claimName") == object::name(claim))
    };
    store
        .list(pods, Some(object::namespace(claim)))
        .any(|(_, pod)| !text(pod, "/spec/nodeName").is_empty() && mounts(pod))
}

fn release(store: &mut Store, claims: &Resource, key: &Key, claim: &Value) {
    let finalizers = list(claim, "/metadata/finalizers");
    if !finalizers.iter().any(|f| f == PROTECTION) {
        return;
    }
    let left: Vec<Value> = finalizers
        .iter()
        .filter(|f| *f != PROTECTION)
        .cloned()
        .collect();
    let mut claim = claim.clone();
    object::set(&mut claim, &["metadata", "finalizers"], left);
    // It is as it was read, so nothing can be in the way.
    let _ = write::update(store, claims, key, claim, "", &options());
}
