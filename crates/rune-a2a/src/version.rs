//! Versions of the protocol.

use crate::{A2aError, ErrorKind};

/// A version on the wire: `Major.Minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProtocolVersion {
    /// 1.0: methods are `SendMessage`, values are ProtoJSON.
    V1,
    /// 0.3: methods are `message/send`, values have a `kind`.
    V03,
}

impl ProtocolVersion {
    /// Both, the one that is preferred first.
    pub const ALL: [Self; 2] = [Self::V1, Self::V03];

    /// As cards and the `A2A-Version` header have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1.0",
            Self::V03 => "0.3",
        }
    }

    /// The version that a client asks for with `A2A-Version`; nothing where it does not say. A patch
    /// number is passed over (1.0 §3.6).
    ///
    /// # Errors
    /// [`ErrorKind::VersionNotSupported`].
    pub fn requested(text: Option<&str>) -> Result<Option<Self>, A2aError> {
        let text = text.unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(None);
        }
        let known = Self::ALL.into_iter().find(|version| {
            let rest = text.strip_prefix(version.as_str());
            let is_patch = |rest: &str| {
                rest.strip_prefix('.').is_some_and(|patch| {
                    (1..=9).contains(&patch.len()) && patch.bytes().all(|b| b.is_ascii_digit())
                })
            };
            rest.is_some_and(|rest| rest.is_empty() || is_patch(rest))
        });
        known.map(Some).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            let message = format!("version `{shown}` of A2A is not spoken here; 1.0 and 0.3 are");
            A2aError::new(ErrorKind::VersionNotSupported, message)
                .about("supportedVersions", "1.0, 0.3")
        })
    }

    /// The version that a method is spelled as: 0.3 has a slash in each.
    #[must_use]
    pub fn of_method(method: &str) -> Self {
        match method.contains('/') {
            true => Self::V03,
            false => Self::V1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_number_does_not_matter_and_others_are_refused() {
        let of = |text: &str| ProtocolVersion::requested(Some(text)).map_err(|error| error.kind());
        assert_eq!(ProtocolVersion::requested(None).unwrap(), None);
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("1.0"), Ok(Some(ProtocolVersion::V1)));
        assert_eq!(of(" 1.0.1 "), Ok(Some(ProtocolVersion::V1)));
        assert_eq!(of("0.3.26"), Ok(Some(ProtocolVersion::V03)));
        for unknown in [
            "1", "1.1", "1.00", "1.0.", "1.0.x", "99.0", "0.5", "v1.0", "1.0.1.2",
        ] {
            assert_eq!(
                of(unknown),
                Err(ErrorKind::VersionNotSupported),
                "{unknown}"
            );
        }
    }
}
