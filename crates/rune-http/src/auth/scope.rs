//! What a token is for.

use std::fmt;

/// What a token may be for, as its claim `scope` says (RFC 8693: names with spaces between). A token without that claim
/// is for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenScope {
    /// Looking: `GET` on both APIs.
    Read,
    /// The gateway: asking agents, following and answering what they ask.
    Invoke,
    /// Everything.
    Admin,
}

impl TokenScope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Invoke, Self::Admin];

    /// Its name in a token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Invoke => "invoke",
            Self::Admin => "admin",
        }
    }

    /// Those that a claim names. Other names are somebody else's.
    pub(crate) fn parse(claim: &str) -> Vec<Self> {
        let named = |scope: &Self| claim.split(' ').any(|name| name == scope.as_str());
        Self::ALL.into_iter().filter(named).collect()
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::TokenScope;

    #[test]
    fn only_whole_names_count() {
        let parse = TokenScope::parse;
        assert_eq!(parse("invoke read"), [TokenScope::Read, TokenScope::Invoke]);
        assert_eq!(parse("openid admins read:all READ"), []);
        assert_eq!(parse(""), []);
    }
}
