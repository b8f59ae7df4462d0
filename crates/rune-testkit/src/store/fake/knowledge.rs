//! What agents know.

use async_trait::async_trait;
use rune_store_runtime::limits::{MAX_KNOWLEDGE_NAME_BYTES, MAX_PROPERTIES_BYTES};
use rune_store_runtime::{
    Command, EntityRow, KnowledgeReader, MemoryScope, Page, PageRequest, PutEntity, PutRelation,
    Reject, RelationFilter, RelationRow, StoreError, entity_text, merge_properties, search_words,
};

use super::apply::check_json;
use super::page::page;
use super::{FakeStore, State, is};

fn check_name(name: &str) -> Result<(), Reject> {
    if name.is_empty() || name.len() > MAX_KNOWLEDGE_NAME_BYTES {
        return Err(Reject::invalid("the name is empty or too long"));
    }
    Ok(())
}

impl State {
    pub(super) fn put_entity(&mut self, command: &Command, op: &PutEntity) -> Result<bool, Reject> {
        check_name(&op.name)?;
        check_name(&op.kind)?;
        let key = (op.scope.clone(), op.name.clone());
        let known = self.entities.get(&key);
        let mut row = known.cloned().unwrap_or_else(|| EntityRow {
            name: op.name.clone(),
            kind: String::new(),
            properties: serde_json::Map::new(),
            created_at: command.at,
            updated_at: command.at,
        });
        merge_properties(&mut row.properties, &op.properties);
        check_json(&row.properties, MAX_PROPERTIES_BYTES)?;
        row.kind.clone_from(&op.kind);
        row.updated_at = command.at;
        Ok(self.entities.insert(key, row).is_none())
    }

    pub(super) fn put_relation(
        &mut self,
        command: &Command,
        op: &PutRelation,
    ) -> Result<bool, Reject> {
        check_name(&op.kind)?;
        for name in [&op.from, &op.to] {
            let key = (op.scope.clone(), name.clone());
            if !self.entities.contains_key(&key) {
                return Err(Reject::not_found("entity", name));
            }
        }
        let ends = (op.from.clone(), op.kind.clone(), op.to.clone());
        let key = (op.scope.clone(), ends);
        let known = self.relations.get(&key);
        let mut row = known.cloned().unwrap_or_else(|| RelationRow {
            from: op.from.clone(),
            kind: op.kind.clone(),
            to: op.to.clone(),
            properties: serde_json::Map::new(),
            created_at: command.at,
            updated_at: command.at,
        });
        merge_properties(&mut row.properties, &op.properties);
        check_json(&row.properties, MAX_PROPERTIES_BYTES)?;
        row.updated_at = command.at;
        Ok(self.relations.insert(key, row).is_none())
    }

    fn entities_of(&self, scope: &MemoryScope, kind: Option<&str>) -> Vec<EntityRow> {
        let rows = self.entities.iter().filter(|((of, _), _)| of == scope);
        rows.map(|(_, row)| row.clone())
            .filter(|row| kind.is_none_or(|kind| row.kind == kind))
            .collect()
    }
}

#[async_trait]
impl KnowledgeReader for FakeStore {
    async fn entity(
        &self,
        scope: &MemoryScope,
        name: &str,
    ) -> Result<Option<EntityRow>, StoreError> {
        let key = (scope.clone(), name.to_owned());
        Ok(self.state().entities.get(&key).cloned())
    }

    async fn entities(
        &self,
        scope: &MemoryScope,
        kind: Option<&str>,
        request: &PageRequest,
    ) -> Result<Page<EntityRow>, StoreError> {
        let rows = self.state().entities_of(scope, kind);
        let rows = rows.into_iter().map(|row| (row.name.clone(), row));
        page("entities", request, rows)
    }

    /// Better is what has more of the words it is found by.
    async fn find_entities(
        &self,
        scope: &MemoryScope,
        text: &str,
        kind: Option<&str>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError> {
        let wanted: Vec<String> = search_words(text).collect();
        let mut found: Vec<(usize, EntityRow)> = Vec::new();
        for row in self.state().entities_of(scope, kind) {
            let text = entity_text(&row.name, &row.kind, &row.properties);
            let words: Vec<String> = search_words(&text).collect();
            let hits = |start: &String| words.iter().filter(|word| word.starts_with(start)).count();
            let counts: Vec<usize> = wanted.iter().map(hits).collect();
            if !counts.is_empty() && counts.iter().all(|count| *count > 0) {
                found.push((counts.iter().sum(), row));
            }
        }
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        let rows = found.into_iter().map(|(_, row)| row);
        Ok(rows.take(limit.max(1) as usize).collect())
    }

    async fn relations(
        &self,
        scope: &MemoryScope,
        filter: &RelationFilter,
        request: &PageRequest,
    ) -> Result<Page<RelationRow>, StoreError> {
        let state = self.state();
        let rows = state.relations.iter().filter(|((of, _), row)| {
            let at = |name: &String| row.from == *name || row.to == *name;
            of == scope
                && filter.entity.as_ref().is_none_or(at)
                && is(filter.from.as_ref(), &row.from)
                && is(filter.to.as_ref(), &row.to)
                && is(filter.kind.as_ref(), &row.kind)
        });
        let rows = rows.map(|((_, ends), row)| (ends.clone(), row.clone()));
        page("relations", request, rows)
    }
}
