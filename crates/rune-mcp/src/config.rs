//! A server as it is connected to: every variable resolved, every value checked.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rune_spec::{McpServer, McpTransport, interpolate};
use rune_tools::EgressPolicy;
use url::Url;

use crate::error::McpError;
use crate::secrets::Secrets;

/// The variable that names the directory of the package, in `command`, `args` and `env`.
const PACKAGE_DIR: &str = "RUNE_PACKAGE_DIR";
/// The longest that a call takes where the Runefile does not describe the server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Networks that a configured server may be in, besides the public ones. Link-local addresses are not among them: the
/// metadata of a cloud is there.
const PRIVATE: [&str; 8] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fec0::/10",
];

/// One server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The name before the `/` of its tools.
    pub name: String,
    /// How it is reached.
    pub transport: Transport,
    /// Whether its agent cannot start without it.
    pub required: bool,
    /// The longest that a call may take.
    pub timeout: Duration,
    /// Whether its word on what its tools do counts.
    pub trust_annotations: bool,
    pub(crate) secrets: Secrets,
}

/// How a server is reached.
#[derive(Clone)]
pub enum Transport {
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: Url,
        /// Sent with each request.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// A child process.
    Stdio {
        /// The program: a name, or a path.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its variables, besides `PATH`, `HOME` and `LANG`.
        env: Vec<(String, String)>,
        /// The directory it runs in, which is its `HOME`.
        workspace: PathBuf,
    },
}

// By hand: headers, arguments and variables may be secrets.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target())
    }
}

impl Transport {
    /// What is reached, for a person: a URL without what may be a secret, or a program.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Http { url, .. } => {
                let mut url = url.clone();
                url.set_query(None);
                url.set_fragment(None);
                url.to_string()
            }
            Self::Stdio { command, .. } => command.clone(),
        }
    }

    /// `http` or `stdio`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Stdio { .. } => "stdio",
        }
    }
}

impl ServerConfig {
    /// The server of a Runefile. `url` is where the operator says that it is instead, `lookup` knows the variables.
    /// A process finds the package in `package` and runs in `workspace`.
    ///
    /// # Errors
    /// An [`McpError`] that names the field.
    pub fn resolve(
        server: &McpServer,
        url: Option<&str>,
        lookup: &dyn Fn(&str) -> Option<String>,
        package: &Path,
        workspace: &Path,
    ) -> Result<Self, McpError> {
        let name = &server.name;
        let place = |field: &str| format!("MCP server `{name}`: `{field}`");
        let found: RefCell<Secrets> = RefCell::default();
        let resolve = |text: &str, field: &str| {
            let lookup = |name: &str| {
                if name == PACKAGE_DIR {
                    return Some(package.to_string_lossy().into_owned());
                }
                let value = lookup(name)?;
                found.borrow_mut().add(&value);
                Some(value)
            };
            interpolate(text, &lookup).map_err(|source| McpError::Variable {
                place: place(field),
                source,
            })
        };
        let transport = match (&server.transport, url) {
            (
                McpTransport::Http {
                    url: given,
                    headers,
                },
                url,
            ) => {
                let url = match url {
                    Some(url) => url.to_owned(),
                    None => resolve(given, "url")?,
                };
                let url = endpoint(&url, &place("url"))?;
                // Where a server is, is no secret, and messages that hide it help nobody.
                let target = format!("{}{}", url.origin().ascii_serialization(), url.path());
                found.borrow_mut().retain(|value| !target.contains(value));
                let headers = headers.iter().map(|(key, text)| {
                    let place = place(&format!("headers.{key}"));
                    let value = resolve(text, &format!("headers.{key}"))?;
                    found.borrow_mut().add(&value);
                    if let Some((_, token)) = value.split_once(' ') {
                        found.borrow_mut().add(token);
                    }
                    header(key, &value, &place)
                });
                let headers = headers.collect::<Result<_, _>>()?;
                Transport::Http { url, headers }
            }
            (McpTransport::Stdio { .. }, Some(url)) => Transport::Http {
                url: endpoint(url, &place("url"))?,
                headers: Vec::new(),
            },
            (McpTransport::Stdio { command, args, env }, None) => {
                let args = args.iter().map(|arg| resolve(arg, "args"));
                let env = env.iter().map(|(key, text)| {
                    let value = resolve(text, &format!("env.{key}"))?;
                    Ok((key.clone(), value))
                });
                let command = resolve(command, "command")?;
                Transport::Stdio {
                    // A path is one of the package.
                    command: if command.contains('/') {
                        package.join(command).to_string_lossy().into_owned()
                    } else {
                        command
                    },
                    args: args.collect::<Result<_, _>>()?,
                    env: env.collect::<Result<_, McpError>>()?,
                    workspace: workspace.to_owned(),
                }
            }
        };
        Ok(Self {
            name: name.clone(),
            transport,
            required: server.required,
            timeout: server.timeout,
            trust_annotations: server.trust_annotations,
            secrets: found.into_inner(),
        })
    }

