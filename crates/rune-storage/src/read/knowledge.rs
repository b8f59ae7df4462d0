//! What agents know.

use async_trait::async_trait;
use rune_store_runtime::{
    EntityRow, KnowledgeReader, MemoryScope, Page, PageRequest, RelationFilter, RelationRow,
    StoreError, search_words,
};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const ENTITIES: &str = "entities";
const RELATIONS: &str = "relations";

const ENTITY: &str =
    "SELECT e.name, e.kind, e.properties, e.created_at, e.updated_at FROM entities e";

const RELATION: &str = "SELECT s.name, r.kind, t.name, r.properties, r.created_at, r.updated_at \
     FROM relations r JOIN entities s ON s.id = r.source JOIN entities t ON t.id = r.target";

/// The relations at an entity, by the indexes of both ends.
const AT: &str = "r.id IN (
     SELECT id FROM relations WHERE source =
         (SELECT id FROM entities WHERE namespace = ? AND agent = ? AND name = ?)
     UNION ALL
     SELECT id FROM relations WHERE target =
         (SELECT id FROM entities WHERE namespace = ? AND agent = ? AND name = ?))";

#[async_trait]
impl KnowledgeReader for SqliteStore {
    async fn entity(
        &self,
        scope: &MemoryScope,
        name: &str,
    ) -> Result<Option<EntityRow>, StoreError> {
        let names = [
            scope.namespace.clone(),
            scope.agent.clone(),
            name.to_owned(),
        ];
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!(
                    "{ENTITY} WHERE e.namespace = ?1 AND e.agent = ?2 AND e.name = ?3"
                ))?
                .query_row(names, entity_row)
                .optional()
            })
            .await
    }

    async fn entities(
        &self,
        scope: &MemoryScope,
        kind: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<EntityRow>, StoreError> {
        let mut sql = Query::new(ENTITY);
        within(&mut sql, "e", scope);
        sql.and_maybe("e.kind = ?", kind.map(str::to_owned));
        sql.and_maybe("e.name > ?", cursor::decode::<String>(ENTITIES, page)?);
        let map = |row: &Row<'_>| {
            let row = entity_row(row)?;
            Ok((row.name.clone(), row))
        };
        let sql = sql.order_by("e.name");
        self.readers.page(ENTITIES, page, sql, map, |_| true).await
    }

    async fn find_entities(
        &self,
        scope: &MemoryScope,
        text: &str,
        kind: Option<&str>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError> {
        // Quoted, so that nothing of it is syntax; there is no quote in a word.
        let words: Vec<String> = search_words(text)
            .map(|word| format!("\"{word}\"*"))
            .collect();
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Query::new(&format!("{ENTITY} JOIN entity_words w ON w.rowid = e.id"));
        sql.and("w.entity_words MATCH ?", [words.join(" ")]);
        within(&mut sql, "e", scope);
        sql.and_maybe("e.kind = ?", kind.map(str::to_owned));
        let sql = sql.order_by("w.rank, e.name");
        let limit = limit.clamp(1, PageRequest::MAX_LIMIT) as usize;
        self.readers
            .run(move |db| {
                let map = |row: &Row<'_>| Ok(((), entity_row(row)?));
                sql.collect(db, limit, map, |_| true).map(|(rows, _)| rows)
            })
            .await
    }

    async fn relations(
        &self,
        scope: &MemoryScope,
        filter: &RelationFilter,
        page: &PageRequest,
    ) -> Result<Page<RelationRow>, StoreError> {
        let mut sql = Query::new(RELATION);
        within(&mut sql, "s", scope);
        if let Some(entity) = &filter.entity {
            let end = [&scope.namespace, &scope.agent, entity].map(Clone::clone);
            sql.and(AT, end.iter().chain(&end).cloned());
        }
        sql.and_maybe::<Value>("s.name = ?", text(filter.from.as_ref()));
        sql.and_maybe::<Value>("t.name = ?", text(filter.to.as_ref()));
        sql.and_maybe::<Value>("r.kind = ?", text(filter.kind.as_ref()));
        if let Some((from, kind, to)) = cursor::decode::<(String, String, String)>(RELATIONS, page)?
        {
            sql.and("(s.name, r.kind, t.name) > (?, ?, ?)", [from, kind, to]);
        }
        let map = |row: &Row<'_>| {
            let row = relation_row(row)?;
            Ok(((row.from.clone(), row.kind.clone(), row.to.clone()), row))
        };
        let sql = sql.order_by("s.name, r.kind, t.name");
        self.readers.page(RELATIONS, page, sql, map, |_| true).await
    }
}

fn within(sql: &mut Query, table: &str, scope: &MemoryScope) {
    sql.and(
        &format!("{table}.namespace = ? AND {table}.agent = ?"),
        [scope.namespace.clone(), scope.agent.clone()],
    );
}

fn entity_row(found: &Row<'_>) -> rusqlite::Result<EntityRow> {
    Ok(EntityRow {
        name: get(found, 0)?,
        kind: get(found, 1)?,
        properties: row::json(found, 2)?,
        created_at: row::time(found, 3)?,
        updated_at: row::time(found, 4)?,
    })
}

fn relation_row(found: &Row<'_>) -> rusqlite::Result<RelationRow> {
    Ok(RelationRow {
        from: get(found, 0)?,
        kind: get(found, 1)?,
        to: get(found, 2)?,
        properties: row::json(found, 3)?,
        created_at: row::time(found, 4)?,
        updated_at: row::time(found, 5)?,
    })
}
