//! A point in time that a person names by how long ago it was.

use jiff::{SpanRelativeTo, Timestamp};

/// `7d` before now, or a time.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let unknown = |_| "expected a length such as `7d` or `12h`, or a time in RFC 3339".to_owned();
    let span: jiff::Span = text.parse().map_err(unknown)?;
    let ago = span.to_duration(SpanRelativeTo::days_are_24_hours());
    Timestamp::now()
        .checked_sub(ago.map_err(unknown)?.abs())
        .map_err(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_length_or_a_time() {
        let hours = |text: &str| {
            let ago = Timestamp::now().duration_since(since(text).unwrap());
            (ago.as_secs() + 30) / 3600
        };
        assert_eq!(hours("7d"), 7 * 24);
        assert_eq!(hours("12h"), 12);
        let time = "2026-01-02T03:04:05Z";
        assert_eq!(since(time).unwrap().to_string(), time);
        assert!(since("soon").is_err());
    }
}
