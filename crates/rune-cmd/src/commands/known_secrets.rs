//! Values that do not belong into a file that is committed: cassettes, golden files.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rune_spec::{AgentPackage, Capability, McpTransport, interpolate};

use crate::context::Context;

/// Variables that hold keys.
const SECRET_VARIABLES: [&str; 9] = [
    "ANTHROPIC_API_KEY",
    "CLAUDE_API_KEY",
    "COPILOT_TOKEN",
    "GEMINI_API_KEY",
    "GITHUB_TOKEN",
    "OPENAI_API_KEY",
    "RUNE_API_KEY",
    "RUNE_JWT_SECRET",
    "RUNE_WEBHOOK_SECRET",
];

/// Shortest value that counts as a secret, in bytes; a shorter one would be found everywhere.
const MIN_SECRET_BYTES: usize = 8;

/// The secrets that are known here: forms in which a text can hold them, with the names of the variables that do.
pub(crate) struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// The keys of providers, what tools and MCP servers of the agents are granted as `env`, what the servers are told of
    /// variables besides, the keys of their endpoints, and every variable of `given`, which somebody has set for this command.
    /// What is granted as `secret` is taken out of what tools and servers say before anybody sees it.
    pub(crate) fn of(
        context: &Context,
        packages: &[&AgentPackage],
        given: &BTreeMap<String, String>,
    ) -> Self {
        let mut names: BTreeSet<String> = SECRET_VARIABLES.map(str::to_owned).into();
        names.extend(packages.iter().flat_map(|package| granted(package)));
        let from_here = names.into_iter().filter_map(|name| {
            let value = context.config.variable(&name)?;
            Some((name, value))
        });
        Self::new(from_here.chain(given.clone()))
    }

    /// These values, by the names of their variables.
    pub(crate) fn new(values: impl IntoIterator<Item = (String, String)>) -> Self {
        let long = values
            .into_iter()
            .filter(|(_, value)| value.len() >= MIN_SECRET_BYTES);
        let forms = long.flat_map(|(name, value)| {
            let quoted = serde_json::to_string(&value).unwrap_or_default();
            let inner = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
            let escaped = inner.filter(|escaped| *escaped != value);
            let escaped = escaped.map(|escaped| (name.clone(), escaped.to_owned()));
            std::iter::once((name, value)).chain(escaped)
        });
        Self(forms.collect())
    }

    /// The name of the first of them that is in the text, as it is or as JSON writes it.
    pub(crate) fn found_in(&self, text: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(_, value)| text.contains(value));
        found.next().map(|(name, _)| name.as_str())
    }
}

/// The variables with which an agent is trusted.
fn granted(package: &AgentPackage) -> BTreeSet<String> {
    let tools = package.tools.iter();
    let tools = tools.flat_map(|tool| &tool.descriptor.capabilities);
    let servers = &package.runefile.mcp_servers;
    let capabilities = tools.chain(servers.iter().flat_map(|server| &server.capabilities));
    let granted = capabilities.filter_map(|capability| match capability {
        Capability::Env(name) => Some(name.clone()),
        _ => None,
    });
    let named = RefCell::new(granted.collect::<BTreeSet<_>>());
    let endpoints = package.runefile.models.endpoints.values();
    let keys = endpoints.filter_map(|endpoint| endpoint.api_key.as_deref());
    // What else a server is told is no secret: it is shown where the server is.
    let told = servers.iter().flat_map(|server| match &server.transport {
        McpTransport::Http { headers, .. } => headers.values(),
        McpTransport::Stdio { env, .. } => env.values(),
    });
    for text in keys.chain(told.map(String::as_str)) {
        let note = |name: &str| {
            named.borrow_mut().insert(name.to_owned());
            Some(String::new())
        };
        // What it comes to is of no interest here.
        let _ = interpolate(text, &note);
    }
    named.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_and_endpoints_are_trusted_with_counts() {
        let dir = tempfile::tempdir().unwrap();
        let runefile = "name: a\nversion: 0.1.0\ninstructions: x\ndefault_model: default\ntoolset: [files/*, web/*]\n\
            models: {providers: [offline], model_mapping: {default: offline}}\nmcp_servers:\n\
            - {name: files, command: cat, capabilities: [\"env:GRANTED\"], env: {A: \"${TOLD}\"}}\n\
            - {name: web, url: \"https://example.org/\", headers: {Authorization: \"Bearer ${HEADER}\"}}\n";
        std::fs::write(dir.path().join("Runefile"), runefile).unwrap();
        let package = AgentPackage::load(dir.path()).unwrap();
        let names: Vec<String> = granted(&package).into_iter().collect();
        assert_eq!(names, ["GRANTED", "HEADER", "TOLD"]);
    }

    #[test]
    fn a_secret_is_found_as_it_is_and_as_json_writes_it() {
        let value = "first\n\"second\"";
        let secrets = Secrets::new([
            ("KEY".to_owned(), value.to_owned()),
            ("SHORT".to_owned(), "abc".to_owned()),
        ]);
        assert_eq!(secrets.found_in(&format!("a {value} b")), Some("KEY"));
        let json = serde_json::json!({ "said": value }).to_string();
        assert_eq!(secrets.found_in(&json), Some("KEY"));
        assert_eq!(secrets.found_in("abc first second"), None);
    }
}
