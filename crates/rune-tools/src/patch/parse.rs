//! Reads unified diffs, plain and as git writes them.

use super::PatchError;

/// Stands for "no file" in a header.
const NO_FILE: &str = "/dev/null";

/// The changes to one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilePatch {
    /// The file before; absent where the patch creates it.
    pub old: Option<String>,
    /// The file after; absent where the patch deletes it.
    pub new: Option<String>,
    /// Whether the file is to be executable, where the patch says so.
    pub executable: Option<bool>,
    /// The changes, from top to bottom.
    pub hunks: Vec<Hunk>,
}

/// A group of changed lines with the lines around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The `@@` line.
    pub header: String,
    /// First line in the old file, counted from 1; the line before where `old_len` is 0.
    pub old_start: usize,
    /// Lines of the old file that the hunk covers.
    pub old_len: usize,
    /// The lines, each with its line ending.
    pub lines: Vec<HunkLine>,
}

/// A line of a hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HunkLine {
    /// It is there and stays.
    Context(String),
    /// It is there and goes.
    Delete(String),
    /// It is added.
    Insert(String),
}

impl HunkLine {
    fn text_mut(&mut self) -> &mut String {
        match self {
            Self::Context(text) | Self::Delete(text) | Self::Insert(text) => text,
        }
    }
}

/// Reads a patch of one or more files.
///
/// # Errors
/// [`PatchError::Syntax`] with the line, [`PatchError::Empty`] without any file.
pub fn parse_patch(text: &str) -> Result<Vec<FilePatch>, PatchError> {
    let mut parser = Parser {
        lines: text.split_inclusive('\n').collect(),
        at: 0,
    };
    let mut files = Vec::new();
    while let Some(line) = parser.peek() {
        if line.starts_with("diff --git ") {
            files.push(parser.git_file()?);
        } else if line.starts_with("--- ") {
            let mut file = FilePatch::default();
            parser.names_and_hunks(&mut file, false)?;
            files.push(file);
        } else if line.starts_with("@@ ") {
            return Err(parser.error("a hunk without `---` and `+++` lines before it"));
        } else if !files.is_empty() && !is_noise(line) {
            return Err(parser.error(
                "unexpected text; the hunk before it announces fewer lines than follow, or it is \
                 not part of a unified diff",
            ));
        } else {
            // What comes before the first file is a message for people.
            parser.at += 1;
        }
    }
    if files.is_empty() {
        return Err(PatchError::Empty);
    }
    Ok(files)
}

/// Lines between files that carry no change.
fn is_noise(line: &str) -> bool {
    let line = line.trim_end();
    line.is_empty()
        || line == "--"
        || line.starts_with("Index: ")
        || line.starts_with("diff ")
        || line.starts_with("=====")
        || line.starts_with("Only in ")
        // The version that git prints after its signature line.
        || line.starts_with(|c: char| c.is_ascii_digit())
}

