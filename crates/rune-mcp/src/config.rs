//! A server as it is connected to: every variable resolved, every value checked, stored secrets named.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rune_spec::{Capability, McpServer, McpTransport, interpolate};
use rune_tools::{EgressPolicy, ProcessGrants, Secrets};
use url::Url;

use crate::client::McpClient;
use crate::error::McpError;
use crate::text::{Text, hidden};

/// The variable that names the directory of the package, in `command`, `args`, `env` and `capabilities`.
const PACKAGE_DIR: &str = "RUNE_PACKAGE_DIR";
/// The longest that a call takes where the Runefile does not describe the server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// The stored secrets that it is granted.
    pub(crate) secrets: Vec<Capability>,
    /// What variables hold that it is told.
    told: Told,
}

/// How a server is reached.
#[derive(Clone)]
pub enum Transport {
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: Url,
        /// Sent with each request.
        headers: Vec<(HeaderName, Text)>,
        /// Where it may be.
        egress: EgressPolicy,
    },
    /// A child process.
    Stdio {
        /// The program: a name, or a path.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its variables, besides `PATH`, `HOME`, `LANG` and those that it is granted.
        env: Vec<(String, Text)>,
        /// What it is granted.
        grants: Box<ProcessGrants>,
        /// The agent's workspace.
        workspace: PathBuf,
    },
}

