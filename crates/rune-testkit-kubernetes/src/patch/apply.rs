//! Server-side apply: every field has the managers who last set it, and an apply takes away what its manager no longer
//! says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{fields, strategic};
use crate::object::{self, list, text};
use crate::status::{ApiError, ApiResult};

/// One apply.
#[derive(Debug)]
pub(crate) struct Apply<'a> {
    pub(crate) manager: &'a str,
    /// Whether fields of others are taken over.
    pub(crate) force: bool,
    pub(crate) applied: &'a Value,
}

/// A field, by its path.
type Leaf = Vec<String>;

#[derive(Debug, Clone)]
struct Manager {
    name: String,
    operation: String,
    subresource: String,
    leaves: BTreeSet<Leaf>,
    time: String,
}

impl Apply<'_> {
    /// The object after the apply; `live` is absent where the apply makes it.
    pub(crate) fn run(&self, live: Option<&Value>) -> ApiResult<Value> {
        let mut result = live.cloned().unwrap_or_else(|| json!({}));
        let mut managers = read(&result);
        let mut applied = self.applied.clone();
        object::remove(&mut applied, &["metadata", "managedFields"]);
        let new: BTreeSet<Leaf> = fields::leaves(&fields::of(&applied)).into_iter().collect();
        let is_own = |m: &Manager| m.name == self.manager && m.operation == "Apply";
        let differs = |leaf: &Leaf| {
            let (wanted, is) = (fields::value(&applied, leaf), fields::value(&result, leaf));
            is.is_some() && wanted != is
        };
        let mut conflicts = Vec::new();
        for other in managers.iter().filter(|m| !is_own(m)) {
            for leaf in other.leaves.intersection(&new).filter(|leaf| differs(leaf)) {
                conflicts.push((other.name.clone(), leaf.clone()));
            }
        }
        if !conflicts.is_empty() && !self.force {
            let named: Vec<(String, String)> = conflicts
                .iter()
                .map(|(manager, leaf)| (manager.clone(), fields::display(leaf)))
                .collect();
            return Err(ApiError::apply_conflict(&named));
        }
        for other in managers.iter_mut().filter(|m| !is_own(m)) {
            for (name, leaf) in &conflicts {
                if *name == other.name {
                    other.leaves.remove(leaf);
                }
            }
        }
        let old = managers.iter().find(|m| is_own(m));
        let old = old.map(|m| m.leaves.clone()).unwrap_or_default();
        for leaf in old.difference(&new) {
            let is_shared = managers
                .iter()
                .any(|m| !is_own(m) && m.leaves.contains(leaf));
            if !is_shared {
                fields::remove(&mut result, leaf);
            }
        }
        strategic::merge(&mut result, &applied);
        managers.retain(|m| !is_own(m));
        managers.push(Manager {
            name: self.manager.to_owned(),
            operation: "Apply".to_owned(),
            subresource: String::new(),
            leaves: new,
            time: object::now(),
        });
        write(&mut result, managers);
        Ok(result)
    }
}

/// Notes who changed what by an update: those fields are the manager's, and of nobody else any more.
pub(crate) fn note_update(
    before: Option<&Value>,
    after: &mut Value,
    manager: &str,
    subresource: &str,
) {
    let mut managers = read(before.unwrap_or(&Value::Null));
    let is: BTreeSet<Leaf> = fields::leaves(&fields::of(after)).into_iter().collect();
    let changed: BTreeSet<Leaf> = is
        .iter()
        .filter(|leaf| {
            let was = before.and_then(|before| fields::value(before, leaf));
            was != fields::value(after, leaf)
        })
        .cloned()
        .collect();
    for other in &mut managers {
        other
            .leaves
            .retain(|leaf| is.contains(leaf) && !changed.contains(leaf));
    }
    let own = managers
        .iter_mut()
        .find(|m| m.name == manager && m.operation == "Update" && m.subresource == subresource);
    match own {
        Some(own) if !changed.is_empty() => {
            own.leaves.extend(changed);
            own.time = object::now();
        }
        Some(_) => {}
        None => managers.push(Manager {
            name: manager.to_owned(),
            operation: "Update".to_owned(),
            subresource: subresource.to_owned(),
            leaves: changed,
            time: object::now(),
        }),
    }
    write(after, managers);
}

