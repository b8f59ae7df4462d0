//! Printing: data to stdout as a table, JSON or YAML; everything else to stderr.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::failure::{Exit, Failure, Outcome};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Colours, where the terminal has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Colours only on a terminal and only where nobody forbids them.
    pub(crate) fn detect(no_color: bool) -> Self {
        Self {
            colour: !no_color && std::io::stderr().is_terminal(),
        }
    }

    /// The same for stdout.
    pub(crate) fn detect_stdout(no_color: bool) -> Self {
        Self {
            colour: !no_color && std::io::stdout().is_terminal(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// One of several names, each in its own colour.
    pub(crate) fn label(self, index: usize, text: &str) -> String {
        const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];
        self.paint(COLOURS[index % COLOURS.len()], text)
    }
}

/// A column of a table: its header and the JSON Pointer of its value.
pub(crate) type Column = (&'static str, &'static str);

/// Where everything is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// How data is printed.
    pub(crate) format: Format,
    /// Colours of stderr.
    pub(crate) style: Style,
    /// Colours of stdout.
    pub(crate) data_style: Style,
}

impl Output {
    /// Whether a program reads stdout.
    pub(crate) fn is_machine(self) -> bool {
        self.format != Format::Table
    }

    /// Prints one value; `table` makes the text for people.
    pub(crate) fn data(self, value: &Value, table: impl FnOnce(&Value) -> String) -> Outcome<()> {
        match self.format {
            Format::Table => self.text(&table(value)),
            Format::Json => self.text(&format!("{value:#}")),
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(value).map_err(|error| {
                    Failure::new(Exit::Failed, format!("cannot print as YAML: {error}"))
                })?;
                self.text(yaml.trim_end())
            }
        }
    }

    /// Prints a list as a table, or as it is for programs.
    pub(crate) fn list(self, rows: &[Value], columns: &[Column]) -> Outcome<()> {
        self.data(&Value::from(rows), |_| table(rows, columns))
    }

    /// The same; `nothing` tells a person what an empty list means.
    pub(crate) fn list_or(self, rows: &[Value], columns: &[Column], nothing: &str) -> Outcome<()> {
        self.list(rows, columns)?;
        if rows.is_empty() && !self.is_machine() {
            self.note(nothing);
        }
        Ok(())
    }

    /// Prints one object as lines of `name  value`.
    pub(crate) fn object(self, value: &Value) -> Outcome<()> {
        self.data(value, fields)
    }

    /// Prints text and a line end.
    pub(crate) fn text(self, text: &str) -> Outcome<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// Prints a part of a line at once.
    pub(crate) fn raw(self, text: &str) -> Outcome<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Tells the person something that is not data.
    pub(crate) fn note(self, text: &str) {
        // Without a stderr nobody is left to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Tells the person that a step worked.
    pub(crate) fn ok(self, text: &str) {
        self.note(&format!("{} {text}", self.style.good("[ok]")));
    }
}

/// Rows under their headers, without lines around them.
pub(crate) fn table(rows: &[Value], columns: &[Column]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|(header, _)| *header));
    for row in rows {
        table.add_row(
            columns
                .iter()
                .map(|(_, pointer)| row.pointer(pointer).map(cell).unwrap_or_default()),
        );
    }
    trim_lines(&table.to_string())
}

/// The fields of an object, one per line.
pub(crate) fn fields(value: &Value) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in value.as_object().into_iter().flatten() {
        table.add_row([name.clone(), cell(value)]);
    }
    trim_lines(&table.to_string())
}

/// The columns are padded; ends of lines need not be, and neither does their start.
fn trim_lines(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_end();
        line.strip_prefix(' ').unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A value in one line, without characters that could steer the terminal.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => one_line(text),
        other => one_line(&other.to_string()),
    }
}

/// The text with everything that is not printable made a space.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Text of an agent for a terminal: lines and tabs stay, everything else that could steer the terminal does not.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

/// At the most `max` characters, with a mark where something is missing.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_header_and_one_line_per_row() {
        let rows = [
            json!({"agent": "a", "n": {"x": 1}}),
            json!({"agent": "b\n\u{1b}[31m"}),
        ];
        let text = table(&rows, &[("AGENT", "/agent"), ("X", "/n/x")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("AGENT"), "{text}");
        assert!(lines[1].ends_with('1'), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn shortens_at_characters() {
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äöü", 3), "äöü");
    }
}