/// Values that may be secrets.
#[derive(Clone, Default)]
struct Told(Vec<String>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
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
    /// The server of a Runefile; where `client` knows that the operator has it elsewhere, there. `lookup` knows the variables.
    /// A process finds the package in `package`, and the agent's files in `workspace` where it is granted them.
    ///
    /// # Errors
    /// An [`McpError`] that names the field.
    pub fn resolve(
        client: &McpClient,
        server: &McpServer,
        lookup: &dyn Fn(&str) -> Option<String>,
        package: &Path,
        workspace: &Path,
    ) -> Result<Self, McpError> {
        let name = &server.name;
        let place = |field: &str| format!("MCP server `{name}`: `{field}`");
        let secrets = server.capabilities.iter();
        let secrets = secrets.filter_map(|capability| match capability {
            Capability::Secret(name) => Some(name.clone()),
            _ => None,
        });
        let secrets: Vec<String> = secrets.collect();
        let told: RefCell<Vec<String>> = RefCell::default();
        let own = |name: &str| {
            let package = || package.to_string_lossy().into_owned();
            (name == PACKAGE_DIR).then(package).or_else(|| lookup(name))
        };
        let noted = |name: &str| {
            let value = own(name)?;
            if name != PACKAGE_DIR {
                told.borrow_mut().push(value.clone());
            }
            Some(value)
        };
        let variable = |field: &str| {
            let place = place(field);
            move |source| McpError::Variable { place, source }
        };
        let resolve = |text: &str, field: &str| interpolate(text, &noted).map_err(variable(field));
        let text =
            |raw: &str, field: &str| Text::resolve(raw, &noted, &secrets).map_err(variable(field));
        let operators = client.url(name);
        let transport = match (&server.transport, &operators) {
            (McpTransport::Http { url, headers }, operators) => {
                let mut egress = client.egress.clone();
                let url = match operators {
                    Some(url) => {
                        egress = egress.opened_for(url);
                        url.clone()
                    }
                    None => resolve(url, "url")?,
                };
                let url = endpoint(&url, &egress, &place("url"))?;
                // Where a server is, is no secret, and messages that hide it help nobody.
                let target = format!("{}{}", url.origin().ascii_serialization(), url.path());
                told.borrow_mut().retain(|value| !target.contains(value));
                let headers = headers.iter().map(|(key, raw)| {
                    let field = format!("headers.{key}");
                    let value = text(raw, &field)?;
                    let wrong = |reason: &str| McpError::Value {
                        place: place(&field),
                        reason: reason.to_owned(),
                    };
                    let name = header_name(key).map_err(wrong)?;
                    header_value(&value.with(&Secrets::default())).map_err(wrong)?;
                    Ok((name, value))
                });
                Transport::Http {
                    headers: headers.collect::<Result<_, McpError>>()?,
                    url,
                    egress,
                }
            }
            (McpTransport::Stdio { .. }, Some(url)) => {
                operators_transport(client, url, &place("url"))?
            }
            (
                McpTransport::Stdio {
                    command,
                    args,
                    env,
                    limits,
                },
                None,
            ) => {
                let args = args.iter().map(|arg| resolve(arg, "args"));
                let env = env.iter().map(|(key, raw)| {
                    let value = text(raw, &format!("env.{key}"))?;
                    Ok((key.clone(), value))
                });
                let command = resolve(command, "command")?;
                let grants = ProcessGrants::default()
                    .of_package(package)
                    .with_limits(limits)
                    .with_capabilities(&server.capabilities, own);
                let grants = grants.map_err(|error| McpError::Value {
                    place: place("capabilities"),
                    reason: error.message,
                })?;
                Transport::Stdio {
                    // A path is one of the package.
                    command: if command.contains('/') {
                        package.join(command).to_string_lossy().into_owned()
                    } else {
                        command
                    },
                    args: args.collect::<Result<_, _>>()?,
                    env: env.collect::<Result<_, McpError>>()?,
                    grants: Box::new(grants),
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
            secrets: secrets.into_iter().map(Capability::Secret).collect(),
            told: Told(told.into_inner()),
        })
    }

    /// A server that only the operator describes.
    ///
    /// # Errors
    /// An [`McpError`] where the URL is none that can be asked.
    pub fn of_url(client: &McpClient, name: &str, url: &str) -> Result<Self, McpError> {
        let place = format!("MCP server `{name}`: its URL");
        Ok(Self {
            name: name.to_owned(),
            transport: operators_transport(client, url, &place)?,
            required: false,
            timeout: DEFAULT_TIMEOUT,
            trust_annotations: false,
            secrets: Vec::new(),
            told: Told::default(),
        })
    }

    /// What must not leave of what the server is told, where it is granted these secrets.
    pub(crate) fn hidden(&self, granted: &Secrets) -> Secrets {
        let mut values = self.told.0.clone();
        if let Transport::Http { headers, .. } = &self.transport {
            for (_, text) in headers {
                let value = text.with(granted);
                values.extend(value.split_once(' ').map(|(_, token)| token.to_owned()));
                values.push(value);
            }
        }
        hidden(values.iter().map(String::as_str), granted)
    }
}

/// A server without headers where the operator says.
fn operators_transport(client: &McpClient, url: &str, place: &str) -> Result<Transport, McpError> {
    let egress = client.egress.clone().opened_for(url);
    Ok(Transport::Http {
        url: endpoint(url, &egress, place)?,
        headers: Vec::new(),
        egress,
    })
}

fn endpoint(text: &str, egress: &EgressPolicy, place: &str) -> Result<Url, McpError> {
    let wrong = |reason: String| McpError::Value {
        place: place.to_owned(),
        reason,
    };
    // The text may hold a secret.
    let url = Url::parse(text.trim()).map_err(|error| wrong(format!("not a URL: {error}")))?;
    egress
        .check_url(&url)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(url)
}

fn header_name(name: &str) -> Result<HeaderName, &'static str> {
    let name: HeaderName = name.parse().map_err(|_| "not the name of a header")?;
    if name.as_str().starts_with("mcp-") {
        return Err("the protocol sets this header itself");
    }
    Ok(name)
}

