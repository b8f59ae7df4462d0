//! File name patterns: `*` and `?` within a name, `**` over directories.

/// Whether the pattern matches the path. A pattern without `/` is matched against
/// the last name only.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    if pattern.contains('/') {
        let pattern: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let path: Vec<&str> = path.split('/').collect();
        parts_match(&pattern, &path)
    } else {
        name_matches(pattern, path.rsplit('/').next().unwrap_or(path))
    }
}

// One row of the table "does pattern[..i] match path[..j]" at a time, so that no
// pattern takes more than pattern × path steps.
fn parts_match(pattern: &[&str], path: &[&str]) -> bool {
    let mut row = vec![false; path.len() + 1];
    row[0] = true;
    for part in pattern {
        let mut next = vec![false; path.len() + 1];
        let any = *part == "**";
        next[0] = any && row[0];
        for at in 0..path.len() {
            next[at + 1] = if any {
                next[at] || row[at + 1]
            } else {
                row[at] && name_matches(part, path[at])
            };
        }
        row = next;
    }
    row[path.len()]
}

fn name_matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for part in pattern.chars() {
        let mut next = vec![false; name.len() + 1];
        next[0] = part == '*' && row[0];
        for at in 0..name.len() {
            next[at + 1] = match part {
                '*' => next[at] || row[at + 1],
                '?' => row[at],
                part => row[at] && part == name[at],
            };
        }
        row = next;
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn matches_as_a_shell_user_expects() {
        let cases = [
            ("*.md", "README.md", true),
            ("*.md", "docs/README.md", true),
            ("*.md", "README.mdx", false),
            ("src/*.rs", "src/lib.rs", true),
            ("src/*.rs", "src/a/b.rs", false),
            ("src/**/*.rs", "src/lib.rs", true),
            ("src/**/*.rs", "src/a/b/c.rs", true),
            ("**/test", "test", true),
            ("**/test", "a/b/test", true),
            ("?at", "cat", true),
            ("?at", "at", false),
            ("*", "", true),
            ("**/*", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b/a", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn hostile_pattern_ends_soon() {
        let pattern = "*a".repeat(200);
        assert!(!matches(&pattern, &"a".repeat(199)));
        assert!(!matches(&"**/x/".repeat(100), &"y/".repeat(200)));
    }
}
