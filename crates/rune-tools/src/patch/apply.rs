//! Applies hunks to a text.

use super::{Hunk, HunkLine, PatchError};

/// Bytes of a line shown in an error.
const SHOWN_BYTES: usize = 120;

/// The text after the hunks of one file.
///
/// The lines of a hunk must be in the text exactly. Where they are not at the line
/// that the header names, they may be elsewhere below the hunk before, in exactly one
/// place.
///
/// # Errors
/// [`PatchError::Mismatch`] names the hunk and the first line that differs.
pub fn apply_hunks(text: &str, hunks: &[Hunk]) -> Result<String, PatchError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    // How far the text has moved against the patch's line numbers so far.
    let mut shift = 0_isize;
    for (index, hunk) in hunks.iter().enumerate() {
        let mismatch = |problem: String| PatchError::Mismatch {
            hunk: index + 1,
            header: hunk.header.clone(),
            problem,
        };
        let old: Vec<&str> = old_lines(hunk).collect();
        // An empty range names the line before it.
        let named = if hunk.old_len == 0 {
            hunk.old_start
        } else {
            hunk.old_start.saturating_sub(1)
        };
        let expected = named.saturating_add_signed(shift);
        let at = locate(&lines, &old, done, expected).map_err(mismatch)?;
        shift = shift
            .saturating_add_unsigned(at)
            .saturating_sub_unsigned(expected);
        result.extend(lines[done..at].iter().copied());
        for line in &hunk.lines {
            match line {
                HunkLine::Context(text) | HunkLine::Insert(text) => {
                    // Only a last line may lack its line ending.
                    if !result.is_empty() && !result.ends_with('\n') {
                        return Err(mismatch(
                            "it adds lines after one without a line ending".to_owned(),
                        ));
                    }
                    result.push_str(text);
                }
                HunkLine::Delete(_) => {}
            }
        }
        done = at + old.len();
    }
    if done < lines.len() {
        if !result.is_empty() && !result.ends_with('\n') {
            let hunk = hunks.len();
            return Err(PatchError::Mismatch {
                hunk,
                header: hunks
                    .last()
                    .map(|hunk| hunk.header.clone())
                    .unwrap_or_default(),
                problem: "it ends without a line ending, but the file goes on".to_owned(),
            });
        }
        result.extend(lines[done..].iter().copied());
    }
    Ok(result)
}

fn old_lines(hunk: &Hunk) -> impl Iterator<Item = &str> {
    hunk.lines.iter().filter_map(|line| match line {
        HunkLine::Context(text) | HunkLine::Delete(text) => Some(text.as_str()),
        HunkLine::Insert(_) => None,
    })
}

/// Where `old` is in `lines`, at or after `from`.
fn locate(lines: &[&str], old: &[&str], from: usize, expected: usize) -> Result<usize, String> {
    let fits = |at: usize| lines.get(at..at + old.len()) == Some(old);
    if old.is_empty() {
        // Nothing to go by except the line number.
        return if expected >= from && expected <= lines.len() {
            Ok(expected)
        } else {
            Err(format!(
                "it inserts after line {expected}, but the file has {} lines",
                lines.len()
            ))
        };
    }
    if expected >= from && fits(expected) {
        return Ok(expected);
    }
    let last = lines.len().saturating_sub(old.len());
    let mut places = (from..=last).filter(|at| fits(*at));
    match (places.next(), places.next()) {
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => Err(format!(
            "its lines are not at line {} but in several places, such as lines {} and {}; add \
             context or correct the line number",
            expected + 1,
            first + 1,
            second + 1
        )),
        (None, _) => Err(difference(lines, old, expected)),
    }
}

/// The first line that is not as the hunk says.
fn difference(lines: &[&str], old: &[&str], expected: usize) -> String {
    let there = |offset: usize| lines.get(expected + offset).copied();
    let Some((offset, wanted)) = old
        .iter()
        .enumerate()
        .find(|(offset, wanted)| there(*offset) != Some(**wanted))
    else {
        return "its lines are only before the hunk above it".to_owned();
    };
    let line = expected + offset + 1;
    match there(offset) {
        None => format!(
            "it expects {} at line {line}, but the file has {} lines",
            shown(wanted),
            lines.len()
        ),
        Some(found)
            if found.trim_end_matches(['\r', '\n']) == wanted.trim_end_matches(['\r', '\n']) =>
        {
            format!(
                "line {line} differs in its line ending: the hunk has {}, the file {}",
                ending(wanted),
                ending(found)
            )
        }
        Some(found) => format!(
            "line {line} is {}, the hunk expects {}",
            shown(found),
            shown(wanted)
        ),
    }
}

fn shown(line: &str) -> String {
    let line = line.trim_end_matches(['\r', '\n']);
    let head = crate::text::prefix(line, SHOWN_BYTES);
    let more = if head.len() < line.len() { "…" } else { "" };
    format!("`{head}{more}`")
}

fn ending(line: &str) -> &'static str {
    if line.ends_with("\r\n") {
        "CRLF"
    } else if line.ends_with('\n') {
        "LF"
    } else {
        "none"
    }
}
