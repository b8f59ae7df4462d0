//! Collects every semantic error of one file.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::document::{At, Document};
use crate::error::{InvalidValue, SpecError, SpecErrors};

/// Longest time a file may ask for: one year, in milliseconds. Keeps deadline arithmetic far from overflow.
pub(crate) const MAX_MILLIS: u64 = 365 * 24 * 3600 * 1000;

/// Most errors reported for one file; more would not help anybody and cost time on hostile input.
const MAX_ERRORS: usize = 100;

pub(crate) struct Checker<'a> {
    document: &'a Document,
    errors: Vec<SpecError>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(document: &'a Document) -> Self {
        Self {
            document,
            errors: Vec::new(),
        }
    }

    /// Records an error at `at`.
    pub(crate) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.error_with_help(at, message, None);
    }

    /// Records an error at `at` with a hint.
    pub(crate) fn error_with_help(
        &mut self,
        at: &At,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        if self.errors.len() == MAX_ERRORS {
            return;
        }
        self.errors
            .push(self.document.error(at, message).with_help(help));
    }

    /// The line of `at`, counted from 1.
    pub(crate) fn line(&self, at: &At) -> usize {
        self.document.line(at)
    }

    /// Whether a list has at most `most` entries; records an error otherwise.
    pub(crate) fn at_most(&mut self, at: &At, len: usize, most: usize) -> bool {
        if len > most {
            self.error(at, format!("must not have more than {most} entries"));
        }
        len <= most
    }

    /// The parsed value, or its error recorded at `at`.
    pub(crate) fn take<T>(&mut self, at: &At, parsed: Result<T, InvalidValue>) -> Option<T> {
        parsed
            .map_err(|error| {
                self.error_with_help(at, error.message(), error.help().map(str::to_owned));
            })
            .ok()
    }

    /// A duration in milliseconds, at least one and at most a year.
    pub(crate) fn millis(&mut self, at: &At, millis: u64) -> Duration {
        if millis == 0 || millis > MAX_MILLIS {
            self.error(
                at,
                format!("must be between 1 and {MAX_MILLIS} milliseconds"),
            );
        }
        Duration::from_millis(millis)
    }

    /// Records an error when a count that must be at least one is zero.
    pub(crate) fn at_least_one<T: Into<u64> + Copy>(&mut self, at: &At, value: T) -> T {
        if value.into() == 0 {
            self.error(at, "must be at least 1");
        }
        value
    }

    /// An amount of money: finite and not negative.
    pub(crate) fn amount(&mut self, at: &At, value: Option<f64>) -> Option<f64> {
        if value.is_some_and(|value| !value.is_finite() || value < 0.0) {
            self.error(at, "must be a number that is not negative");
        }
        value
    }

    /// A semantic version.
    pub(crate) fn version(&mut self, at: &At, text: &str) -> Option<semver::Version> {
        let parsed = semver::Version::parse(text).map_err(|error| {
            InvalidValue::new(format!("`{text}` is not a semantic version: {error}")).with_help(
                Some("write it as MAJOR.MINOR.PATCH, for example `0.1.0`".to_owned()),
            )
        });
        self.take(at, parsed)
    }

    /// A path relative to the package that stays inside it.
    pub(crate) fn inner_path(&mut self, at: &At, text: &str) -> Option<PathBuf> {
        self.take(at, inner_path(text))
    }

    /// Text that must not be blank.
    pub(crate) fn filled(&mut self, at: &At, what: &str, text: &str) {
        if text.trim().is_empty() {
            self.error(at, format!("{what} must not be empty"));
        }
    }

    /// The names of environment variables.
    pub(crate) fn variables<'k>(&mut self, at: &At, names: impl IntoIterator<Item = &'k String>) {
        for name in names {
            if !is_variable_name(name) {
                self.error(
                    &at.field(name).key(),
                    format!("`{name}` is not a name of an environment variable"),
                );
            }
        }
    }

    /// A JSON Schema that compiles.
    pub(crate) fn json_schema(&mut self, at: &At, schema: &Value) {
        if let Err(message) = check_json_schema(schema) {
            self.error(at, message);
        }
    }

    /// Every error so far; call when a value is missing because of one.
    pub(crate) fn into_errors(mut self) -> SpecErrors {
        self.errors
            .sort_by_key(|error| (error.line(), error.column()));
        SpecErrors::new(self.errors)
    }

    /// `value` if nothing was recorded.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, SpecErrors> {
        if self.errors.is_empty() {
            Ok(value)
        } else {
            Err(self.into_errors())
        }
    }
}

/// Says why a JSON Schema does not compile.
pub(crate) fn check_json_schema(schema: &Value) -> Result<(), String> {
    if !(schema.is_object() || schema.is_boolean()) {
        return Err("a JSON Schema must be a map".to_owned());
    }
    match jsonschema::validator_for(schema) {
        Ok(_) => Ok(()),
        Err(error) => {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() {
                place
            } else {
                format!(" (at `{place}`)")
            };
            Err(format!("not a valid JSON Schema: {error}{place}"))
        }
    }
}

/// A value of a variable or a header: numbers and booleans are written without quotes and count as text.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its JSON Schema is used")]
pub(crate) enum Scalar {
    /// Text; may hold `${VAR}`.
    Text(String),
    /// A number.
    Number(f64),
    /// A boolean.
    Boolean(bool),
}

/// Parses a path relative to the package that stays inside it.
pub(crate) fn inner_path(text: &str) -> Result<PathBuf, InvalidValue> {
    path_below("the agent directory", text)
}

/// Parses a relative path that stays below the directory it is relative to, which messages call `dir`.
pub(crate) fn path_below(dir: &str, text: &str) -> Result<PathBuf, InvalidValue> {
    let path = Path::new(text);
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => {
                let message = format!("`{text}` leaves {dir}");
                let help = format!("use a path relative to {dir}");
                return Err(InvalidValue::new(message).with_help(Some(help)));
            }
        }
    }
    if clean.as_os_str().is_empty() || text.contains('\0') {
        return Err(InvalidValue::new(format!(
            "expected a path relative to {dir}"
        )));
    }
    Ok(clean)
}

/// Whether `name` can name an environment variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
