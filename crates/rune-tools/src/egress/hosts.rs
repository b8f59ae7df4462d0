//! Which hosts a tool is granted.

use std::net::IpAddr;

use url::Url;

/// The hosts that a tool may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    any: bool,
    some: Vec<(String, Option<u16>)>,
}

impl Hosts {
    /// Every host.
    #[must_use]
    pub const fn every() -> Self {
        Self {
            any: true,
            some: Vec::new(),
        }
    }

    /// Grants all hosts.
    pub const fn grant_all(&mut self) {
        self.any = true;
    }

    /// Grants a host as `network:HOST[:PORT]` names it: a name, an address without brackets, or `*.example.org`.
    pub fn grant(&mut self, host: &str, port: Option<u16>) {
        // In the form in which a destination is asked about.
        let host = host.parse::<IpAddr>().map_or_else(
            |_| host.strip_suffix('.').unwrap_or(host).to_owned(),
            |address| address.to_canonical().to_string(),
        );
        self.some.push((host, port));
    }

    /// Grants a place as an operator names it: `HOST[:PORT]`, an address of IPv6 in brackets. False where it is none.
    pub fn grant_place(&mut self, place: &str) -> bool {
        let parsed = Url::parse(&format!("place://{place}")).ok();
        let alone = parsed.filter(|parsed| {
            let rest = (
                parsed.username(),
                parsed.path(),
                parsed.query(),
                parsed.fragment(),
            );
            matches!(rest, ("", "" | "/", None, None)) && parsed.password().is_none()
        });
        let host = alone.as_ref().and_then(|place| place.host_str());
        let (Some(place), Some(host)) = (&alone, host) else {
            return false;
        };
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        self.grant(&host, place.port());
        true
    }

    /// Whether no host is granted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.any && self.some.is_empty()
    }

    /// Whether every host is granted.
    #[must_use]
    pub const fn is_every(&self) -> bool {
        self.any
    }

    /// Whether a connection without a name can be granted.
    #[must_use]
    pub fn has_address(&self) -> bool {
        let is_address = |host: &str| host == "*" || host.parse::<IpAddr>().is_ok();
        self.any || self.some.iter().any(|(host, _)| is_address(host))
    }

    /// Whether names can be looked up: to ask about a name is to talk to whoever answers for it.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.any || self.some.iter().any(|(host, _)| host == "*")
    }

    /// Whether a host, in the form of [`destination`](crate::destination), may be reached.
    #[must_use]
    pub fn allow(&self, host: &str, port: u16) -> bool {
        self.any
            || self.some.iter().any(|(pattern, granted)| {
                granted.is_none_or(|granted| granted == port) && is_host(pattern, host)
            })
    }
}

fn is_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_with_or_without_a_port() {
        let mut hosts = Hosts::default();
        for place in [
            "Agents.example.org",
            "127.0.0.1:9000",
            "[::1]:80",
            "*.example.net",
        ] {
            assert!(hosts.grant_place(place), "{place}");
        }
        assert!(hosts.allow("agents.example.org", 443));
        assert!(hosts.allow("127.0.0.1", 9000) && !hosts.allow("127.0.0.1", 9001));
        assert!(hosts.allow("::1", 80));
        assert!(hosts.allow("a.example.net", 1) && !hosts.allow("example.net", 1));
        for wrong in ["", "a/b", "u@a", "a?b", "a b", "a:x"] {
            assert!(!Hosts::default().grant_place(wrong), "{wrong}");
        }
        assert!(Hosts::default().is_empty());
        let mut every = Hosts::default();
        assert!(every.grant_place("*") && every.allow("x", 1));
    }
}
