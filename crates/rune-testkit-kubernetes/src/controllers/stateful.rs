//! Stateful sets: pods with fixed names, made, updated and removed one after the other, each with volumes of its own.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::options;
use crate::events::{self, Level};
use crate::garbage::{self, DeleteOptions};
use crate::object::{self, list, text};
use crate::resource::{Resource, named};
use crate::store::{Key, Store};
use crate::write;

const COMPONENT: &str = "statefulset-controller";
/// Label of a pod: of which template it was made.
const REVISION: &str = "controller-revision-hash";

/// Does the next thing for every set.
pub(super) fn reconcile(store: &mut Store) {
    let (Some(sets), Some(pods), Some(claims)) = (
        named("statefulsets"),
        named("pods"),
        named("persistentvolumeclaims"),
    ) else {
        return;
    };
    let found: Vec<Arc<Value>> = store
        .list(sets, None)
        .filter(|(_, set)| !object::is_deleting(set))
        .map(|(_, set)| Arc::clone(set))
        .collect();
    for set in found {
        let set = Set::new(&set, pods, claims);
        set.step(store);
        set.publish(store, sets);
    }
}

/// A set that is wanted.
struct Set<'a> {
    set: &'a Value,
    name: &'a str,
    namespace: &'a str,
    replicas: u64,
    /// The ordinal of the first pod.
    start: u64,
    /// Whether one pod waits for the others.
    is_ordered: bool,
    /// The name of its template.
    revision: String,
    pods: &'static Resource,
    claims: &'static Resource,
}

/// The pods of a set by their ordinals.
type Pods = BTreeMap<u64, Arc<Value>>;

impl<'a> Set<'a> {
    fn new(set: &'a Value, pods: &'static Resource, claims: &'static Resource) -> Self {
        let mut hasher = DefaultHasher::new();
        set.pointer("/spec/template").hash(&mut hasher);
        let name = object::name(set);
        let number = |field: &str| set.pointer(field).and_then(Value::as_u64);
        Self {
            set,
            name,
            namespace: object::namespace(set),
            replicas: number("/spec/replicas").unwrap_or(1),
            start: number("/spec/ordinals/start").unwrap_or(0),
            is_ordered: text(set, "/spec/podManagementPolicy") != "Parallel",
            revision: format!("{name}-{:x}", hasher.finish()),
            pods,
            claims,
        }
    }

    fn pods(&self, store: &Store) -> Pods {
        let uid = object::uid(self.set);
        let is_own = |pod: &Value| {
            let owners = list(pod, "/metadata/ownerReferences").iter();
            owners
                .filter(|owner| owner.get("controller") == Some(&Value::Bool(true)))
                .any(|owner| text(owner, "/uid") == uid)
        };
        store
            .list(self.pods, Some(self.namespace))
            .filter(|(_, pod)| is_own(pod))
            .filter_map(|(key, pod)| {
                let (_, ordinal) = key.name.rsplit_once('-')?;
                Some((ordinal.parse().ok()?, Arc::clone(pod)))
            })
            .collect()
    }

