//! What models cost: a dated catalogue in the binary, and a file that adds to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rune_store_runtime::{CallPrice, Usage};
use serde::Deserialize;

/// The catalogue that comes with the program.
const CATALOGUE: &str = include_str!("prices.toml");
/// A rate is kept in millionths of a dollar per million tokens, so this is how fine a call
/// is added up before it is rounded.
const UNITS_PER_MICRO_USD: u128 = 1_000_000;
/// The highest price per million tokens that is believed, in US dollars.
const MAX_USD_PER_MILLION: f64 = 1_000_000.0;

/// Why a file of prices cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what a file of prices looks like.
    #[error("{place} is not a valid list of prices: {message}")]
    Invalid {
        /// The file.
        place: String,
        /// Where and why.
        message: String,
    },
}

/// The prices of models: the catalogue, and what a file adds to it and replaces in it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prices {
    added: BTreeMap<String, Price>,
}

impl Prices {
    /// The catalogue with the models of the file at `path` added and replaced; the
    /// catalogue alone where there is no such file.
    ///
    /// # Errors
    /// A [`PricesError`] that says what is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, PricesError> {
        let mut prices = Self::default();
        match std::fs::read_to_string(path) {
            Ok(text) => prices.add(&path.display().to_string(), &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = path.to_owned();
                return Err(PricesError::Read { path, source });
            }
        }
        Ok(prices)
    }

    /// Adds the models of a text in the format of the file.
    ///
    /// # Errors
    /// [`PricesError::Invalid`]; nothing is added then.
    pub fn add(&mut self, place: &str, text: &str) -> Result<(), PricesError> {
        self.added.extend(read(place, text)?);
        Ok(())
    }

    /// What `model` costs at `provider`. `provider/model` wins over `model`, and an id with
    /// a date behind it (`-20261122`, `-2026-11-22`) has the price of the id without.
    #[must_use]
    pub fn price(&self, provider: &str, model: &str) -> Option<Price> {
        let undated = undated(model);
        let ids = [model, undated];
        let names = ids.iter().map(|id| format!("{provider}/{id}"));
        let mut names = names.chain(ids.iter().map(|id| (*id).to_owned()));
        names.find_map(|name| {
            let price = self.added.get(&name).or_else(|| catalogue().get(&name));
            price.copied()
        })
    }
}

/// The catalogue, read when the first price is asked for: most starts need none.
fn catalogue() -> &'static BTreeMap<String, Price> {
    static CATALOGUE_MODELS: OnceLock<BTreeMap<String, Price>> = OnceLock::new();
    // A test reads it, so it can be read.
    CATALOGUE_MODELS.get_or_init(|| read("the built-in catalogue", CATALOGUE).unwrap_or_default())
}

/// The models of a text in the format of the file.
fn read(place: &str, text: &str) -> Result<BTreeMap<String, Price>, PricesError> {
    let invalid = |message: String| PricesError::Invalid {
        place: place.to_owned(),
        message,
    };
    let document: Document = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let price = |(id, document): (String, PriceDocument)| {
        let price = document.price();
        let price = price.map_err(|problem| invalid(format!("`{id}`: {problem}")))?;
        Ok((id, price))
    };
    document.models.into_iter().map(price).collect()
}

/// The id without the date behind it.
fn undated(model: &str) -> &str {
    for shape in ["-00000000", "@00000000", "-0000-00-00"] {
        let Some(start) = model.len().checked_sub(shape.len()) else {
            continue;
        };
        let Some((id, date)) = model.split_at_checked(start) else {
            continue;
        };
        let fits = |(c, wanted): (char, char)| match wanted {
            '0' => c.is_ascii_digit(),
            mark => c == mark,
        };
        if date.chars().zip(shape.chars()).all(fits) {
            return id;
        }
    }
    model
}

/// What a model costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    base: Rates,
    /// Above so many prompt tokens.
    long: Option<(u64, Rates)>,
}

/// Millionths of a US dollar per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    input: u64,
    cached_read: u64,
    cache_write: u64,
    output: u64,
}

