//! Paging over rows with sortable keys.

use rune_store_runtime::limits::MAX_PAGE_BYTES;
use rune_store_runtime::{Page, PageRequest, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The page of `rows`, which are sorted by key.
pub(super) fn page<K, T>(
    list: &str,
    page: &PageRequest,
    rows: impl Iterator<Item = (K, T)>,
) -> Result<Page<T>, StoreError>
where
    K: Ord + Serialize + DeserializeOwned,
    T: Serialize,
{
    let after = match &page.cursor {
        None => None,
        Some(cursor) => Some(parse::<K>(list, cursor)?),
    };
    let mut rows: Vec<(K, T)> = rows
        .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    let limit = page.limit.clamp(1, PageRequest::MAX_LIMIT) as usize;
    let fits = fitting(rows.iter().take(limit).map(|(_, row)| row));
    let more = rows.len() > fits;
    rows.truncate(fits);
    let next = match rows.last() {
        Some((key, _)) if more => Some(print(list, key)?),
        _ => None,
    };
    let items = rows.into_iter().map(|(_, row)| row).collect();
    Ok(Page { items, next })
}

/// How many of the rows are read at once.
pub(super) fn fitting<'a, T: Serialize + 'a>(rows: impl Iterator<Item = &'a T>) -> usize {
    let mut bytes = 0;
    let sizes = rows.map(|row| serde_json::to_vec(row).map_or(0, |json| json.len()));
    let fits = sizes.enumerate().take_while(|(place, size)| {
        bytes += size;
        *place == 0 || bytes <= MAX_PAGE_BYTES
    });
    fits.count()
}

fn print<K: Serialize>(list: &str, key: &K) -> Result<String, StoreError> {
    serde_json::to_string(&(list, key)).map_err(|error| StoreError::Corrupt {
        what: list.to_owned(),
        reason: error.to_string(),
    })
}

fn parse<K: DeserializeOwned>(list: &str, cursor: &str) -> Result<K, StoreError> {
    match serde_json::from_str::<(String, K)>(cursor) {
        Ok((made_by, key)) if made_by == list => Ok(key),
        _ => Err(StoreError::Cursor(cursor.to_owned())),
    }
}
