//! Cursor paging, the same for every list.

use serde::{Deserialize, Serialize};

/// Which part of a list to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRequest {
    /// Rows at the most, 1 to [`PageRequest::MAX_LIMIT`]; fewer where they are large
    /// ([`MAX_PAGE_BYTES`](crate::limits::MAX_PAGE_BYTES)).
    pub limit: u32,
    /// The `next` of the page before, or `None` for the first.
    pub cursor: Option<String>,
}

impl PageRequest {
    /// Rows of a page when the caller does not say.
    pub const DEFAULT_LIMIT: u32 = 50;
    /// Rows of a page at the most.
    pub const MAX_LIMIT: u32 = 1000;

    /// The first `limit` rows.
    #[must_use]
    pub fn first(limit: u32) -> Self {
        Self {
            limit: limit.clamp(1, Self::MAX_LIMIT),
            cursor: None,
        }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(Self::DEFAULT_LIMIT)
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows, in the order the list documents.
    pub items: Vec<T>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same page with every row mapped.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(f).collect(),
            next: self.next,
        }
    }
}
