//! What a container gets from its pod: its environment and its volumes, with every reference looked up.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use super::NodeConfig;
use super::runtime::Mount;
use crate::cluster::Cluster;
use crate::object::{self, list, text};
use crate::resource::named;
use crate::store::Key;

/// The volumes of a pod, as directories of this machine. Those that are the pod's own are removed when dropped.
#[derive(Debug)]
pub(super) struct Volumes {
    own: TempDir,
    /// Where the volumes of claims are.
    claimed: Option<PathBuf>,
}

impl Volumes {
    pub(super) fn new(node: &NodeConfig) -> Result<Self, String> {
        let own = TempDir::with_prefix("rune-test-pod-").map_err(|error| error.to_string())?;
        open(own.path(), 0o755)?;
        Ok(Self {
            own,
            claimed: node.volumes.clone(),
        })
    }

    /// A directory of the pod's own, open to its containers.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf, String> {
        part(self.own.path().to_owned(), name)
    }

    /// The file in which its containers look up names.
    pub(super) fn hosts(&self) -> PathBuf {
        self.own.path().join(".hosts")
    }

    /// What is mounted into a container.
    pub(super) fn mounts(
        &self,
        cluster: &Cluster,
        pod: &Value,
        container: &Value,
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = Vec::new();
        for mount in list(container, "/volumeMounts") {
            let name = text(mount, "/name");
            let volumes = list(pod, "/spec/volumes");
            let volume = volumes.iter().find(|volume| text(volume, "/name") == name);
            let volume = volume.ok_or_else(|| format!("there is no volume {name}"))?;
            let source = self.make(cluster, pod, name, volume)?;
            let is_set = |of: &Value| of.get("readOnly") == Some(&Value::Bool(true));
            let read_only =
                is_set(mount) || volume.get("persistentVolumeClaim").is_some_and(is_set);
            mounts.push(Mount {
                source: part(source, text(mount, "/subPath"))?,
                target: text(mount, "/mountPath").to_owned(),
                read_only,
            });
        }
        Ok(mounts)
    }

    fn make(
        &self,
        cluster: &Cluster,
        pod: &Value,
        name: &str,
        volume: &Value,
    ) -> Result<PathBuf, String> {
        if let Some(claim) = volume.get("persistentVolumeClaim") {
            return self.claimed(cluster, pod, text(claim, "/claimName"));
        }
        let dir = self.own.path().join(name);
        if dir.exists() {
            return Ok(dir);
        }
        std::fs::create_dir(&dir).map_err(|error| error.to_string())?;
        if let Some(secret) = volume.get("secret") {
            let found = lookup(cluster, pod, "secrets", text(secret, "/secretName"))?;
            files(&dir, &found, list(secret, "/items"), true)?;
            open(&dir, 0o755)?;
        } else if let Some(map) = volume.get("configMap") {
            let found = lookup(cluster, pod, "configmaps", text(map, "/name"))?;
            files(&dir, &found, list(map, "/items"), false)?;
            open(&dir, 0o755)?;
        } else if volume.get("emptyDir").is_some() {
            open(&dir, 0o777)?;
        } else {
            return Err(format!("this kubelet has no volume as {name} is"));
        }
        Ok(dir)
    }

    /// The volume of a claim, which outlives the pods that mount it: the one that it is bound to, else the node's own.
    fn claimed(&self, cluster: &Cluster, pod: &Value, claim: &str) -> Result<PathBuf, String> {
        let found = lookup(cluster, pod, "persistentvolumeclaims", claim)?;
        let bound = text(&found, "/spec/volumeName");
        if !bound.is_empty() {
            return volume(cluster, pod, bound);
        }
        let dir = self.claimed.clone();
        let dir = dir.ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" is not bound"))?;
        part(dir, &format!("{}/{claim}", object::namespace(pod)))
    }
}

