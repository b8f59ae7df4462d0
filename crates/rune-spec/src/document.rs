//! YAML text as a typed document plus a tree of positions, so that rules checked later can still point at the text.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _, Spanned};

use crate::error::{Place, SpecError};
use crate::suggest::help_for;

/// Largest file the parsers accept, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Deepest nesting of maps and lists the parsers accept.
pub const MAX_DEPTH: usize = 64;
const MAX_ALIASES: usize = 256;
const MAX_NODES: usize = 100_000;
/// Longest part of a line shown in an error, in characters.
const MAX_SNIPPET: usize = 160;

/// A parsed file: its text and where each value stands.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    text: String,
    tree: Node,
}

impl Document {
    /// Parses `text` into `T`.
    pub(crate) fn parse<T: DeserializeOwned>(
        path: &Path,
        text: &str,
    ) -> Result<(T, Self), SpecError> {
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(too_large(path));
        }
        let value = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| from_yaml(path, text, error.without_snippet()))?;
        // The typed parse succeeded, so this one can only fail on keys that are not scalars; positions are then lost.
        let tree = serde_saphyr::from_str_with_options(text, options()).unwrap_or_default();
        Ok((
            value,
            Self {
                path: path.to_owned(),
                text: text.to_owned(),
                tree,
            },
        ))
    }

    /// The line of the value `at`, counted from 1.
    pub(crate) fn line(&self, at: &At) -> usize {
        self.tree.locate(at).line.max(1)
    }

    /// An error at the value `at`, or at the nearest enclosing value that exists.
    pub(crate) fn error(&self, at: &At, message: impl Into<String>) -> SpecError {
        let pos = self.tree.locate(at);
        SpecError::at(&self.path, place(&self.text, pos), message)
    }
}

/// A value that is there: `null` is one, and not the same as none. For fields that are `default`, too.
pub(crate) fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Reads a text file that must be a regular file of limited size.
pub(crate) fn read_text(path: &Path) -> Result<String, SpecError> {
    let failed =
        |error: std::io::Error| SpecError::file(path, format!("cannot read the file: {error}"));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(SpecError::file(path, "not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_FILE_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(path));
    }
    String::from_utf8(bytes).map_err(|_| SpecError::file(path, "the file is not UTF-8 text"))
}

fn too_large(path: &Path) -> SpecError {
    SpecError::file(
        path,
        format!("the file is larger than {MAX_FILE_BYTES} bytes"),
    )
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_nodes: MAX_NODES,
            max_documents: 1,
        },
    }
}

fn from_yaml(path: &Path, text: &str, error: &Error) -> SpecError {
    let pos = error
        .location()
        .map_or_else(Pos::default, |location| Pos::from(&location));
    let (message, help) = describe(error);
    SpecError::at(path, place(text, pos), message).with_help(help)
}

fn describe(error: &Error) -> (String, Option<String>) {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => describe(error),
        Error::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key `{field}`"),
            help_for(field, expected.iter().copied()),
        ),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => (
            format!("unknown value `{variant}`"),
            help_for(variant, expected.iter().copied()),
        ),
        Error::SerdeMissingField { field, .. } => (format!("missing required key `{field}`"), None),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            (format!("duplicate key `{key}`"), None)
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => (
            format!("wrong type: found {unexpected}, expected {expected}"),
            None,
        ),
        Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => (
            format!("wrong value: found {unexpected}, expected {expected}"),
            None,
        ),
        Error::InvalidScalar { ty, .. } => (format!("wrong value: expected {}", plain(ty)), None),
        Error::Unexpected { expected, .. } => {
            (format!("wrong type: expected {}", plain(expected)), None)
        }
        Error::MultipleDocuments { .. }
        | Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => (
            "the file holds more than one YAML document".to_owned(),
            None,
        ),
        Error::Budget { .. } => (
            "the file is nested too deeply or has too many values".to_owned(),
            None,
        ),
        Error::Eof { .. } => ("the file is empty".to_owned(), None),
        other => (
            DefaultMessageFormatter.format_message(other).into_owned(),
            None,
        ),
    }
}