/// The value of a header, which may be a secret.
pub(crate) fn header_value(value: &str) -> Result<HeaderValue, &'static str> {
    let value = HeaderValue::from_str(value);
    let mut value = value.map_err(|_| "its value is none of a header")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rune_spec::Limits;
    use rune_tools::Launcher;
    use secrecy::SecretString;

    use super::*;

    fn http(url: &str, header: &str) -> McpServer {
        McpServer {
            name: "s".to_owned(),
            transport: McpTransport::Http {
                url: url.to_owned(),
                headers: BTreeMap::from([("Authorization".to_owned(), header.to_owned())]),
            },
            capabilities: Vec::new(),
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
        let url = url.map(str::to_owned);
        let client = McpClient::new("", Launcher::Direct, Arc::new(move |_| url.clone()));
        ServerConfig::resolve(&client, server, &lookup, Path::new("/p"), Path::new("/w"))
    }

    fn redact(config: &ServerConfig, granted: &Secrets, text: &str) -> String {
        config.hidden(granted).redact(text.to_owned())
    }

    #[test]
    fn resolves_variables_and_shows_no_secret() {
        let server = http("https://${HOST}/mcp?key=${TOKEN}", "Bearer ${TOKEN}");
        let config = resolve(&server, None).unwrap();
        assert_eq!(config.transport.target(), "https://mcp.example.org/mcp");
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
        let said = "no s3cret-token at https://mcp.example.org/mcp?key=s3cret-token";
        assert_eq!(
            redact(&config, &Secrets::default(), said),
            "no [redacted] at https://mcp.example.org/mcp?key=[redacted]"
        );
    }

    #[test]
    fn a_stored_secret_wins_over_a_variable_and_is_put_in_late() {
        let mut server = http("https://${HOST}/mcp", "Bearer ${TOKEN}");
        server.capabilities = vec![Capability::Secret("TOKEN".to_owned())];
        let config = resolve(&server, None).unwrap();
        let value = SecretString::from("stored-value");
        let granted = Secrets::new(vec![("TOKEN".to_owned(), value)]);
        let Transport::Http { headers, .. } = &config.transport else {
            panic!("{config:?}");
        };
        assert_eq!(headers[0].1.with(&granted), "Bearer stored-value");
        let said = redact(&config, &granted, "Bearer stored-value, or stored-value");
        assert_eq!(said, "[redacted], or [redacted]");
    }

    #[test]
    fn the_operators_url_wins_and_may_be_private() {
        let server = http("https://${MISSING}/mcp", "x");
        let config = resolve(&server, Some("http://127.0.0.1:1/mcp")).unwrap();
        assert_eq!(config.transport.target(), "http://127.0.0.1:1/mcp");
    }

    #[test]
    fn says_what_is_wrong_without_the_value() {
        let metadata = "http://169.254.169.254/mcp";
        for (url, operators, header, expected) in [
            ("http://${MISSING}/", None, "x", "MISSING"),
            ("http://127.0.0.1:1/", None, "x", "tools.allow_private"),
            ("http://10.0.0.1/", None, "x", "private"),
            (metadata, None, "x", "cloud metadata"),
            ("http://${HOST}/", Some(metadata), "x", "cloud metadata"),
            ("ftp://${HOST}/mcp", None, "x", "scheme `ftp`"),
            (
                "http://u:${TOKEN}@${HOST}/",
                None,
                "x",
                "user name or password",
            ),
            ("http://${HOST}/", None, "a\nb", "none of a header"),
        ] {
            let error = resolve(&http(url, header), operators).unwrap_err();
            let error = error.to_string();
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
                limits: Limits::default(),
            },
            ..http("", "")
        };
        let config = resolve(&server, None).unwrap();
        let Transport::Stdio { args, env, .. } = &config.transport else {
            panic!("{config:?}");
        };
        assert_eq!(args, &["/p/server.py"]);
        assert_eq!(env[0].0, "KEY");
        assert_eq!(env[0].1.with(&Secrets::default()), "s3cret-token");
        let said = redact(&config, &Secrets::default(), "s3cret-token");
        assert_eq!(said, "[redacted]");
    }
}
