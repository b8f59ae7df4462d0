//! Settings that this version accepts and does not act on, so that nobody relies on them.

use rune_env::{Config, Origin};

/// Keys of parts that are not there yet. A key leaves this list together with its part's arrival.
const WITHOUT_EFFECT: [&str; 4] = [
    "gateway.rate_limit_rps",
    "gateway.rate_limit_burst",
    "gateway.webhook_secret",
    "observability.otel_endpoint",
];

/// The keys among them that somebody set, each with where.
pub(crate) fn without_effect(config: &Config) -> Vec<String> {
    let set = config.redacted().iter().filter(|entry| {
        entry.origin != Origin::Default && WITHOUT_EFFECT.contains(&entry.key.as_ref())
    });
    set.map(|entry| format!("{} ({})", entry.key, entry.origin))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rune_env::{ConfigSources, Overrides};

    use super::*;

    fn with(variables: &'static [(&str, &str)]) -> Config {
        let find = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        Config::load(ConfigSources {
            env: Arc::new(find),
            file: None,
            overrides: Overrides::default(),
        })
        .unwrap()
    }

    #[test]
    fn names_what_was_set_in_vain_and_where() {
        assert!(without_effect(&with(&[("HOME", "/home/me"), ("RUST_LOG", "debug")])).is_empty());
        let config = with(&[("HOME", "/home/me"), ("RUNE_RATE_LIMIT_RPS", "5")]);
        assert_eq!(
            without_effect(&config),
            ["gateway.rate_limit_rps (environment RUNE_RATE_LIMIT_RPS)"]
        );
    }

    #[test]
    fn every_key_exists() {
        let config = with(&[("HOME", "/home/me")]);
        for key in WITHOUT_EFFECT {
            assert!(
                config.redacted().iter().any(|entry| entry.key == key),
                "{key}"
            );
        }
    }
}
