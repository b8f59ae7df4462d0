//! Agents that call the tools they are told to, and agents without models.

use std::time::Duration;

use rune_runtime::Agent;
use rune_runtime::model::OFFLINE_PROVIDER;
use rune_spec::{
    AgentPackage, Budget, CheckpointPolicy, MemoryProfile, ToolRef, ToolRuntime, is_media_tool,
};
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// Beside a tool's own time, what a request that calls it may take.
const AROUND_A_CALL: Duration = Duration::from_secs(60);

/// The package with the offline model, whatever its Runefile says of models.
pub(crate) fn offline(mut package: AgentPackage) -> AgentPackage {
    let models = &mut package.runefile.models;
    models.providers = vec![OFFLINE_PROVIDER.to_owned()];
    models.endpoints.clear();
    package
}

/// The package for calling the tool `name` ([`call`]), with nothing in the way of that but policy, sandbox and the tool's own
/// limits. A tool that asks models has those of the agent, under the agent's limit of their cost; for any other, models and
/// their keys do not matter.
pub(crate) fn caller(package: AgentPackage, name: &str) -> AgentPackage {
    let asks_models = package.tools.iter().any(|tool| {
        let is_called = tool.visible_name == name || tool.reference.to_string() == name;
        is_called && matches!(&tool.reference, ToolRef::Builtin(name) if is_media_tool(name))
    });
    let mut package = if asks_models {
        package
    } else {
        offline(package)
    };
    let longest = longest_call(&package);
    package.script = None;
    package.workflow = None;
    "Call the tool.".clone_into(&mut package.instructions);
    let runefile = &mut package.runefile;
    runefile.entrypoint = None;
    runefile.input_schema = None;
    runefile.output_schema = None;
    runefile.budget = Budget {
        cost_usd: runefile.budget.cost_usd,
        ..Budget::default()
    };
    runefile.memory_profile = MemoryProfile::Minimal;
    runefile.max_steps = runefile.max_steps.max(2);
    runefile.timeout = runefile.timeout.max(longest + AROUND_A_CALL);
    runefile.models.token_budget = u64::MAX;
    runefile.runtime.checkpoint_policy = CheckpointPolicy::EachStep;
    // The model has to see the tool.
    runefile.tool_search.enabled = false;
    package
}

/// The longest that a call of one of the tools may take, retries included. Agents that are called have limits of their own.
fn longest_call(package: &AgentPackage) -> Duration {
    let tools = package.tools.iter().map(|tool| &tool.descriptor);
    let tools = tools.filter(|tool| !matches!(tool.runtime, ToolRuntime::Agent { .. }));
    let tools = tools.map(rune_spec::ToolDescriptor::longest_call);
    let servers = package.runefile.mcp_servers.iter();
    let servers = servers.map(|server| server.timeout);
    tools.chain(servers).max().unwrap_or_default()
}

/// The input with which an agent of [`caller`] calls the tool of this model-visible name.
pub(crate) fn call(tool: &str, input: &Value) -> Value {
    format!("/tool {tool} {input}").into()
}

/// The model-visible name of the tool that somebody names so, or as in the toolset.
pub(crate) fn tool_named(agent: &Agent, name: &str) -> Outcome<String> {
    let mut tools = agent.tools();
    if let Some((visible, _)) = tools.find(|(visible, tool)| *visible == name || tool.name == name)
    {
        return Ok(visible.to_owned());
    }
    let names: Vec<&str> = agent.tools().map(|(_, tool)| tool.name.as_str()).collect();
    let help = rune_spec::nearest(name, names.iter().copied()).map_or_else(
        || format!("its tools are: {}", names.join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    let message = format!("the agent has no tool `{name}` in its toolset");
    Err(Failure::usage(message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(runefile: &str, tools: &[(&str, &str)]) -> AgentPackage {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let head = "name: a\nversion: 0.1.0\ninstructions: Hi.\ndefault_model: m\n";
        write("Runefile", &format!("{head}{runefile}"));
        for (name, text) in tools {
            write(&format!("tools/{name}"), text);
        }
        AgentPackage::load(dir.path()).unwrap()
    }

    #[test]
    fn a_call_has_time_for_all_of_its_attempts() {
        let tool = "name: slow\ndescription: Slow.\nmodule: tools/slow.sh\ntimeout_ms: 400000\nretry_policy: {max_attempts: 3, backoff_ms: 10}\n";
        let package = package(
            "toolset: [slow]\n",
            &[("slow.yaml", tool), ("slow.sh", "exit 1\n")],
        );
        let timeout = caller(package, "slow").runefile.timeout;
        assert!(timeout > Duration::from_secs(3 * 400), "{timeout:?}");
        assert!(timeout < Duration::from_secs(3 * 400 + 120), "{timeout:?}");
    }

    #[test]
    fn a_called_agent_does_not_stretch_a_call_to_its_year() {
        let ask = "name: ask\ndescription: Asks.\nruntime: agent\nagent_ref: local://other\n";
        let package = package("toolset: [ask]\ntimeout_ms: 700000\n", &[("ask.yaml", ask)]);
        let timeout = caller(package, "ask").runefile.timeout;
        assert_eq!(timeout, Duration::from_secs(700));
    }

    #[test]
    fn only_a_tool_that_asks_models_has_those_of_the_agent() {
        let package = package(
            "toolset: [rune@image-analyze, rune@system-time]\nmodels: {providers: [openai]}\nbudget: {cost_usd: 1, tokens: 10}\n",
            &[],
        );
        for name in ["rune@image-analyze", "rune__image-analyze"] {
            let asking = caller(package.clone(), name).runefile;
            assert_eq!(asking.models.providers, ["openai"]);
            assert_eq!(asking.budget.cost_usd, Some(1.0));
            assert_eq!(asking.budget.tokens, None);
        }
        let other = caller(package, "rune@system-time").runefile;
        assert_eq!(other.models.providers, [OFFLINE_PROVIDER]);
    }
}
