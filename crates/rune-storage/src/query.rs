//! A query whose conditions depend on a filter.

use rune_store_runtime::limits::MAX_PAGE_BYTES;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};

/// The text of a query and the values of its parameters. The texts are few (one
/// for each set of conditions), so that statements stay prepared.
pub(crate) struct Query {
    sql: String,
    values: Vec<Value>,
    conditions: usize,
}

impl Query {
    /// A query without conditions.
    pub(crate) fn new(select: &str) -> Self {
        Self {
            sql: select.to_owned(),
            values: Vec::new(),
            conditions: 0,
        }
    }

    /// Adds a condition with one `?` for each value.
    pub(crate) fn and<V: Into<Value>>(
        &mut self,
        condition: &str,
        values: impl IntoIterator<Item = V>,
    ) {
        self.sql.push_str(if self.conditions == 0 {
            " WHERE "
        } else {
            " AND "
        });
        self.sql.push_str(condition);
        self.values.extend(values.into_iter().map(Into::into));
        self.conditions += 1;
    }

    /// Adds a condition where there is a value for it.
    pub(crate) fn and_maybe<V: Into<Value>>(&mut self, condition: &str, value: Option<V>) {
        if let Some(value) = value {
            self.and(condition, [value]);
        }
    }

    /// The rows of both queries, which are of the same columns.
    pub(crate) fn union(mut self, other: Self) -> Self {
        self.sql.push_str(" UNION ALL ");
        self.sql.push_str(&other.sql);
        self.values.extend(other.values);
        self
    }

    /// The query summed by these columns, in their order.
    pub(crate) fn group_by(mut self, columns: &str) -> Self {
        self.sql.push_str(" GROUP BY ");
        self.sql.push_str(columns);
        self.order_by(columns)
    }

    /// The query in this order.
    pub(crate) fn order_by(mut self, order: &str) -> Self {
        self.sql.push_str(" ORDER BY ");
        self.sql.push_str(order);
        self
    }

    /// How many rows a query of `count(*)` counts.
    pub(crate) fn count(&self, db: &Connection) -> rusqlite::Result<u64> {
        db.prepare_cached(&self.sql)?
            .query_row(params_from_iter(&self.values), |row| row.get(0))
    }

    /// What SQLite does for the query.
    #[cfg(test)]
    pub(crate) fn plan(&self, db: &Connection) -> String {
        let mut statement = db
            .prepare(&format!("EXPLAIN QUERY PLAN {}", self.sql))
            .unwrap();
        let steps = statement.query_map(params_from_iter(&self.values), |row| row.get(3));
        let steps: rusqlite::Result<Vec<String>> = steps.unwrap().collect();
        steps.unwrap().join("\n")
    }

    /// The first `limit` rows that `keep` wants, and the key of the last of them
    /// where there are more. Rows are read one by one, so that the rest of a long
    /// list costs nothing.
    pub(crate) fn collect<K, T>(
        &self,
        db: &Connection,
        limit: usize,
        map: fn(&Row<'_>) -> rusqlite::Result<(K, T)>,
        keep: impl Fn(&T) -> bool,
    ) -> rusqlite::Result<(Vec<T>, Option<K>)> {
        let mut statement = db.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let (mut items, mut last, mut room) = (Vec::new(), None, Room::default());
        while let Some(row) = rows.next()? {
            let (key, item) = map(row)?;
            if !keep(&item) {
                continue;
            }
            if items.len() == limit || !room.takes(row) {
                return Ok((items, last));
            }
            items.push(item);
            last = Some(key);
        }
        Ok((items, None))
    }
}

/// How much what is read at once may still have: rows may be large, and any number of readers may read at the same time.
#[derive(Default)]
pub(crate) struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    /// Whether the row still fits. The first one does, whatever its size.
    pub(crate) fn takes(&mut self, row: &Row<'_>) -> bool {
        self.rows += 1;
        self.bytes += bytes_of(row);
        self.rows == 1 || self.bytes <= MAX_PAGE_BYTES
    }
}

/// Bytes of the texts and blobs of a row.
fn bytes_of(row: &Row<'_>) -> usize {
    let columns = 0..row.as_ref().column_count();
    let bytes = columns.map(|column| match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.len(),
        _ => 0,
    });
    bytes.sum()
}

/// The value of an id.
pub(crate) fn blob(bytes: &[u8; 16]) -> Value {
    Value::Blob(bytes.to_vec())
}

/// The value of a text that may be absent.
pub(crate) fn text(text: Option<&String>) -> Option<Value> {
    text.map(|text| Value::Text(text.clone()))
}
