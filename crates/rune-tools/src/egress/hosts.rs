//! Which hosts a tool is granted.

use std::net::IpAddr;

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
