//! The policy: public addresses, and what an operator opens besides.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::{Host, Url};

use super::address::{is_link_local, reached, special_kind};

/// A destination that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not HTTP.
    #[error("scheme `{0}` is not allowed; use http or https")]
    Scheme(String),
    /// The URL holds a user name or password.
    #[error("a URL with a user name or password is not allowed")]
    Credentials,
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The port is not among the allowed ones.
    #[error("port {0} is not allowed")]
    Port(u16),
    /// The host is, or its name resolves to, an address that is not public.
    #[error(
        "`{host}` is not allowed: {address} is a {kind} address; an operator can allow it (`tools.allow_private`)"
    )]
    Address {
        /// The host of the URL.
        host: String,
        /// The address.
        address: IpAddr,
        /// What kind of address it is.
        kind: &'static str,
    },
    /// The name has no address.
    #[error("`{0}` has no address")]
    NoAddress(String),
}

/// Something that is not public and allowed all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressException {
    /// Every address of this network.
    Net(IpNet),
    /// Whatever this name resolves to, but for link-local addresses; lower case.
    Host(String),
}

/// A text that is no [`EgressException`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address, a network such as 10.0.0.0/8, or a host name")]
pub struct EgressExceptionError(String);

impl FromStr for EgressException {
    type Err = EgressExceptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) => Ok(Self::Host(canonical(&name).to_owned())),
            _ => Err(EgressExceptionError(text.to_owned())),
        }
    }
}

impl fmt::Display for EgressException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

/// Where requests may go. The default is every public address on every port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressPolicy {
    /// Addresses and names that are allowed although they are not public.
    pub allow_private: Vec<EgressException>,
    /// The only ports that are allowed; all where it is empty.
    pub ports: Vec<u16>,
}

impl EgressPolicy {
    /// The same, open for the host and the port of a URL that the operator has configured, which may be private ones. A
    /// link-local address is not opened: the metadata of clouds is there.
    #[must_use]
    pub fn opened_for(mut self, url: &str) -> Self {
        let place = Url::parse(url).ok();
        if let Some((host, port)) = place.as_ref().and_then(destination) {
            let exception = host.parse::<EgressException>().ok();
            let exception = exception.filter(|exception| match exception {
                EgressException::Net(net) => !special_kind(net.addr()).is_some_and(is_link_local),
                EgressException::Host(_) => true,
            });
            self.allow_private.extend(exception);
            if !self.ports.is_empty() {
                self.ports.push(port);
            }
        }
        self
    }

    /// Checks what a URL says by itself: scheme, credentials, port, and the address
    /// where the host is one. A name is checked when it is resolved.
    ///
    /// # Errors
    /// [`EgressError`] with the reason.
    pub fn check_url(&self, url: &Url) -> Result<(), EgressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EgressError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::Credentials);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 || !self.ports.is_empty() && !self.ports.contains(&port) {
            return Err(EgressError::Port(port));
        }
        match url.host() {
            None => Err(EgressError::NoHost),
            Some(Host::Domain(_)) => Ok(()),
            Some(Host::Ipv4(address)) => self.check_address(url.host_str(), address.into()),
            Some(Host::Ipv6(address)) => self.check_address(url.host_str(), address.into()),
        }
    }

    /// Checks every address that a name resolves to: one that is not allowed refuses
    /// the name, since a mixture is how an attacker gets past a check.
    ///
    /// # Errors
    /// [`EgressError::Address`] or [`EgressError::NoAddress`].
    pub fn check_resolved(
        &self,
        host: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), EgressError> {
        let mut any = false;
        for address in addresses {
            any = true;
            self.check_address(Some(host), address)?;
        }
        if any {
            Ok(())
        } else {
            Err(EgressError::NoAddress(host.to_owned()))
        }
    }

    fn check_address(&self, host: Option<&str>, address: IpAddr) -> Result<(), EgressError> {
        let host = host.unwrap_or_default();
        match special_kind(address) {
            Some(kind) if !self.is_exception(host, address, kind) => Err(EgressError::Address {
                host: host.to_owned(),
                address,
                kind,
            }),
            _ => Ok(()),
        }
    }

    fn is_exception(&self, host: &str, address: IpAddr, kind: &str) -> bool {
        let reached = reached(address);
        self.allow_private.iter().any(|exception| match exception {
            EgressException::Net(net) => net.contains(&address) || net.contains(&reached),
            EgressException::Host(name) => {
                !is_link_local(kind) && canonical(host).eq_ignore_ascii_case(name)
            }
        })
    }
}

/// Host and port of a URL, each host in one form only: what is decided about it must not depend on how it is written.
#[must_use]
pub fn destination(url: &Url) -> Option<(String, u16)> {
    let port = url.port_or_known_default()?;
    let host = match url.host()? {
        Host::Domain(name) => canonical(name).to_ascii_lowercase(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => reached(address.into()).to_string(),
    };
    Some((host, port))
}

/// A name without the dot of the root.
fn canonical(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}
