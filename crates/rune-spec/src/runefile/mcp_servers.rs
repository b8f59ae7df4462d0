//! `mcp_servers`: servers that are reached, and servers that are started.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::document::McpServerDocument;
use super::{McpServer, McpTransport};
use crate::capability::Capability;
use crate::checker::Checker;
use crate::document::At;
use crate::interpolate::interpolate;
use crate::name::tool_name;
use crate::tool::Limits;

/// Most entries of `mcp_servers`.
const MAX_SERVERS: usize = 64;
/// Most entries of `capabilities` of one.
const MAX_CAPABILITIES: usize = 1000;

pub(super) fn validate(
    checker: &mut Checker<'_>,
    documents: Vec<McpServerDocument>,
) -> Vec<McpServer> {
    let mut seen = BTreeSet::new();
    let mut servers = Vec::new();
    if !checker.at_most(&At::top("mcp_servers"), documents.len(), MAX_SERVERS) {
        return servers;
    }
    for (index, server) in documents.into_iter().enumerate() {
        let at = At::top("mcp_servers").index(index);
        if tool_name(&server.name).is_err() {
            checker.error(
                &at.field("name"),
                format!(
                    "server name `{}` must be letters, digits, `_` and `-`",
                    server.name
                ),
            );
        }
        if !seen.insert(server.name.clone()) {
            checker.error(
                &at.field("name"),
                format!("MCP server `{}` is defined twice", server.name),
            );
        }
        let timeout = checker.millis(&at.field("timeout_ms"), server.timeout_ms);
        let is_reached = server.url.is_some();
        let capabilities = capabilities(checker, &at, &server.capabilities, is_reached);
        let (name, required) = (server.name.clone(), server.required);
        let trust_annotations = server.trust_annotations;
        let Some(transport) = transport(checker, &at, server) else {
            continue;
        };
        shows_no_secret(checker, &at, &transport, &capabilities);
        servers.push(McpServer {
            name,
            transport,
            capabilities,
            required,
            timeout,
            trust_annotations,
        });
    }
    servers
}

fn capabilities(
    checker: &mut Checker<'_>,
    at: &At,
    texts: &[String],
    is_reached: bool,
) -> Vec<Capability> {
    let at = at.field("capabilities");
    let mut capabilities = Vec::new();
    if !checker.at_most(&at, texts.len(), MAX_CAPABILITIES) {
        return capabilities;
    }
    for (index, text) in texts.iter().enumerate() {
        let at = at.index(index);
        let Some(capability) = checker.take(&at, text.parse()) else {
            continue;
        };
        if is_reached && !matches!(capability, Capability::Secret(_)) {
            checker.error_with_help(
                &at,
                format!("`{text}` goes with `command`, not with `url`"),
                Some(
                    "a server that is reached is granted `secret:NAME` and nothing else".to_owned(),
                ),
            );
        }
        capabilities.push(capability);
    }
    capabilities
}

fn transport(
    checker: &mut Checker<'_>,
    at: &At,
    server: McpServerDocument,
) -> Option<McpTransport> {
    match (server.url, server.command) {
        (Some(url), None) => {
            for (name, given) in [
                ("args", server.args.is_some()),
                ("env", server.env.is_some()),
                ("limits", server.limits.is_some()),
            ] {
                if given {
                    checker.error(
                        &at.field(name).key(),
                        format!("`{name}` goes with `command`, not with `url`"),
                    );
                }
            }
            if !["http://", "https://", "${"]
                .iter()
                .any(|prefix| url.starts_with(prefix))
            {
                checker.error(&at.field("url"), format!("`{url}` is not an http(s) URL"));
            }
            Some(McpTransport::Http {
                url,
                headers: server.headers.unwrap_or_default(),
            })
        }
        (None, Some(command)) => {
            if server.headers.is_some() {
                checker.error(
                    &at.field("headers").key(),
                    "`headers` goes with `url`, not with `command`",
                );
            }
            let env = server.env.unwrap_or_default();
            let limits = server.limits.unwrap_or_default();
            checker.filled(&at.field("command"), "`command`", &command);
            checker.variables(&at.field("env"), env.keys());
            Some(McpTransport::Stdio {
                command,
                args: server.args.unwrap_or_default(),
                env,
                limits: Limits {
                    memory_mb: limits.memory_mb,
                    cpu_ms: limits.cpu_ms,
                    processes: limits.processes,
                    ..Limits::default()
                },
            })
        }
        (url, _) => {
            let message = if url.is_some() {
                "`url` and `command` exclude each other"
            } else {
                "an MCP server needs `url` or `command`"
            };
            checker.error(at, message);
            None
        }
    }
}

/// Where a server is and how it is started is shown to people, and to other users of the machine.
fn shows_no_secret(
    checker: &mut Checker<'_>,
    at: &At,
    transport: &McpTransport,
    capabilities: &[Capability],
) {
    let (texts, place): (Vec<(At, &String)>, _) = match transport {
        McpTransport::Http { url, .. } => (vec![(at.field("url"), url)], "headers"),
        McpTransport::Stdio { command, args, .. } => {
            let args = args.iter().enumerate();
            let args = args.map(|(index, arg)| (at.field("args").index(index), arg));
            let command = (at.field("command"), command);
            (args.chain([command]).collect(), "env")
        }
    };
    for (at, text) in texts {
        for name in references(text) {
            if capabilities.contains(&Capability::Secret(name.clone())) {
                checker.error_with_help(
                    &at,
                    format!("secret `{name}` would be seen here"),
                    Some(format!("`${{{name}}}` can stand in `{place}`")),
                );
            }
        }
    }
}

/// The variables that a text names.
fn references(text: &str) -> Vec<String> {
    let names = RefCell::default();
    // An empty value has a default looked at, too.
    let note = |name: &str| {
        let mut names: std::cell::RefMut<'_, Vec<String>> = names.borrow_mut();
        names.push(name.to_owned());
        Some(String::new())
    };
    // Every variable has a value.
    let _ = interpolate(text, &note);
    names.into_inner()
}
