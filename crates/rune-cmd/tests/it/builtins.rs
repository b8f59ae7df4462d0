//! Built-in tools as agents of a daemon use them: called through the gateway, looked at from outside.

mod agents;
mod browser;
mod canvas;
mod channels;
mod events;
mod files;
mod knowledge;
mod location;
mod media;
mod memory;
mod processes;
mod schedules;
mod tasks;
mod web;

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, Events};

/// A daemon whose agents have built-in tools; the offline model calls what it is told to.
struct Rig {
    served: Served,
    api: Api,
}

impl Rig {
    async fn start() -> Self {
        let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
        let api = Api::of(&served.0);
        Self { served, api }
    }

    /// Deploys an agent with these tools; `more` is Runefile text.
    fn deploy(&self, name: &str, tools: &[&str], more: &str) {
        let dir = self.served.0.home().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let tools: Vec<String> = tools.iter().map(|tool| format!("rune@{tool}")).collect();
        let runefile = format!(
            "name: {name}\nversion: 0.1.0\ndescription: The agent {name}.\ninstructions: Answer.\n\
             default_model: default\ntoolset: {}\n\
             models: {{providers: [offline], model_mapping: {{default: offline}}}}\n{more}",
            json!(tools)
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        self.served.rune(&["run", name]).ok();
    }

    /// What a tool of an agent answers, in a session where one is named.
    async fn try_call_in(
        &self,
        session: Option<&str>,
        agent: &str,
        tool: &str,
        input: Value,
    ) -> Result<Value, String> {
        let mut body = json!({"input": format!("/tool rune@{tool} {input}"), "stream": true});
        if let Some(session) = session {
            body["session_id"] = session.into();
        }
        let response = self.api.invoke(agent, &body).send().await.unwrap();
        let events = Events::of(response).rest().await;
        let done = events.iter().find(|event| event.name == "tool_done");
        assert!(done.is_some(), "{tool} was not called: {events:?}");
        let done = done.unwrap();
        match done.data.get("error").filter(|error| !error.is_null()) {
            Some(error) => Err(error.to_string()),
            None => Ok(done.data["output"].clone()),
        }
    }

    async fn try_call(&self, agent: &str, tool: &str, input: Value) -> Result<Value, String> {
        self.try_call_in(None, agent, tool, input).await
    }

    /// What a tool answers that must work.
    async fn call(&self, agent: &str, tool: &str, input: Value) -> Value {
        let shown = input.to_string();
        let answer = self.try_call(agent, tool, input).await;
        assert!(answer.is_ok(), "{tool} {shown}: {answer:?}");
        answer.unwrap()
    }
}