impl Price {
    /// Nothing, as for the `offline` model.
    pub const FREE: Self = Self {
        base: Rates {
            input: 0,
            cached_read: 0,
            cache_write: 0,
            output: 0,
        },
        long: None,
    };

    /// What a call cost, in millionths of a US dollar, rounded up.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> u64 {
        let rates = self.rates(usage.input_tokens);
        let special = usage.cached_tokens.saturating_add(usage.cache_write_tokens);
        let parts = [
            (usage.input_tokens.saturating_sub(special), rates.input),
            (usage.cached_tokens, rates.cached_read),
            (usage.cache_write_tokens, rates.cache_write),
            (usage.output_tokens, rates.output),
        ];
        let units = parts
            .iter()
            .map(|(tokens, rate)| u128::from(*tokens) * u128::from(*rate))
            .fold(0u128, u128::saturating_add);
        u64::try_from(units.div_ceil(UNITS_PER_MICRO_USD)).unwrap_or(u64::MAX)
    }

    /// The most that tokens cost in a call whose prompt has no more than `input` of them,
    /// whatever is cached.
    #[must_use]
    pub fn most(&self, input: u64) -> CallPrice {
        let long = self.long.filter(|(above, _)| input > *above);
        let tiers = [Some(self.base), long.map(|(_, rates)| rates)];
        let most = |rate: fn(&Rates) -> u64| tiers.iter().flatten().map(rate).max();
        let prompt = most(|rates| rates.input.max(rates.cached_read).max(rates.cache_write));
        CallPrice {
            prompt: prompt.unwrap_or_default(),
            output: most(|rates| rates.output).unwrap_or_default(),
        }
    }

    /// The most output tokens that a call with a prompt of up to `input` tokens can have for
    /// `micro_usd`.
    #[must_use]
    pub fn output_within(&self, micro_usd: u64, input: u64) -> u64 {
        let price = self.most(input);
        let prompt = u128::from(input) * u128::from(price.prompt);
        let all = u128::from(micro_usd) * UNITS_PER_MICRO_USD;
        match (all.checked_sub(prompt), u128::from(price.output)) {
            (None, _) => 0,
            (Some(_), 0) => u64::MAX,
            (Some(left), rate) => u64::try_from(left / rate).unwrap_or(u64::MAX),
        }
    }

    const fn rates(&self, input: u64) -> Rates {
        match self.long {
            Some((above, rates)) if input > above => rates,
            _ => self.base,
        }
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// As of when; for people.
    #[serde(default, rename = "date")]
    _date: Option<String>,
    models: BTreeMap<String, PriceDocument>,
}

/// US dollars per million tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceDocument {
    input: f64,
    cached_read: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
    long: Option<LongDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongDocument {
    above: u64,
    input: f64,
    cached_read: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
}

impl PriceDocument {
    fn price(&self) -> Result<Price, String> {
        let input = rate("input", self.input)?;
        let optional = |name, price: Option<f64>, or| price.map_or(Ok(or), |p| rate(name, p));
        let base = Rates {
            input,
            cached_read: optional("cached_read", self.cached_read, input)?,
            cache_write: optional("cache_write", self.cache_write, input)?,
            output: rate("output", self.output)?,
        };
        let Some(long) = &self.long else {
            return Ok(Price { base, long: None });
        };
        let input = rate("long.input", long.input)?;
        // Without a price of its own, writing keeps its proportion to reading anew.
        let scaled = u128::from(base.cache_write) * u128::from(input);
        let scaled = scaled.checked_div(base.input.into());
        let scaled = scaled.map_or(input, |rate| u64::try_from(rate).unwrap_or(u64::MAX));
        let rates = Rates {
            input,
            cached_read: optional("long.cached_read", long.cached_read, input)?,
            cache_write: optional("long.cache_write", long.cache_write, scaled)?,
            output: rate("long.output", long.output)?,
        };
        Ok(Price {
            base,
            long: Some((long.above, rates)),
        })
    }
}

