//! Paging parameters, the same for every list.

use rune_store_runtime::PageRequest;

use crate::ApiError;

/// The page that `limit` and `cursor` ask for.
///
/// # Errors
/// `invalid_input` where the limit is out of range.
pub fn page_request(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest, ApiError> {
    let limit = limit.unwrap_or(PageRequest::DEFAULT_LIMIT);
    if !(1..=PageRequest::MAX_LIMIT).contains(&limit) {
        let max = PageRequest::MAX_LIMIT;
        return Err(ApiError::invalid(format!(
            "`limit` must be 1 to {max}, not {limit}"
        )));
    }
    Ok(PageRequest { limit, cursor })
}
