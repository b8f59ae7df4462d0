//! Whether an agent opens connections of its own.

use rune_spec::{AgentPackage, AgentRef, Capability, McpTransport, ToolRuntime};

use super::Agent;

impl Agent {
    /// Whether anything of it has a use for a network where its loop runs: a model of a provider, a tool or a server that is
    /// granted one, a server at a URL, an agent of another installation. What the daemon does for it is not counted: calls
    /// of agents that are deployed here, and tools in containers.
    #[must_use]
    pub fn reaches_out(&self) -> bool {
        !self.models_config.is_offline() || of_package(&self.package)
    }
}

fn of_package(package: &AgentPackage) -> bool {
    let granted = |capabilities: &[Capability]| {
        let mut capabilities = capabilities.iter();
        capabilities.any(|it| matches!(it, Capability::AnyNetwork | Capability::Network { .. }))
    };
    let mut tools = package.tools.iter().map(|tool| &tool.descriptor);
    let by_tool = tools.any(|tool| match &tool.runtime {
        ToolRuntime::Agent { agent_ref, .. } => is_elsewhere(agent_ref),
        ToolRuntime::Container { .. } => false,
        ToolRuntime::Process { .. }
        | ToolRuntime::Wasm { .. }
        | ToolRuntime::Builtin
        | ToolRuntime::Mcp { .. } => granted(&tool.capabilities),
    });
    let mut servers = package.runefile.mcp_servers.iter();
    let by_server = servers.any(|server| match &server.transport {
        McpTransport::Http { .. } => true,
        McpTransport::Stdio { .. } => granted(&server.capabilities),
    });
    let mut steps = package.workflow.iter().flat_map(|flow| &flow.steps);
    by_tool || by_server || steps.any(|step| is_elsewhere(&step.agent_ref))
}

const fn is_elsewhere(agent: &AgentRef) -> bool {
    matches!(agent, AgentRef::Url(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package whose Runefile has this in it, with the files `tools/NAME.yaml`.
    fn package(more: &str, tools: &[(&str, &str)]) -> AgentPackage {
        let dir = tempfile::tempdir().unwrap();
        let runefile = format!(
            "name: a\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\nmodels:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n{more}"
        );
        std::fs::write(dir.path().join("Runefile"), runefile).unwrap();
        std::fs::create_dir(dir.path().join("tools")).unwrap();
        for (name, yaml) in tools {
            let yaml = format!("name: {name}\ndescription: A tool.\n{yaml}");
            std::fs::write(dir.path().join(format!("tools/{name}.yaml")), yaml).unwrap();
            std::fs::write(dir.path().join(format!("tools/{name}.sh")), "").unwrap();
        }
        AgentPackage::load(dir.path()).unwrap()
    }

    #[test]
    fn what_is_granted_a_network_has_a_use_for_one() {
        let process = |grant: &str| format!("module: tools/t.sh\ncapabilities: [{grant}]\n");
        for (more, tool, expected) in [
            (
                "toolset: [rune@memory-store, rune@shell-exec]\n",
                None,
                false,
            ),
            ("toolset: [rune@web-fetch]\n", None, true),
            ("toolset: [t]\n", Some(process("filesystem")), false),
            (
                "toolset: [t]\n",
                Some(process("\"network:example.org\"")),
                true,
            ),
            ("toolset: [t]\n", Some(process("network")), true),
            // The daemon runs it.
            (
                "toolset: [t]\n",
                Some("runtime: container\nimage: i:1\ncapabilities: [network]\n".to_owned()),
                false,
            ),
            (
                "mcp_servers: [{name: s, url: \"http://localhost/mcp\"}]\n",
                None,
                true,
            ),
            ("mcp_servers: [{name: s, command: cat}]\n", None, false),
            (
                "mcp_servers: [{name: s, command: cat, capabilities: [network]}]\n",
                None,
                true,
            ),
        ] {
            let tools: Vec<_> = tool.iter().map(|yaml| ("t", yaml.as_str())).collect();
            assert_eq!(
                of_package(&package(more, &tools)),
                expected,
                "{more}{tool:?}"
            );
        }
    }
}
