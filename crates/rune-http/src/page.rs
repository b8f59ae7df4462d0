//! Lists: the query (a filter, and paging parameters that are the same for every list) and the
//! answer.

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;
use rune_store_runtime::{Page, PageRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::ApiError;
use crate::extract::parse_query;

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Rows at the most: 1 to 1000, 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// The query of a list. `F` holds the filter; it denies unknown fields and does not have those
/// of [`PageQuery`].
#[derive(Debug, Clone)]
pub struct List<F> {
    /// What to list.
    pub filter: F,
    /// Which part of it.
    pub page: PageRequest,
}

/// The filter of a list that has none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFilter {}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListPage<T> {
    /// The rows, in the order that the list documents.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> From<Page<T>> for ListPage<T> {
    fn from(page: Page<T>) -> Self {
        Self {
            items: page.items,
            next: page.next,
        }
    }
}

impl<F: DeserializeOwned, S: Sync> FromRequestParts<S> for List<F> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let is_page = |pair: &&str| matches!(pair.split('=').next(), Some("limit" | "cursor"));
        let (page, filter): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_page);
        let page: PageQuery = parse_query(&uri(&page)?)?;
        Ok(Self {
            filter: parse_query(&uri(&filter)?)?,
            page: page.request()?,
        })
    }
}

fn uri(pairs: &[&str]) -> Result<Uri, ApiError> {
    let uri = format!("/?{}", pairs.join("&")).try_into();
    uri.map_err(|error: http::uri::InvalidUri| ApiError::invalid(error.to_string()))
}

impl PageQuery {
    fn request(self) -> Result<PageRequest, ApiError> {
        let limit = self.limit.unwrap_or(PageRequest::DEFAULT_LIMIT);
        if !(1..=PageRequest::MAX_LIMIT).contains(&limit) {
            let max = PageRequest::MAX_LIMIT;
            return Err(ApiError::invalid(format!(
                "`limit` must be 1 to {max}, not {limit}"
            )));
        }
        Ok(PageRequest {
            limit,
            cursor: self.cursor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Filter {
        ns: Option<String>,
        n: Option<u32>,
    }

    async fn list(query: &str) -> Result<(Filter, PageRequest), String> {
        let request = http::Request::get(format!("/v1/things{query}")).body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let list = List::<Filter>::from_request_parts(&mut parts, &()).await;
        list.map(|list| (list.filter, list.page))
            .map_err(|error| format!("{error:?}"))
    }

    #[tokio::test]
    async fn a_list_has_a_filter_and_a_page() {
        let none = Filter { ns: None, n: None };
        let first = PageRequest::first(PageRequest::DEFAULT_LIMIT);
        assert_eq!(list("").await.unwrap(), (none, first));
        let (filter, page) = list("?limit=7&ns=a%26b&cursor=x%3D&n=3").await.unwrap();
        assert_eq!((filter.ns.as_deref(), filter.n), (Some("a&b"), Some(3)));
        assert_eq!((page.limit, page.cursor.as_deref()), (7, Some("x=")));
    }

    #[tokio::test]
    async fn a_list_refuses_what_it_does_not_know() {
        for query in [
            "?limit=0",
            "?limit=1001",
            "?limit=x",
            "?limits=1",
            "?n=x",
            "?limit=1&limit=2",
        ] {
            assert!(list(query).await.is_err(), "{query}");
        }
    }
}
