//! `config.toml`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::budgets::{self, BudgetsConfig};
use crate::error::ConfigError;
use crate::keys::{KEYS, Kind, find};
use crate::limits::{self, ProviderLimits};

/// A value of the file and where it stands.
#[derive(Debug)]
pub(crate) struct FileValue {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What a configuration file says.
#[derive(Debug, Default)]
pub(crate) struct FileConfig {
    /// By key.
    pub(crate) values: BTreeMap<&'static str, FileValue>,
    /// `[providers.NAME]`, with the line of the name.
    pub(crate) limits: BTreeMap<String, (ProviderLimits, usize)>,
    /// `[budgets]`.
    pub(crate) budgets: BudgetsConfig,
    /// The lines of the tables in `[budgets]`.
    pub(crate) budget_lines: budgets::Places,
}

/// Parses the text of a configuration file.
pub(crate) fn parse(path: &Path, text: &str) -> Result<FileConfig, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span());
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            column,
            message: error.message().to_owned(),
        }
    })?;
    let unknown = |key: String, span: Range<usize>| {
        let (line, column) = position(text, Some(span));
        ConfigError::UnknownKey {
            path: path.to_owned(),
            line,
            column,
            suggestion: nearest(&key),
            key,
        }
    };
    let mut config = FileConfig::default();
    for (table, entries) in document.get_ref() {
        let DeValue::Table(entries) = entries.get_ref() else {
            return Err(unknown(table.get_ref().to_string(), table.span()));
        };
        if table.get_ref() == budgets::TABLE {
            let lines = &mut config.budget_lines;
            let mut place = |table, span| {
                lines.insert(table, position(text, Some(span)).0);
            };
            let budgets = budgets::read(entries, &mut place);
            config.budgets = budgets.map_err(|(fault, key, span)| match fault {
                budgets::Fault::Name => unknown(key, span),
                budgets::Fault::Value(wanted) => {
                    let (line, column) = position(text, Some(span));
                    ConfigError::FileValue {
                        path: path.to_owned(),
                        line,
                        column,
                        key: key.into(),
                        message: wanted.to_owned(),
                    }
                }
            })?;
            continue;
        }
        if !KEYS.iter().any(|key| key.parts().0 == table.get_ref()) {
            return Err(unknown(table.get_ref().to_string(), table.span()));
        }
        for (name, value) in entries {
            let dotted = format!("{}.{}", table.get_ref(), name.get_ref());
            let key = find(&dotted);
            if let (None, "providers", DeValue::Table(limits)) =
                (key, table.get_ref().as_ref(), value.get_ref())
            {
                let limits = limits::read(limits).map_err(|(fault, key, span)| match fault {
                    limits::Fault::Name => unknown(format!("{dotted}.{key}"), span),
                    limits::Fault::Value => {
                        let (line, column) = position(text, Some(span));
                        ConfigError::FileValue {
                            path: path.to_owned(),
                            line,
                            column,
                            key: format!("{dotted}.{key}").into(),
                            message: "must be a whole number greater than 0".to_owned(),
                        }
                    }
                })?;
                let (line, _) = position(text, Some(name.span()));
                let provider = name.get_ref().to_string();
                config.limits.insert(provider, (limits, line));
                continue;
            }
            let Some(key) = key else {
                return Err(unknown(dotted, name.span()));
            };
            let (line, column) = position(text, Some(value.span()));
            let Some(text) = scalar(value.get_ref(), key.kind) else {
                return Err(ConfigError::FileValue {
                    path: path.to_owned(),
                    line,
                    column,
                    key: key.name.into(),
                    message: format!("must be {}", expected(key.kind)),
                });
            };
            config
                .values
                .insert(key.name, FileValue { text, line, column });
        }
    }
    Ok(config)
}

fn scalar(value: &DeValue<'_>, kind: Kind) -> Option<String> {
    match (value, kind) {
        (DeValue::String(text), _) => Some(text.to_string()),
        (DeValue::Integer(number), Kind::Count | Kind::Positive | Kind::Percent | Kind::Rate) => {
            Some(number.to_string())
        }
        (DeValue::Float(number), Kind::Rate) => Some(number.to_string()),
        _ => None,
    }
}

/// What a value of this kind looks like, for messages.
pub(crate) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Secret | Kind::Path => "text",
        Kind::Url => "a URL such as `https://example.org`",
        Kind::Address => "an address and port such as `127.0.0.1:8080`",
        Kind::Count => "a whole number that is not negative",
        Kind::Positive => "a whole number greater than 0",
        Kind::Percent => "a whole number from 1 to 100",
        Kind::Rate => "a number greater than 0",
        Kind::LogFormat => "`pretty` or `json`",
        Kind::OnOff => "`on` or `off`",
        Kind::Pairs => "`KEY=VALUE` with commas between, or one a line",
        Kind::Taints => {
            "`KEY[=VALUE][:EFFECT]` with commas between, or one a line; effects are `NoSchedule`, `PreferNoSchedule` and `NoExecute`"
        }
        Kind::Peers => {
            "networks such as `10.1.2.0/24`, addresses, and names of namespaces, with commas between, or one a line"
        }
        Kind::Search => "`duckduckgo`, `searxng`, `brave` or `tavily`",
        Kind::Sandbox => "`require`, `best-effort` or `off`",
    }
}

/// Line and column, both from 1.
fn position(text: &str, span: Option<Range<usize>>) -> (usize, usize) {
    let start = span.map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// The key, or the table, nearest to `word`. A key in the wrong table is found too.
fn nearest(word: &str) -> Option<&'static str> {
    let last = word.rsplit('.').next().unwrap_or(word);
    let tables = KEYS.iter().map(|key| key.parts().0);
    let limits = limits::SETTINGS.iter().map(|(name, _)| *name);
    let budgets = budgets::SETTINGS.iter().map(|(name, _)| *name);
    let budgets = budgets.chain([budgets::TABLE, budgets::DEFAULT, budgets::CALLERS]);
    let keys = KEYS.iter().map(|key| key.name);
    let candidates = keys.chain(tables).chain(limits).chain(budgets);
    candidates
        .map(|name| {
            let inner = name.rsplit('.').next().unwrap_or(name);
            let distance = strsim::damerau_levenshtein(word, name)
                .min(strsim::damerau_levenshtein(last, inner) + 1);
            (distance, name)
        })
        .filter(|(distance, _)| *distance <= 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