struct Parser<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.at).copied()
    }

    fn error(&self, problem: impl Into<String>) -> PatchError {
        PatchError::Syntax {
            line: self.at + 1,
            problem: problem.into(),
        }
    }

    /// A file with git's extended headers.
    fn git_file(&mut self) -> Result<FilePatch, PatchError> {
        let mut file = FilePatch::default();
        let (mut created, mut deleted, mut renamed) = (false, false, false);
        let both = self.peek().unwrap_or_default().trim_end();
        let both = same_name(both.trim_start_matches("diff --git "));
        self.at += 1;
        while let Some(line) = self.peek() {
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(mode) = line.strip_prefix("new file mode ") {
                created = true;
                file.executable = Some(self.mode(mode)?);
            } else if line.starts_with("deleted file mode ") {
                deleted = true;
            } else if let Some(mode) = line.strip_prefix("new mode ") {
                file.executable = Some(self.mode(mode)?);
            } else if let Some(name) = line.strip_prefix("rename from ") {
                renamed = true;
                file.old = Some(self.unquote(name)?);
            } else if let Some(name) = line.strip_prefix("rename to ") {
                renamed = true;
                file.new = Some(self.unquote(name)?);
            } else if line.starts_with("copy from ") || line.starts_with("copy to ") {
                return Err(self.error("copies are not supported; create the new file instead"));
            } else if line.starts_with("GIT binary patch") || line.starts_with("Binary files ") {
                return Err(self.error("binary patches are not supported"));
            } else if !(line.starts_with("old mode ")
                || line.starts_with("index ")
                || line.starts_with("similarity index ")
                || line.starts_with("dissimilarity index "))
            {
                break;
            }
            self.at += 1;
        }
        if self.peek().is_some_and(|line| line.starts_with("--- ")) {
            let names = (file.old.take(), file.new.take());
            self.names_and_hunks(&mut file, true)?;
            if renamed && (&names.0, &names.1) != (&file.old, &file.new) {
                return Err(self.error("the rename and the `---`/`+++` lines name different files"));
            }
        } else if !renamed {
            // No content changes: an empty file, or only a mode.
            file.old.clone_from(&both);
            file.new = both;
            if created {
                file.old = None;
            } else if deleted {
                file.new = None;
            } else if file.executable.is_none() {
                return Err(self.error("the file has no change"));
            }
        }
        if file.old.is_none() && file.new.is_none() {
            return Err(self.error("the file of these headers is not named clearly"));
        }
        Ok(file)
    }

    /// `---`, `+++` and the hunks after them.
    fn names_and_hunks(&mut self, file: &mut FilePatch, git: bool) -> Result<(), PatchError> {
        let old = self.name("--- ")?;
        let new = self.name("+++ ")?;
        let prefixed = git
            || (old == NO_FILE || old.starts_with("a/"))
                && (new == NO_FILE || new.starts_with("b/"));
        file.old = real_name(old, "a/", prefixed);
        file.new = real_name(new, "b/", prefixed);
        if file.old.is_none() && file.new.is_none() {
            return Err(self.error("both names are /dev/null"));
        }
        while self.peek().is_some_and(|line| line.starts_with("@@")) {
            let hunk = self.hunk()?;
            file.hunks.push(hunk);
        }
        if file.hunks.is_empty() {
            return Err(self.error("expected a hunk that starts with `@@ -`"));
        }
        Ok(())
    }

    fn name(&mut self, prefix: &str) -> Result<String, PatchError> {
        let line = self.peek().and_then(|line| line.strip_prefix(prefix));
        let Some(line) = line else {
            return Err(self.error(format!("expected a line that starts with `{prefix}`")));
        };
        // A tab separates the name from a time.
        let name = line.split('\t').next().unwrap_or_default();
        let name = self.unquote(name.trim_end_matches(['\r', '\n']).trim_end())?;
        if name.is_empty() {
            return Err(self.error("the file has no name"));
        }
        self.at += 1;
        Ok(name)
    }

    fn mode(&self, mode: &str) -> Result<bool, PatchError> {
        match mode.trim() {
            "100644" => Ok(false),
            "100755" => Ok(true),
            mode => Err(self.error(format!("file mode {mode} is not supported"))),
        }
    }

    /// A name as git quotes it: `"tab\there"`, with octal escapes.
    fn unquote(&self, name: &str) -> Result<String, PatchError> {
        let Some(inner) = name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'))
        else {
            return Ok(name.to_owned());
        };
        unescape(inner.as_bytes())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| self.error("the quoted file name cannot be read"))
    }

    fn hunk(&mut self) -> Result<Hunk, PatchError> {
        let header = self.peek().unwrap_or_default().trim_end().to_owned();
        let header_line = self.at;
        let Some(((old_start, old_len), (_, new_len))) = ranges(&header) else {
            return Err(self.error(format!(
                "`{header}` is not a hunk header, expected `@@ -LINE,COUNT +LINE,COUNT @@`"
            )));
        };
        self.at += 1;
        let mut lines: Vec<HunkLine> = Vec::new();
        let (mut old, mut new) = (0, 0);
        while let Some(line) = self.peek() {
            if line.starts_with('\\') {
                self.without_newline(lines.last_mut())?;
                self.at += 1;
                continue;
            }
            if old == old_len && new == new_len {
                break;
            }
            // The last line of the patch may lack its line ending, not the file's line.
            let ended = if line.ends_with('\n') {
                line.to_owned()
            } else {
                format!("{line}\n")
            };
            let line = match ended.as_bytes().first() {
                Some(b' ') => HunkLine::Context(ended[1..].to_owned()),
                Some(b'-') => HunkLine::Delete(ended[1..].to_owned()),
                Some(b'+') => HunkLine::Insert(ended[1..].to_owned()),
                // Editors remove the space of an empty context line.
                Some(b'\n' | b'\r') => HunkLine::Context(ended),
                _ => break,
            };
            old += usize::from(!matches!(line, HunkLine::Insert(_)));
            new += usize::from(!matches!(line, HunkLine::Delete(_)));
            if old > old_len || new > new_len {
                break;
            }
            lines.push(line);
            self.at += 1;
        }
        if old != old_len || new != new_len {
            let (more, less) = (old > old_len || new > new_len, self.at + 1);
            let problem = if more {
                format!("it announces fewer lines than follow (seen at line {less})")
            } else {
                format!(
                    "it announces {old_len} old and {new_len} new lines, {old} and {new} follow"
                )
            };
            return Err(PatchError::Syntax {
                line: header_line + 1,
                problem: format!("hunk `{header}`: {problem}; correct the counts"),
            });
        }
        if lines
            .iter()
            .all(|line| matches!(line, HunkLine::Context(_)))
        {
            return Err(PatchError::Syntax {
                line: header_line + 1,
                problem: format!("hunk `{header}` changes nothing"),
            });
        }
        Ok(Hunk {
            header,
            old_start,
            old_len,
            lines,
        })
    }

    /// `\ No newline at end of file`.
    fn without_newline(&self, last: Option<&mut HunkLine>) -> Result<(), PatchError> {
        let text = last
            .map(HunkLine::text_mut)
            .ok_or_else(|| self.error("`\\ No newline` follows no line"))?;
        if text.pop() != Some('\n') {
            return Err(self.error("`\\ No newline` is given twice"));
        }
        // A patch with CRLF endings wrote this one itself.
        if self.peek().is_some_and(|line| line.ends_with("\r\n")) && text.ends_with('\r') {
            text.pop();
        }
        Ok(())
    }
}

