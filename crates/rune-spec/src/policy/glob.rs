//! Patterns over text.

use serde::{Serialize, Serializer};

/// A pattern over a whole text: `*` is any run of characters (also `/` and line ends, also none), every other
/// character stands for itself. `\*`, `\,` and `\\` are the characters `*`, `,` and `\`; a backslash before anything
/// else is a backslash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

/// A part of a [`Glob`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobToken {
    /// Any run of characters.
    Any,
    /// This character.
    Char(char),
}

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the pattern.
    pub fn tokens(&self) -> impl Iterator<Item = GlobToken> + '_ {
        let mut rest = self.0.chars().peekable();
        std::iter::from_fn(move || {
            Some(match rest.next()? {
                '*' => GlobToken::Any,
                '\\' => GlobToken::Char(
                    rest.next_if(|c| matches!(c, '*' | ',' | '\\'))
                        .unwrap_or('\\'),
                ),
                c => GlobToken::Char(c),
            })
        })
    }

    /// The one text the pattern describes, when it has no wildcard.
    pub fn literal(&self) -> Option<String> {
        self.tokens()
            .map(|token| match token {
                GlobToken::Any => None,
                GlobToken::Char(c) => Some(c),
            })
            .collect()
    }

    /// Whether the pattern describes a text that begins with `prefix`.
    pub(crate) fn may_begin_with(&self, prefix: &str) -> bool {
        let mut tokens = self.tokens();
        for c in prefix.chars() {
            match tokens.next() {
                Some(GlobToken::Any) => return true,
                Some(GlobToken::Char(other)) if other == c => {}
                _ => return false,
            }
        }
        true
    }

    /// Whether the pattern describes the whole of `text`. Takes at most pattern × text steps.
    pub fn is_match(&self, text: &str) -> bool {
        let pattern: Vec<GlobToken> = self.tokens().collect();
        let text: Vec<char> = text.chars().collect();
        let (mut p, mut t) = (0, 0);
        // Where to go on when the text after the last `*` does not fit: one character later.
        let mut retry: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(GlobToken::Any) => {
                    retry = Some((p + 1, t));
                    p += 1;
                }
                Some(GlobToken::Char(c)) if *c == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((after, from)) = retry else {
                        return false;
                    };
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
            }
        }
        pattern[p..].iter().all(|token| *token == GlobToken::Any)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(
            Glob::new(pattern).is_match(text),
            expected,
            "{pattern} on {text}"
        );
    }

    #[test]
    fn describes_the_whole_text() {
        check("git *", "git status", true);
        check("git *", "rm -rf /; git x", false);
        check("*.md", "notes/a.md", true);
        check("a*b*c", "axxbxxbc", true);
        check("a*", "a\nb", true);
        check("a?c", "abc", false);
        check("a?c", "a?c", true);
        check("", "", true);
        check("*", "", true);
    }

    #[test]
    fn a_backslash_takes_a_star_for_itself() {
        check(r"a\*b", "a*b", true);
        check(r"a\*b", "axb", false);
        check(r"C:\dir\\*", r"C:\dir\x", true);
        assert_eq!(Glob::new(r"a\*\,").literal().as_deref(), Some("a*,"));
        assert_eq!(Glob::new("a*").literal(), None);
    }
}