    /// A server that only the operator describes.
    ///
    /// # Errors
    /// An [`McpError`] where the URL is none that can be asked.
    pub fn of_url(name: &str, url: &str) -> Result<Self, McpError> {
        let url = endpoint(url, &format!("MCP server `{name}`: its URL"))?;
        Ok(Self {
            name: name.to_owned(),
            transport: Transport::Http {
                url,
                headers: Vec::new(),
            },
            required: false,
            timeout: DEFAULT_TIMEOUT,
            trust_annotations: false,
            secrets: Secrets::default(),
        })
    }
}

/// Where the HTTP client of a server may go.
pub(crate) fn egress() -> EgressPolicy {
    EgressPolicy {
        allow_private: PRIVATE.iter().filter_map(|net| net.parse().ok()).collect(),
        ports: Vec::new(),
    }
}

fn endpoint(text: &str, place: &str) -> Result<Url, McpError> {
    let wrong = |reason: String| McpError::Value {
        place: place.to_owned(),
        reason,
    };
    // The text may hold a secret.
    let url = Url::parse(text.trim()).map_err(|error| wrong(format!("not a URL: {error}")))?;
    egress()
        .check_url(&url)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(url)
}

fn header(name: &str, value: &str, place: &str) -> Result<(HeaderName, HeaderValue), McpError> {
    let wrong = |reason: &str| McpError::Value {
        place: place.to_owned(),
        reason: reason.to_owned(),
    };
    let name: HeaderName = name
        .parse()
        .map_err(|_| wrong("not the name of a header"))?;
    if name.as_str().starts_with("mcp-") {
        return Err(wrong("the protocol sets this header itself"));
    }
    let mut value =
        HeaderValue::from_str(value).map_err(|_| wrong("its value is none of a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn http(url: &str, header: &str) -> McpServer {
        McpServer {
            name: "s".to_owned(),
            transport: McpTransport::Http {
                url: url.to_owned(),
                headers: BTreeMap::from([("Authorization".to_owned(), header.to_owned())]),
            },
            required: false,
            timeout: Duration::from_secs(1),
            trust_annotations: false,
        }
    }

    fn resolve(server: &McpServer, url: Option<&str>) -> Result<ServerConfig, McpError> {
        let lookup = |name: &str| match name {
            "HOST" => Some("mcp.example.org".to_owned()),
            "TOKEN" => Some("s3cret-token".to_owned()),
            _ => None,
        };
        ServerConfig::resolve(server, url, &lookup, Path::new("/p"), Path::new("/w"))
    }

    #[test]
    fn resolves_variables_and_shows_no_secret() {
        let server = http("https://${HOST}/mcp?key=${TOKEN}", "Bearer ${TOKEN}");
        let config = resolve(&server, None).unwrap();
        assert_eq!(config.transport.target(), "https://mcp.example.org/mcp");
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
        let said = "no s3cret-token at https://mcp.example.org/mcp?key=s3cret-token";
        assert_eq!(
            config.secrets.redact(said),
            "no [redacted] at https://mcp.example.org/mcp?key=[redacted]"
        );
    }

    #[test]
    fn the_operators_url_wins() {
        let server = http("https://${MISSING}/mcp", "x");
        let config = resolve(&server, Some("http://127.0.0.1:1/mcp")).unwrap();
        assert_eq!(config.transport.target(), "http://127.0.0.1:1/mcp");
    }

    #[test]
    fn says_what_is_wrong_without_the_value() {
        for (url, header, expected) in [
            ("http://${MISSING}/", "x", "MISSING"),
            ("http://169.254.169.254/mcp", "x", "cloud metadata"),
            ("ftp://${HOST}/mcp", "x", "scheme `ftp`"),
            ("http://u:${TOKEN}@${HOST}/", "x", "user name or password"),
            ("http://${HOST}/", "a\nb", "none of a header"),
        ] {
            let error = resolve(&http(url, header), None).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_process_is_told_where_the_package_is() {
        let server = McpServer {
            transport: McpTransport::Stdio {
                command: "python3".to_owned(),
                args: vec!["${RUNE_PACKAGE_DIR}/server.py".to_owned()],
                env: BTreeMap::from([("KEY".to_owned(), "${TOKEN}".to_owned())]),
            },
            ..http("", "")
        };
        let config = resolve(&server, None).unwrap();
        let Transport::Stdio { args, env, .. } = &config.transport else {
            panic!("{config:?}");
        };
        assert_eq!(args, &["/p/server.py"]);
        assert_eq!(env, &[("KEY".to_owned(), "s3cret-token".to_owned())]);
        assert_eq!(config.secrets.redact("s3cret-token"), "[redacted]");
    }
}
