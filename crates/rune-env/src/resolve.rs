//! Which source a value comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::budgets::{self, BudgetsConfig, CallerBudget};
use crate::error::ConfigError;
use crate::file::{self, FileConfig, FileValue};
use crate::keys::{KEYS, Key, Kind, find};
use crate::limits::{self, ProviderLimits};

/// Values given by flags, by dotted key (`gateway.addr`).
#[derive(Debug, Clone, Default)]
pub struct Overrides(BTreeMap<String, String>);

impl Overrides {
    /// No flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a flag's value; `None` (the flag was not given) changes nothing.
    #[must_use]
    pub fn with(mut self, key: &str, value: Option<impl Into<String>>) -> Self {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
        self
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration file, at this line.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// This environment variable.
    Env(&'static str),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One line of `rune config show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigEntry {
    /// Dotted key.
    pub key: Cow<'static, str>,
    /// The value, `***` for a secret; `None` when not set.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// The environment variables that set it.
    pub env: &'static [&'static str],
    /// What it is for.
    pub description: &'static str,
}

/// Every value with its origin.
pub(crate) struct Resolved {
    values: BTreeMap<&'static str, (Option<String>, Origin)>,
    file: FileConfig,
    path: PathBuf,
}

impl Resolved {
    pub(crate) fn new(
        path: PathBuf,
        text: Option<&str>,
        env: &dyn Fn(&str) -> Option<String>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        if let Some(key) = overrides.0.keys().find(|key| find(key).is_none()) {
            return Err(ConfigError::UnknownOverride { key: key.clone() });
        }
        let file = text
            .map(|text| file::parse(&path, text))
            .transpose()?
            .unwrap_or_default();
        let values = KEYS
            .iter()
            .map(|key| (key.name, source(key, &path, &file.values, env, overrides)))
            .collect();
        Ok(Self { values, file, path })
    }

    /// Every value that somebody has set.
    pub(crate) fn set(&self) -> BTreeMap<&'static str, String> {
        let set = self.values.iter().filter_map(|(key, (value, origin))| {
            let value = value.as_ref().filter(|_| *origin != Origin::Default)?;
            Some((*key, value.clone()))
        });
        set.collect()
    }

    /// The text of a key.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        self.values.get(key).and_then(|(value, _)| value.clone())
    }

    /// The parsed value of a key.
    pub(crate) fn parse<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((Some(text), origin)) = self.values.get(key) else {
            return Ok(None);
        };
        parse(text)
            .map(Some)
            .ok_or_else(|| self.invalid(key, origin))
    }

    fn invalid(&self, key: &'static str, origin: &Origin) -> ConfigError {
        let kind = find(key).map_or(Kind::Text, |key| key.kind);
        let message = format!("must be {}", file::expected(kind));
        match (origin, self.file.values.get(key)) {
            (Origin::File { .. }, Some(value)) => ConfigError::FileValue {
                path: self.path.clone(),
                line: value.line,
                column: value.column,
                key: key.into(),
                message,
            },
            (Origin::Env(name), _) => ConfigError::Value {
                origin: format!("environment variable `{name}`"),
                message,
            },
            _ => ConfigError::Value {
                origin: format!("`{key}`"),
                message,
            },
        }
    }

    pub(crate) fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |key: &'static Key| {
            let (value, origin) = self.values.get(key.name)?;
            Some(ConfigEntry {
                key: key.name.into(),
                value: value.as_deref().map(|value| shown(key.kind, value)),
                origin: origin.clone(),
                env: key.env,
                description: key.doc,
            })
        };
        let limits = self.file.limits.iter();
        let limits =
            limits.flat_map(|(name, (limits, line))| self.limit_entries(name, limits, *line));
        let keys = KEYS.iter().filter_map(entry);
        keys.chain(limits).chain(self.budget_entries()).collect()
    }

    /// The limits of every provider that has some.
    pub(crate) fn limits(&self) -> BTreeMap<String, ProviderLimits> {
        let limits = self.file.limits.iter();
        limits
            .map(|(name, (limits, _))| (name.clone(), *limits))
            .collect()
    }

    /// What callers may spend.
    pub(crate) fn budgets(&self) -> BudgetsConfig {
        self.file.budgets.clone()
    }

    fn budget_entries(&self) -> Vec<ConfigEntry> {
        let budgets = &self.file.budgets;
        let default = (
            format!("{}.{}", budgets::TABLE, budgets::DEFAULT),
            budgets.default,
        );
        let named = budgets.callers.iter().map(|(caller, budget)| {
            let table = format!("{}.{}.{caller}", budgets::TABLE, budgets::CALLERS);
            (table, *budget)
        });
        let entries = |(table, budget): (String, CallerBudget)| {
            let line = self.file.budget_lines.get(&table).copied();
            budget.entries().map(move |(name, value)| {
                let doc = budgets::SETTINGS.iter().find(|(known, _)| *known == name);
                ConfigEntry {
                    key: format!("{table}.{name}").into(),
                    value: Some(value),
                    origin: Origin::File {
                        path: self.path.clone(),
                        line: line.unwrap_or_default(),
                    },
                    env: &[],
                    description: doc.map_or("", |(_, doc)| doc),
                }
            })
        };
        [default]
            .into_iter()
            .chain(named)
            .flat_map(entries)
            .collect()
    }

    fn limit_entries(
        &self,
        provider: &str,
        limits: &ProviderLimits,
        line: usize,
    ) -> Vec<ConfigEntry> {
        let entry = |(name, value): (&'static str, NonZeroU32)| {
            let doc = limits::SETTINGS.iter().find(|(known, _)| *known == name);
            ConfigEntry {
                key: format!("providers.{provider}.{name}").into(),
                value: Some(value.to_string()),
                origin: Origin::File {
                    path: self.path.clone(),
                    line,
                },
                env: &[],
                description: doc.map_or("", |(_, doc)| doc),
            }
        };
        limits.entries().map(entry).collect()
    }
}

fn source(
    key: &Key,
    path: &Path,
    file: &BTreeMap<&'static str, FileValue>,
    env: &dyn Fn(&str) -> Option<String>,
    overrides: &Overrides,
) -> (Option<String>, Origin) {
    if let Some(value) = overrides.0.get(key.name) {
        return (Some(value.clone()), Origin::Flag);
    }
    for name in key.env {
        if let Some(value) = env(name).filter(|value| !value.trim().is_empty()) {
            return (Some(value), Origin::Env(name));
        }
    }
    match file.get(key.name) {
        Some(value) => (
            Some(value.text.clone()),
            Origin::File {
                path: path.to_owned(),
                line: value.line,
            },
        ),
        None => (key.default.map(str::to_owned), Origin::Default),
    }
}

fn shown(kind: Kind, value: &str) -> String {
    match (kind, value.split_once("://")) {
        (Kind::Secret, _) => "***".to_owned(),
        // Name and password in front of the host, and a query, may be secrets too.
        (Kind::Url, Some((scheme, rest))) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, tail) = rest.split_at(end);
            let host = authority
                .rsplit_once('@')
                .map_or(authority.to_owned(), |(_, host)| format!("***@{host}"));
            let tail = tail
                .split_once('?')
                .map_or(tail.to_owned(), |(path, _)| format!("{path}?***"));
            format!("{scheme}://{host}{tail}")
        }
        _ => value.to_owned(),
    }
}