/// The parser's words for types in the words of a person who writes YAML.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" | "floating point" => "a number",
        "bool" | "boolean" => "`true` or `false`",
        "string scalar" | "scalar" => "text",
        "sequence start" => "a list",
        "mapping start" => "a map",
        other => other,
    }
}

/// The place of a range of bytes; one that ends outside the text or inside a character is moved to where it fits.
pub(crate) fn place_of(text: &str, range: std::ops::Range<usize>) -> Place {
    let start = text.floor_char_boundary(range.start);
    let end = text.floor_char_boundary(range.end.max(start));
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let first_line = text[start..end].lines().next().unwrap_or_default();
    let pos = Pos {
        line: before.matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        width: first_line.chars().count(),
    };
    place(text, pos)
}

fn place(text: &str, pos: Pos) -> Place {
    let line = pos.line.max(1);
    let column = pos.column.max(1);
    let full = text.lines().nth(line - 1).unwrap_or_default();
    let length = full.chars().count();
    // A very long line is shown from its start up to a bound; the caret stays inside what is shown.
    let snippet: String = full.chars().take(MAX_SNIPPET).collect();
    let room = (length.min(MAX_SNIPPET) + 1).saturating_sub(column).max(1);
    Place {
        line,
        column,
        width: pos.width.clamp(1, room),
        snippet,
    }
}

/// A position in the text: line and column from 1, width in characters. Zero means unknown.
#[derive(Debug, Clone, Copy, Default)]
struct Pos {
    line: usize,
    column: usize,
    width: usize,
}

impl From<&serde_saphyr::Location> for Pos {
    fn from(location: &serde_saphyr::Location) -> Self {
        let number = |value: u64| usize::try_from(value).unwrap_or_default();
        Self {
            line: number(location.line()),
            column: number(location.column()),
            width: number(location.span().len()),
        }
    }
}

/// The path of a value inside a document.
#[derive(Debug, Clone, Default)]
pub(crate) struct At {
    steps: Vec<AtStep>,
    key: bool,
}

#[derive(Debug, Clone)]
enum AtStep {
    Key(String),
    Index(usize),
}

impl At {
    /// The value of `name` at the top of the document.
    pub(crate) fn top(name: &str) -> Self {
        Self::default().field(name)
    }

    /// The value of `name` below this one.
    pub(crate) fn field(&self, name: &str) -> Self {
        let mut at = self.clone();
        at.steps.push(AtStep::Key(name.to_owned()));
        at
    }

    /// The entry `index` of this list.
    pub(crate) fn index(&self, index: usize) -> Self {
        let mut at = self.clone();
        at.steps.push(AtStep::Index(index));
        at
    }

    /// Points at the key instead of its value.
    pub(crate) fn key(mut self) -> Self {
        self.key = true;
        self
    }
}

#[derive(Debug, Default)]
struct Node {
    pos: Pos,
    kind: Kind,
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Scalar,
    Seq(Vec<Node>),
    Map(Vec<(String, Pos, Node)>),
}

impl Node {
    fn locate(&self, at: &At) -> Pos {
        let mut node = self;
        let mut pos = self.pos;
        for (depth, step) in at.steps.iter().enumerate() {
            let last = depth + 1 == at.steps.len();
            match (step, &node.kind) {
                (AtStep::Key(name), Kind::Map(entries)) => {
                    let Some((_, key, child)) = entries.iter().find(|(key, _, _)| key == name)
                    else {
                        return pos;
                    };
                    // A nested block says little; its key says which one it is.
                    let at_key = (last && at.key) || !matches!(child.kind, Kind::Scalar);
                    pos = if at_key || child.pos.line == 0 {
                        *key
                    } else {
                        child.pos
                    };
                    node = child;
                }
                (AtStep::Index(index), Kind::Seq(entries)) => {
                    let Some(child) = entries.get(*index) else {
                        return pos;
                    };
                    pos = child.pos;
                    node = child;
                }
                _ => return pos,
            }
        }
        pos
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self {
            pos: Pos::from(&spanned.referenced),
            kind: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(node) = seq.next_element()? {
            entries.push(node);
        }
        Ok(Kind::Seq(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key.value, Pos::from(&key.referenced), map.next_value()?));
        }
        Ok(Kind::Map(entries))
    }
}