    /// Does what is next; where the set is ordered, one thing at a time.
    fn step(&self, store: &mut Store) {
        let pods = self.pods(store);
        let wanted = self.start..self.start.saturating_add(self.replicas);
        for ordinal in wanted.clone() {
            let waits = match pods.get(&ordinal) {
                None => {
                    self.create(store, ordinal);
                    true
                }
                Some(pod) if object::is_deleting(pod) => true,
                Some(pod) if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") => {
                    self.delete(store, pod);
                    true
                }
                Some(pod) => !is_ready(pod),
            };
            if waits && self.is_ordered {
                return;
            }
        }
        let others = pods.iter().rev();
        for (_, pod) in others.filter(|(ordinal, _)| !wanted.contains(*ordinal)) {
            self.delete(store, pod);
            if self.is_ordered {
                return;
            }
        }
        if text(self.set, "/spec/updateStrategy/type") == "OnDelete" {
            return;
        }
        for (_, pod) in pods.range(wanted).rev() {
            let is_old = self.revision_of(pod) != self.revision;
            if is_old {
                self.delete(store, pod);
            }
            if is_old || object::is_deleting(pod) || !is_ready(pod) {
                return;
            }
        }
    }

    fn revision_of<'p>(&self, pod: &'p Value) -> &'p str {
        text(pod, &format!("/metadata/labels/{REVISION}"))
    }

    fn create(&self, store: &mut Store, ordinal: u64) {
        let name = format!("{}-{ordinal}", self.name);
        let made = self
            .make_claims(store, &name)
            .and_then(|()| {
                let pod = self.pod(&name, ordinal);
                write::create(store, self.pods, self.namespace, pod, &options())
            })
            .map_err(|error| text(&error.status(), "/message").to_owned());
        let what = format!("create Pod {name} in StatefulSet {}", self.name);
        match made {
            Ok(_) => self.tell(store, "SuccessfulCreate", &format!("{what} successful")),
            Err(why) => {
                let message = format!("{what} failed error: {why}");
                events::warn_once(store, self.set, COMPONENT, "FailedCreate", &message);
            }
        }
    }

    fn tell(&self, store: &mut Store, reason: &str, message: &str) {
        events::note(store, self.set, COMPONENT, Level::Normal, reason, message);
    }

    /// The claims of a pod, where they are not there from an earlier one of its name.
    fn make_claims(&self, store: &mut Store, pod: &str) -> crate::status::ApiResult<()> {
        for template in list(self.set, "/spec/volumeClaimTemplates") {
            let mut claim = template.clone();
            let name = format!("{}-{pod}", object::name(template));
            object::set(&mut claim, &["metadata", "name"], name.as_str());
            let selector = self.set.pointer("/spec/selector/matchLabels").cloned();
            let labels = object::map(&mut claim, &["metadata", "labels"]);
            labels.extend(selector.into_iter().flat_map(|labels| match labels {
                Value::Object(labels) => labels,
                _ => serde_json::Map::new(),
            }));
            let key = Key::new(self.claims, self.namespace, &name);
            if store.get(&key).is_none() {
                write::create(store, self.claims, self.namespace, claim, &options())?;
            }
        }
        Ok(())
    }

    fn pod(&self, name: &str, ordinal: u64) -> Value {
        let template = self.set.pointer("/spec/template");
        let mut pod = template.cloned().unwrap_or_default();
        for (field, value) in [("apiVersion", "v1"), ("kind", "Pod")] {
            object::set(&mut pod, &[field], value);
        }
        for (field, value) in [("name", name), ("namespace", self.namespace)] {
            object::set(&mut pod, &["metadata", field], value);
        }
        for (label, value) in [
            (REVISION, self.revision.clone()),
            ("statefulset.kubernetes.io/pod-name", name.to_owned()),
            ("apps.kubernetes.io/pod-index", ordinal.to_string()),
        ] {
            object::set(&mut pod, &["metadata", "labels", label], value);
        }
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": self.name, "uid": object::uid(self.set),
            "controller": true, "blockOwnerDeletion": true,
        });
        object::set(&mut pod, &["metadata", "ownerReferences"], json!([owner]));
        object::set(&mut pod, &["spec", "hostname"], name);
        let service = text(self.set, "/spec/serviceName");
        if !service.is_empty() {
            object::set(&mut pod, &["spec", "subdomain"], service);
        }
        let mut volumes = list(&pod, "/spec/volumes").to_vec();
        for template in list(self.set, "/spec/volumeClaimTemplates") {
            let volume = object::name(template);
            // A claim takes the place of a volume of its name.
            volumes.retain(|other| text(other, "/name") != volume);
            let claim = json!({"claimName": format!("{volume}-{name}")});
            volumes.push(json!({"name": volume, "persistentVolumeClaim": claim}));
        }
        if !volumes.is_empty() {
            object::set(&mut pod, &["spec", "volumes"], volumes);
        }
        pod
    }

    /// Deletes a pod that is not being deleted.
    fn delete(&self, store: &mut Store, pod: &Value) {
        if object::is_deleting(pod) {
            return;
        }
        let name = object::name(pod);
        let options = DeleteOptions {
            uid: Some(object::uid(pod).to_owned()),
            ..DeleteOptions::default()
        };
        let key = Key::new(self.pods, self.namespace, name);
        // It is as it was read, so nothing can be in the way.
        let _ = garbage::delete(store, self.pods, &key, &options);
        let message = format!("delete Pod {name} in StatefulSet {} successful", self.name);
        self.tell(store, "SuccessfulDelete", &message);
    }

    fn publish(&self, store: &mut Store, sets: &Resource) {
        let pods = self.pods(store);
        let count = |is: &dyn Fn(&Value) -> bool| pods.values().filter(|pod| is(pod)).count();
        let of = |revision: &str| {
            count(&|pod| !object::is_deleting(pod) && self.revision_of(pod) == revision)
        };
        let ready = count(&|pod| is_ready(pod));
        let updated = of(&self.revision);
        let wanted = usize::try_from(self.replicas).unwrap_or(usize::MAX);
        let is_complete = updated == wanted && ready == wanted && pods.len() == wanted;
        let before = text(self.set, "/status/currentRevision");
        let current = if is_complete || before.is_empty() {
            self.revision.as_str()
        } else {
            before
        };
        let status = json!({
            "observedGeneration": self.set.pointer("/metadata/generation"), "collisionCount": 0,
            "replicas": pods.len(), "readyReplicas": ready, "availableReplicas": ready,
            "currentReplicas": of(current), "updatedReplicas": updated,
            "currentRevision": current, "updateRevision": self.revision,
        });
        let mut set = self.set.clone();
        object::set(&mut set, &["status"], status);
        let key = Key::new(sets, self.namespace, self.name);
        // It is as it was read, so nothing can be in the way.
        let _ = write::update(store, sets, &key, set, "status", &options());
    }
}

/// Whether a pod runs and is ready.
fn is_ready(pod: &Value) -> bool {
    let is = |c: &Value| text(c, "/type") == "Ready" && text(c, "/status") == "True";
    text(pod, "/status/phase") == "Running" && list(pod, "/status/conditions").iter().any(is)
}
