//! Lists that fit into an answer.

use serde_json::Value;

/// The rows of a page, or how many of them fit into so many bytes of JSON: whoever lists asks again for these, so that the
/// cursor is right. One row always counts as fitting.
pub(super) fn whole<T>(
    rows: &[T],
    budget: usize,
    show: fn(&T) -> Value,
) -> Result<Vec<Value>, u32> {
    match fitting(rows, budget, show) {
        (shown, true) if rows.len() > 1 => Err(u32::try_from(shown.len()).unwrap_or(1).max(1)),
        _ => Ok(rows.iter().map(show).collect()),
    }
}

/// The first rows that fit into so many bytes of JSON, and whether there are more.
pub(super) fn fitting<T>(rows: &[T], budget: usize, show: fn(&T) -> Value) -> (Vec<Value>, bool) {
    let mut left = budget;
    let shown: Vec<Value> = rows
        .iter()
        .map(show)
        .map_while(|row| {
            left = left.checked_sub(row.to_string().len() + 1)?;
            Some(row)
        })
        .collect();
    let cut = shown.len() < rows.len();
    (shown, cut)
}
