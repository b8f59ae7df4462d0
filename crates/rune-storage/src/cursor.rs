//! Page cursors: opaque texts that name the list and the key of the last row.

use std::fmt::Write;

use rune_store_runtime::{PageRequest, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest cursor that is looked at.
const MAX_LEN: usize = 8192;

/// The cursor after the row with this key.
pub(crate) fn encode<K: Serialize>(list: &str, key: &K) -> Result<String, StoreError> {
    let json = serde_json::to_vec(&(list, key)).map_err(|error| StoreError::Corrupt {
        what: format!("key of {list}"),
        reason: error.to_string(),
    })?;
    let mut text = String::with_capacity(json.len() * 2);
    for byte in json {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The key that a page starts after, refused where another list made the cursor.
pub(crate) fn decode<K: DeserializeOwned>(
    list: &str,
    page: &PageRequest,
) -> Result<Option<K>, StoreError> {
    let Some(text) = &page.cursor else {
        return Ok(None);
    };
    parse(list, text)
        .map(Some)
        .ok_or_else(|| StoreError::Cursor(text.chars().take(80).collect()))
}

fn parse<K: DeserializeOwned>(list: &str, text: &str) -> Option<K> {
    if text.len() > MAX_LEN || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    let (made_by, key): (String, K) = serde_json::from_slice(&bytes).ok()?;
    (made_by == list).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(cursor: String) -> PageRequest {
        PageRequest {
            limit: 1,
            cursor: Some(cursor),
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let cursor = encode("requests", &7i64).unwrap();
        assert_eq!(
            decode::<i64>("requests", &page(cursor.clone())).unwrap(),
            Some(7)
        );
        for bad in [cursor.as_str(), "", "zz", "é", "5b"] {
            let result = decode::<i64>("sessions", &page(bad.to_owned()));
            assert!(matches!(result, Err(StoreError::Cursor(_))), "{bad}");
        }
    }
}