fn read(object: &Value) -> Vec<Manager> {
    list(object, "/metadata/managedFields")
        .iter()
        .map(|entry| Manager {
            name: text(entry, "/manager").to_owned(),
            operation: text(entry, "/operation").to_owned(),
            subresource: text(entry, "/subresource").to_owned(),
            leaves: fields::leaves(entry.get("fieldsV1").unwrap_or(&Value::Null))
                .into_iter()
                .collect(),
            time: text(entry, "/time").to_owned(),
        })
        .collect()
}

fn write(object: &mut Value, managers: Vec<Manager>) {
    let api_version = text(object, "/apiVersion").to_owned();
    let entries: Vec<Value> = managers
        .into_iter()
        .filter(|manager| !manager.leaves.is_empty())
        .map(|manager| {
            let mut entry = json!({
                "manager": manager.name, "operation": manager.operation, "time": manager.time,
                "apiVersion": api_version, "fieldsType": "FieldsV1",
                "fieldsV1": fields::from_leaves(manager.leaves.iter()),
            });
            if !manager.subresource.is_empty() {
                object::set(&mut entry, &["subresource"], manager.subresource);
            }
            entry
        })
        .collect();
    object::set(object, &["metadata", "managedFields"], entries);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Apply, note_update};

    fn apply(
        live: Option<&Value>,
        manager: &str,
        force: bool,
        applied: &Value,
    ) -> Result<Value, String> {
        let apply = Apply {
            manager,
            force,
            applied,
        };
        apply
            .run(live)
            .map_err(|error| error.status()["message"].to_string())
    }

    #[test]
    fn an_apply_takes_away_what_it_no_longer_says() {
        let first = json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "2"}});
        let live = apply(None, "one", false, &first).unwrap();
        let live = apply(Some(&live), "one", false, &json!({"data": {"b": "3"}})).unwrap();
        assert_eq!(live["data"], json!({"b": "3"}));
    }

    #[test]
    fn another_managers_field_is_a_conflict_unless_forced() {
        let live = apply(None, "one", false, &json!({"data": {"a": "1"}})).unwrap();
        let other = json!({"data": {"a": "2", "b": "1"}});
        let error = apply(Some(&live), "two", false, &other).unwrap_err();
        assert!(
            error.contains("conflict with \\\"one\\\": .data.a"),
            "{error}"
        );
        let live = apply(Some(&live), "two", true, &other).unwrap();
        assert_eq!(live["data"], json!({"a": "2", "b": "1"}));
        // The first no longer owns it, so it does not take it away.
        let live = apply(Some(&live), "one", false, &json!({})).unwrap();
        assert_eq!(live["data"], json!({"a": "2", "b": "1"}));
    }

    #[test]
    fn fields_that_two_say_alike_are_shared() {
        let same = json!({"data": {"a": "1"}});
        let live = apply(None, "one", false, &same).unwrap();
        let live = apply(Some(&live), "two", false, &same).unwrap();
        let live = apply(Some(&live), "one", false, &json!({})).unwrap();
        assert_eq!(live["data"], json!({"a": "1"}));
        let live = apply(Some(&live), "two", false, &json!({})).unwrap();
        assert_eq!(live["data"], json!({}));
    }

    #[test]
    fn an_update_takes_over_what_it_changes() {
        let live = apply(None, "one", false, &json!({"data": {"a": "1", "b": "1"}})).unwrap();
        let mut updated = live.clone();
        updated["data"]["a"] = json!("2");
        note_update(Some(&live), &mut updated, "kubectl-edit", "");
        let error = apply(Some(&updated), "one", false, &json!({"data": {"a": "1"}})).unwrap_err();
        assert!(error.contains("kubectl-edit"), "{error}");
    }

    #[test]
    fn items_of_lists_are_owned_by_their_key() {
        let spec = |names: &[&str]| {
            let items: Vec<Value> = names
                .iter()
                .map(|n| json!({"name": n, "image": "x"}))
                .collect();
            json!({"spec": {"containers": items}})
        };
        let live = apply(None, "one", false, &spec(&["a", "b"])).unwrap();
        let live = apply(Some(&live), "two", false, &spec(&["c"])).unwrap();
        let live = apply(Some(&live), "one", false, &spec(&["b"])).unwrap();
        let names: Vec<&str> = live["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["b", "c"]);
    }
}