fn real_name(name: String, prefix: &str, prefixed: bool) -> Option<String> {
    if name == NO_FILE {
        return None;
    }
    match name.strip_prefix(prefix) {
        Some(rest) if prefixed => Some(rest.to_owned()),
        _ => Some(name),
    }
}

/// The name in `a/NAME b/NAME`, where both are the same.
fn same_name(both: &str) -> Option<String> {
    let middle = both.len() / 2;
    let (old, new) = (both.get(..middle)?, both.get(middle + 1..)?);
    let old = old.strip_prefix("a/")?;
    (both.as_bytes().get(middle) == Some(&b' ') && new.strip_prefix("b/") == Some(old))
        .then(|| old.to_owned())
}

type Range = (usize, usize);

fn ranges(header: &str) -> Option<(Range, Range)> {
    let (old, rest) = header.strip_prefix("@@ -")?.split_once(" +")?;
    let (new, _) = rest.split_once(" @@")?;
    Some((range(old)?, range(new)?))
}

fn range(text: &str) -> Option<Range> {
    // 32 bits: line numbers can then be added without an overflow.
    let number = |text: &str| text.parse::<u32>().ok()?.try_into().ok();
    match text.split_once(',') {
        Some((start, len)) => Some((number(start)?, number(len)?)),
        None => Some((number(text)?, 1)),
    }
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            byte @ (b'"' | b'\\') => byte,
            high @ b'0'..=b'3' => {
                let digit = |byte: u8| matches!(byte, b'0'..=b'7').then(|| byte - b'0');
                let (middle, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                (high - b'0') << 6 | middle << 3 | low
            }
            _ => return None,
        });
    }
    Some(bytes)
}
