//! The shortest way between two entities.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rune_store_runtime::{PageRequest, RelationFilter, RelationRow};
use serde::Deserialize;
use serde_json::{Value, json};

use super::show_relation;
use crate::{ToolContext, ToolError};

/// Entities whose relations are looked at before the search gives up.
const MAX_VISITED: usize = 2000;

/// Relations of one entity that are looked at.
const MAX_RELATIONS: u32 = PageRequest::MAX_LIMIT;

/// Where a path begins and ends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ends {
    from: String,
    to: String,
    #[serde(default = "default_depth")]
    max_depth: u32,
    /// Whether relations are followed only in their own direction.
    #[serde(default)]
    directed: bool,
}

fn default_depth() -> u32 {
    4
}

/// How an entity was reached: by which relation, from which entity.
type Reached = BTreeMap<String, Option<(RelationRow, String)>>;

/// A shortest path, level by level. `complete` says whether all there is was looked at.
pub(super) async fn find(context: &ToolContext, ends: &Ends) -> Result<Value, ToolError> {
    for name in [&ends.from, &ends.to] {
        if context.store.entity(&context.scope, name).await?.is_none() {
            return Err(ToolError::not_found(format!(
                "entity `{name}` does not exist"
            )));
        }
    }
    let mut reached: Reached = [(ends.from.clone(), None)].into();
    let (mut level, mut complete, mut visited) = (vec![ends.from.clone()], true, 0);
    for _ in 0..ends.max_depth {
        if reached.contains_key(&ends.to) {
            break;
        }
        let mut next = Vec::new();
        for name in level {
            if context.cancel.is_cancelled() {
                return Err(ToolError::cancelled());
            }
            visited += 1;
            if visited > MAX_VISITED {
                complete = false;
                break;
            }
            let (relations, more) = relations_at(context, &name, ends.directed).await?;
            complete &= !more;
            for relation in relations {
                let other = if relation.from == name {
                    relation.to.clone()
                } else {
                    relation.from.clone()
                };
                if let Entry::Vacant(new) = reached.entry(other) {
                    next.push(new.key().clone());
                    new.insert(Some((relation, name.clone())));
                }
            }
        }
        level = next;
    }
    Ok(answer(&reached, ends, complete))
}

async fn relations_at(
    context: &ToolContext,
    name: &str,
    directed: bool,
) -> Result<(Vec<RelationRow>, bool), ToolError> {
    let name = Some(name.to_owned());
    let (entity, from) = if directed { (None, name) } else { (name, None) };
    let filter = RelationFilter {
        entity,
        from,
        ..RelationFilter::default()
    };
    let page = PageRequest::first(MAX_RELATIONS);
    let (store, scope) = (&context.store, &context.scope);
    let page = store.relations(scope, &filter, &page).await?;
    Ok((page.items, page.next.is_some()))
}

fn answer(reached: &Reached, ends: &Ends, complete: bool) -> Value {
    let mut path = Vec::new();
    let mut at = &ends.to;
    while let Some(Some((relation, before))) = reached.get(at) {
        path.push(show_relation(relation));
        at = before;
    }
    path.reverse();
    json!({
        "found": reached.contains_key(&ends.to),
        "path": path,
        "complete": complete,
    })
}
