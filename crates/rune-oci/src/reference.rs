//! References to artefacts in registries.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Digest;

/// The registry of references that name none.
const DOCKER_HUB: &str = "docker.io";
/// Where that registry really answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// The tag of references that name neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together, as the distribution specification has it.
const MAX_NAME_CHARS: usize = 255;
const MAX_TAG_CHARS: usize = 128;

/// What is not a reference, or not a digest, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidReference(pub(crate) String);

/// `[oci://][HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST]`, read as Docker reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry: a host, and a port where one is named.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's name in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The repository with its registry: what a signature is bound to.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The digest that it is pinned to.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The tag; a reference with a digest may have none.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// What the registry is asked for: the digest where there is one, else the tag.
    #[must_use]
    pub fn version(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The same, pinned to a digest.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Self {
        Self {
            digest: Some(digest.clone()),
            ..self.clone()
        }
    }

    /// Where the API of the registry is: TLS, but for a registry on this machine.
    pub(crate) fn base_url(&self) -> String {
        let host = if self.registry == DOCKER_HUB {
            DOCKER_HUB_HOST
        } else {
            &self.registry
        };
        let scheme = if self.is_loopback() { "http" } else { "https" };
        format!("{scheme}://{host}")
    }

    /// Whether the registry is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.registry.split(':').next().unwrap_or_default(),
        };
        let v4 = host.parse::<Ipv4Addr>();
        host == "localhost" || host == "::1" || v4.is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let wrong = |why: &str| {
            InvalidReference(format!(
                "`{text}` is not a reference of a registry: {why}; it is HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]"
            ))
        };
        let rest = text.strip_prefix("oci://").unwrap_or(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse::<Digest>();
                (
                    rest,
                    Some(digest.map_err(|error| wrong(&error.to_string()))?),
                )
            }
            None => (rest, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            // A colon before a slash is that of a port.
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DOCKER_HUB, rest),
        };
        let repository = if registry == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !is_host(registry) {
            return Err(wrong("the registry's name is not valid"));
        }
        // In the form in which it is shown, so that this can be read again.
        if registry.len() + 1 + repository.len() > MAX_NAME_CHARS {
            return Err(wrong(
                "registry and repository have more than 255 characters together",
            ));
        }
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                "a repository is of lower-case letters, digits and single `.`, `_`, `-` and `/` between them",
            ));
        }
        if !tag.is_none_or(is_tag) {
            return Err(wrong(
                "a tag is of letters, digits, `_`, `.` and `-`, and does not begin with the last two",
            ));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Whether the first part of a name is a registry and not a directory of Docker Hub.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (
                    "",
                    port.strip_prefix(':').or(port.is_empty().then_some("0")),
                )
            }
            None => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, Some("0")),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_name = registry.starts_with('[') || host.split('.').all(is_label);
    is_name && port.is_some_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends =
        bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let separators = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
        });
    ends && separators
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_CHARS
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, registry: &str, repository: &str, version: &str) {
        let found: Reference = text.parse().unwrap();
        let parts = (found.registry(), found.repository(), found.version());
        assert_eq!(parts, (registry, repository, version), "{text}");
        // What it is shown as is the same reference.
        assert_eq!(found.to_string().parse(), Ok(found), "{text}");
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        check("ghcr.io/acme/hello:1.0", "ghcr.io", "acme/hello", "1.0");
        check(
            "oci://ghcr.io/acme/hello",
            "ghcr.io",
            "acme/hello",
            "latest",
        );
        check("localhost:5000/hello", "localhost:5000", "hello", "latest");
        check("localhost/a/b/c:x", "localhost", "a/b/c", "x");
        check("hello:1.0.0", "docker.io", "library/hello", "1.0.0");
        check("docker.io/hello:1", "docker.io", "library/hello", "1");
        check("acme/hello", "docker.io", "acme/hello", "latest");
        check("[::1]:5000/hello:a", "[::1]:5000", "hello", "a");
        check(&format!("ghcr.io/a@{digest}"), "ghcr.io", "a", &digest);
        check(&format!("ghcr.io/a:1@{digest}"), "ghcr.io", "a", &digest);
    }

    #[test]
    fn the_limit_is_that_of_the_whole_name() {
        for (given, meant) in [
            ("", "docker.io/library/"),
            ("acme/", "docker.io/acme/"),
            ("docker.io/", "docker.io/library/"),
            ("ghcr.io/", "ghcr.io/"),
        ] {
            let longest = "a".repeat(MAX_NAME_CHARS - meant.len());
            let found: Reference = format!("{given}{longest}").parse().unwrap();
            assert_eq!(found.name(), format!("{meant}{longest}"));
            assert_eq!(found.to_string().parse(), Ok(found));
            let longer = format!("{given}{longest}a");
            assert!(longer.parse::<Reference>().is_err(), "{longer}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "ghcr.io/",
            "ghcr.io/Acme/hello",
            "ghcr.io/acme//hello",
            "ghcr.io/acme/../hello",
            "ghcr.io/-a",
            "ghcr.io/a..b",
            "ghcr.io/a:",
            "ghcr.io/a:-x",
            "ghcr.io/a@sha256:12",
            "ghcr.io/a@sha512:12",
            "ghcr.io:port/a",
            "ghcr.io:99999/a",
            "user@ghcr.io/a",
            "gh cr.io/a",
            "ghcr.io/a?x=1",
            "[::1/a",
            "-ghcr.io/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        for (text, url) in [
            ("127.0.0.1:5000/a", "http://127.0.0.1:5000"),
            ("127.9.9.9/a", "http://127.9.9.9"),
            ("localhost:5000/a", "http://localhost:5000"),
            ("[::1]:5000/a", "http://[::1]:5000"),
            ("10.0.0.1:5000/a", "https://10.0.0.1:5000"),
            ("localhost.example.org/a", "https://localhost.example.org"),
            ("127.0.0.1.example.org/a", "https://127.0.0.1.example.org"),
            ("hello", "https://registry-1.docker.io"),
        ] {
            let found: Reference = text.parse().unwrap();
            assert_eq!(found.base_url(), url, "{text}");
        }
    }
}
