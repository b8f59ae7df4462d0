//! How fast a model provider may be called.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

/// The settings of a `[providers.NAME]` table, with what they are for.
pub(crate) const SETTINGS: [(&str, &str); 3] = [
    (
        "requests_per_minute",
        "Requests per minute, over all agents; absent: no limit.",
    ),
    (
        "tokens_per_minute",
        "Tokens per minute, input and output, over all agents; absent: no limit.",
    ),
    (
        "max_concurrent",
        "Requests under way at the same time, over all agents; absent: no limit.",
    ),
];

/// What all requests to one provider share. What is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProviderLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens per minute, input and output.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests under way at the same time.
    pub max_concurrent: Option<NonZeroU32>,
}

impl ProviderLimits {
    /// Sets the limit of this name; false where there is none.
    fn set(&mut self, name: &str, value: NonZeroU32) -> bool {
        let limit = match name {
            "requests_per_minute" => &mut self.requests_per_minute,
            "tokens_per_minute" => &mut self.tokens_per_minute,
            "max_concurrent" => &mut self.max_concurrent,
            _ => return false,
        };
        *limit = Some(value);
        true
    }

    /// Each limit that is set, by name.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, NonZeroU32)> {
        let values = [
            self.requests_per_minute,
            self.tokens_per_minute,
            self.max_concurrent,
        ];
        let named = SETTINGS.iter().zip(values);
        named.filter_map(|((name, _), value)| Some((*name, value?)))
    }
}

/// What is wrong with an entry of a `[providers.NAME]` table.
pub(crate) enum Fault {
    /// Its name.
    Name,
    /// Its value.
    Value,
}

/// Reads a table; an entry that is not right comes with its place in the text.
pub(crate) fn read(
    table: &DeTable<'_>,
) -> Result<ProviderLimits, (Fault, String, std::ops::Range<usize>)> {
    let mut limits = ProviderLimits::default();
    for (name, value) in table {
        let key = name.get_ref().to_string();
        if !SETTINGS.iter().any(|(known, _)| *known == key) {
            return Err((Fault::Name, key, name.span()));
        }
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse::<NonZeroU32>().ok(),
            _ => None,
        };
        let set = number.is_some_and(|number| limits.set(&key, number));
        if !set {
            return Err((Fault::Value, key, value.span()));
        }
    }
    Ok(limits)
}