/// Dollars per million tokens as a whole number of millionths.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked"
)]
fn rate(name: &str, usd: f64) -> Result<u64, String> {
    if (0.0..=MAX_USD_PER_MILLION).contains(&usd) {
        Ok((usd * 1e6).round() as u64)
    } else {
        Err(format!(
            "`{name}` must be a price in US dollars per million tokens, from 0 to {MAX_USD_PER_MILLION}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(model: &str, usage: Usage) -> u64 {
        let prices = Prices::default();
        prices.price("p", model).unwrap().cost(&usage)
    }

    #[test]
    fn the_catalogue_can_be_read() {
        assert!(!read("the catalogue", CATALOGUE).unwrap().is_empty());
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let usage = Usage {
            input_tokens: 1_000_000,
            cached_tokens: 600_000,
            cache_write_tokens: 100_000,
            output_tokens: 10_000,
            reasoning_tokens: 9_000,
        };
        // 0.3 M at 5, 0.6 M at 0.5, 0.1 M at 6.25, 0.01 M at 25.
        let expected = 1_500_000 + 300_000 + 625_000 + 250_000;
        assert_eq!(cost("claude-opus-5", usage), expected);
        assert_eq!(cost("claude-opus-5-20260801", usage), expected);
        assert_eq!(cost("claude-opus-5-2026-08-01", usage), expected);
    }

    #[test]
    fn a_long_prompt_costs_more_from_its_first_token() {
        let usage = |input_tokens| Usage {
            input_tokens,
            output_tokens: 1_000,
            ..Usage::default()
        };
        assert_eq!(cost("gpt-5.4", usage(272_000)), 680_000 + 15_000);
        assert_eq!(cost("gpt-5.4", usage(272_001)), 1_360_005 + 22_500);
    }

    #[test]
    fn a_part_of_a_millionth_is_rounded_up_per_call() {
        let one = Usage {
            cached_tokens: 1,
            input_tokens: 1,
            ..Usage::default()
        };
        assert_eq!(cost("gpt-6-luna", one), 1);
        assert_eq!(cost("gpt-6-luna", Usage::default()), 0);
        assert_eq!(Price::FREE.cost(&one), 0);
    }

    #[test]
    fn absurd_counts_neither_overflow_nor_go_below_zero() {
        let usage = Usage {
            input_tokens: 1,
            output_tokens: u64::MAX,
            cached_tokens: u64::MAX,
            cache_write_tokens: u64::MAX,
            reasoning_tokens: u64::MAX,
        };
        assert_eq!(cost("gpt-6-astra", usage), u64::MAX);
    }

    #[test]
    fn an_unknown_model_has_no_price() {
        let prices = Prices::default();
        assert_eq!(prices.price("openai", "gpt-99"), None);
        assert_eq!(prices.price("openai", "gpt-5-20"), None);
        assert!(prices.price("deepseek", "deepseek-v4-pro").is_some());
    }

    #[test]
    fn a_file_adds_and_replaces_and_is_checked() {
        let mut prices = Prices::default();
        let text = "[models]\n\"local/gpt-5\" = { input = 0, output = 0 }\nmine = { input = 1.5, output = 2 }";
        prices.add("prices.toml", text).unwrap();
        assert_eq!(prices.price("local", "gpt-5").unwrap().base.input, 0);
        assert_eq!(
            prices.price("openai", "gpt-5").unwrap().base.input,
            1_250_000
        );
        assert_eq!(
            prices.price("x", "mine").unwrap().base.cached_read,
            1_500_000
        );
        for bad in [
            "[models]\nm = { input = -1, output = 2 }",
            "[models]\nm = { input = nan, output = 2 }",
            "[models]\nm = { input = 1 }",
            "[models]\nm = { input = 1, output = 2, cache = 3 }",
        ] {
            let error = prices.add("prices.toml", bad).unwrap_err().to_string();
            assert!(error.contains("prices.toml"), "{error}");
        }
    }

    #[test]
    fn says_how_much_output_an_amount_allows() {
        let price = Prices::default().price("p", "gpt-5").unwrap();
        assert_eq!(price.output_within(1_250, 1_000), 0);
        assert_eq!(price.output_within(1_350, 1_000), 10);
        assert_eq!(price.output_within(0, 1), 0);
    }
}