/// A part of a volume, which is made where it is not there.
fn part(mut dir: PathBuf, path: &str) -> Result<PathBuf, String> {
    for name in path.split('/').filter(|name| !name.is_empty()) {
        dir.push(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => open(&dir, 0o777)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(dir)
}

/// The directory of a volume, which belongs to the group of the pod's volumes.
fn volume(cluster: &Cluster, pod: &Value, name: &str) -> Result<PathBuf, String> {
    let volumes = named("persistentvolumes").ok_or("there is no such kind")?;
    let found = cluster.store().get(&Key::new(volumes, "", name)).cloned();
    let path = found.map(|found| PathBuf::from(text(&found, "/spec/hostPath/path")));
    let path = path.ok_or_else(|| format!("persistentvolume \"{name}\" not found"))?;
    let group = pod.pointer("/spec/securityContext/fsGroup");
    let group = group
        .and_then(Value::as_u64)
        .and_then(|group| u32::try_from(group).ok());
    if let Some(group) = group {
        // Only root can give it away; others open it for everybody.
        match chown(&path, None, Some(group)) {
            Ok(()) => open(&path, 0o2775)?,
            Err(_) => open(&path, 0o777)?,
        }
    }
    Ok(path)
}

/// Writes the keys of a secret or a config map as files, all or those that are listed.
fn files(dir: &Path, source: &Value, items: &[Value], is_encoded: bool) -> Result<(), String> {
    let data = source.get("data").and_then(Value::as_object);
    for (key, value) in data.into_iter().flatten() {
        let item = items.iter().find(|item| text(item, "/key") == key);
        if item.is_none() && !items.is_empty() {
            continue;
        }
        let name = item.map_or(key.as_str(), |item| text(item, "/path"));
        let file = dir.join(name);
        let bytes = decoded(value, is_encoded);
        std::fs::write(&file, bytes).map_err(|error| error.to_string())?;
        open(&file, 0o444)?;
    }
    Ok(())
}

fn open(path: &Path, mode: u32) -> Result<(), String> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| error.to_string())
}

fn decoded(value: &Value, is_encoded: bool) -> Vec<u8> {
    let text = value.as_str().unwrap_or("");
    if is_encoded {
        STANDARD.decode(text).unwrap_or_default()
    } else {
        text.as_bytes().to_vec()
    }
}

fn lookup(cluster: &Cluster, pod: &Value, plural: &str, name: &str) -> Result<Value, String> {
    let resource = named(plural).ok_or("there is no such kind")?;
    let key = Key::new(resource, object::namespace(pod), name);
    let found = cluster.store().get(&key).map(|found| Value::clone(found));
    found.ok_or_else(|| format!("{} \"{name}\" not found", resource.singular))
}

/// The environment of a container.
pub(super) fn environment(
    cluster: &Cluster,
    pod: &Value,
    container: &Value,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Vec::new();
    for source in list(container, "/envFrom") {
        let prefix = text(source, "/prefix");
        let (plural, from, is_encoded) = match source.get("secretRef") {
            Some(secret) => ("secrets", text(secret, "/name"), true),
            None => ("configmaps", text(source, "/configMapRef/name"), false),
        };
        let found = lookup(cluster, pod, plural, from)?;
        let data = found.get("data").and_then(Value::as_object);
        for (key, value) in data.into_iter().flatten() {
            let value = String::from_utf8_lossy(&decoded(value, is_encoded)).into_owned();
            env.push((format!("{prefix}{key}"), value));
        }
    }
    for variable in list(container, "/env") {
        let value = match variable.get("valueFrom") {
            None => text(variable, "/value").to_owned(),
            Some(from) => referenced(cluster, pod, from)?,
        };
        env.push((text(variable, "/name").to_owned(), value));
    }
    Ok(env)
}

/// The container with `$(NAME)` in its command and arguments replaced by its environment; what names nothing stays.
pub(super) fn expanded(container: &Value, env: &[(String, String)]) -> Value {
    let mut container = container.clone();
    for field in ["command", "args"] {
        let words = container.get_mut(field).and_then(Value::as_array_mut);
        for word in words.into_iter().flatten() {
            let Some(text) = word.as_str() else { continue };
            let expanded = env.iter().fold(text.to_owned(), |text, (name, value)| {
                text.replace(&format!("$({name})"), value)
            });
            *word = expanded.into();
        }
    }
    container
}

fn referenced(cluster: &Cluster, pod: &Value, from: &Value) -> Result<String, String> {
    if let Some(field) = from.get("fieldRef") {
        let path = text(field, "/fieldPath");
        let of_key = |map: &str| {
            let key = path
                .strip_prefix(map)?
                .strip_prefix("['")?
                .strip_suffix("']")?;
            let found = pod.pointer(&format!("/{}", map.replace('.', "/")))?;
            Some(
                found
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or("")
                    .to_owned(),
            )
        };
        let maps = ["metadata.labels", "metadata.annotations"];
        if let Some(value) = maps.into_iter().find_map(of_key) {
            return Ok(value);
        }
        return Ok(text(pod, &format!("/{}", path.replace('.', "/"))).to_owned());
    }
    let (plural, reference, is_encoded) = match from.get("secretKeyRef") {
        Some(reference) => ("secrets", reference, true),
        None => {
            let reference = from.get("configMapKeyRef");
            let reference = reference.ok_or("this kubelet has no such variable")?;
            ("configmaps", reference, false)
        }
    };
    let (name, key) = (text(reference, "/name"), text(reference, "/key"));
    let found = lookup(cluster, pod, plural, name)?;
    let value = found.get("data").and_then(|data| data.get(key));
    let value = value.ok_or_else(|| format!("couldn't find key {key} in {plural} {name}"))?;
    Ok(String::from_utf8_lossy(&decoded(value, is_encoded)).into_owned())
}
