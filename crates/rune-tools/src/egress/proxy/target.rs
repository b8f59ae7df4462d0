//! What a request to a proxy asks for.

use url::Url;

/// Where a request to a proxy leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyTarget {
    /// Scheme `http`; of a tunnel only host and port count.
    pub url: Url,
    /// Whether everything behind the request is passed on as it is.
    pub is_tunnel: bool,
}

impl ProxyTarget {
    /// Path and query, as the server is asked for them.
    #[must_use]
    pub fn origin(&self) -> String {
        let path = self.url.path();
        match self.url.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// The header `host` of the server.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// Where a request with this method and target leads: `CONNECT` to an authority, anything else to a whole `http` URL.
///
/// # Errors
/// A sentence for the client.
pub fn parse_proxy_target(method: &str, target: &str) -> Result<ProxyTarget, &'static str> {
    if method == "CONNECT" {
        return Ok(ProxyTarget {
            url: authority(target).ok_or("CONNECT takes HOST:PORT")?,
            is_tunnel: true,
        });
    }
    let url = Url::parse(target).map_err(|_| "a proxy takes a whole URL, or CONNECT")?;
    if url.scheme() != "http" {
        return Err("other schemes than http take CONNECT");
    }
    // The root of all names is none.
    if url.host_str().is_none_or(|host| host == ".") {
        return Err("it names no host");
    }
    Ok(ProxyTarget {
        url,
        is_tunnel: false,
    })
}

fn authority(text: &str) -> Option<Url> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let port = text.rsplit_once(':')?.1;
    port.parse::<u16>().ok()?;
    text.chars()
        .all(is_plain)
        .then(|| Url::parse(&format!("http://{text}/")).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination;

    #[test]
    fn a_request_is_for_what_its_url_names() {
        let url = "http://example.org:8080/a%20b?q=1#fragment";
        let target = parse_proxy_target("GET", url).unwrap();
        assert!(!target.is_tunnel);
        assert_eq!(target.origin(), "/a%20b?q=1");
        assert_eq!(target.host(), "example.org:8080");
        let target = parse_proxy_target("POST", "http://[::1]").unwrap();
        assert_eq!(
            (target.origin(), target.host()),
            ("/".into(), "[::1]".into())
        );
    }

    #[test]
    fn a_tunnel_leads_to_a_host_and_a_port() {
        for (text, expected) in [
            ("example.org:443", Some(("example.org", 443))),
            ("example.org:80", Some(("example.org", 80))),
            ("[::1]:443", Some(("::1", 443))),
            ("0x7f.1:443", Some(("127.0.0.1", 443))),
            ("example.org", None),
            ("user@example.org:443", None),
            ("example.org:443/path", None),
            ("example.org:99999", None),
        ] {
            let target = parse_proxy_target("CONNECT", text).ok();
            let found = target.and_then(|target| destination(&target.url));
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_leads_nowhere() {
        for target in [
            "/",
            "https://example.org/",
            "file:///etc/passwd",
            "http://./",
            "",
        ] {
            assert!(parse_proxy_target("GET", target).is_err(), "{target}");
        }
    }
}
