//! An agent package for a test.

use std::path::Path;

use rune_testkit::{ModelServer, Protocol};
use serde_json::{Map, Value, json};

/// A package that is written when it is loaded. Without providers the model is `offline`.
pub(crate) struct Bot {
    runefile: Map<String, Value>,
    files: Vec<(String, String)>,
}

/// An entry of `endpoints` for the server.
fn provider(server: &ModelServer, protocol: Protocol) -> Value {
    json!({
        "protocol": protocol,
        "base_url": server.base_url(protocol),
        "api_key": "key",
    })
}

impl Bot {
    pub(crate) fn new() -> Self {
        let runefile = json!({
            "name": "bot",
            "version": "0.1.0",
            "instructions": "Be brief.",
            "default_model": "main",
            "toolset": [],
            "models": {"providers": ["offline"], "model_mapping": {"main": "test-model"}},
        });
        let Value::Object(runefile) = runefile else {
            panic!("a Runefile is an object");
        };
        Self {
            runefile,
            files: Vec::new(),
        }
    }

    /// An agent whose models are these servers, in order of preference.
    pub(crate) fn on(servers: &[(&ModelServer, Protocol)]) -> Self {
        let mut endpoints = Map::new();
        for (index, (server, protocol)) in servers.iter().enumerate() {
            endpoints.insert(format!("p{index}"), provider(server, *protocol));
        }
        let providers: Vec<&String> = endpoints.keys().collect();
        let models = json!({
            "providers": providers,
            "endpoints": endpoints,
            "model_mapping": {"main": "test-model"},
        });
        Self::new().set("models", models)
    }

    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.runefile.insert(key.to_owned(), value);
        self
    }

    /// Sets a key below `models` or another map.
    pub(crate) fn set_in(mut self, map: &str, key: &str, value: Value) -> Self {
        let map = self.runefile.entry(map).or_insert_with(|| json!({}));
        map[key] = value;
        self
    }

    pub(crate) fn builtin(mut self, name: &str) -> Self {
        self.toolset(name);
        self
    }

    /// A tool in Python, or in shell where it does not begin with an import; `more` is added to its descriptor.
    pub(crate) fn tool(mut self, name: &str, more: &Value, program: &str) -> Self {
        let python = program.starts_with("import");
        let module = format!("tools/{name}.{}", if python { "py" } else { "sh" });
        let mut descriptor = json!({
            "name": name,
            "description": "A tool.",
            "runtime": "process",
            "module": module,
            "timeout_ms": 10_000,
            "input_schema": {"type": "object"},
        });
        for (key, value) in more.as_object().unwrap() {
            descriptor[key] = value.clone();
        }
        self.files
            .push((format!("tools/{name}.yaml"), descriptor.to_string()));
        self.files.push((module, program.to_owned()));
        self.toolset(name);
        self
    }

    /// The offline model's script.
    pub(crate) fn script(mut self, rules: &Value) -> Self {
        let script = json!({ "rules": rules });
        self.files
            .push(("script.yaml".to_owned(), script.to_string()));
        self
    }

    /// A tool that is the agent `target`; `more` is added to its descriptor.
    pub(crate) fn agent_tool(mut self, name: &str, target: &str, more: &Value) -> Self {
        let mut descriptor = json!({
            "name": name,
            "description": "Another agent.",
            "runtime": "agent",
            "agent_ref": target,
        });
        for (key, value) in more.as_object().unwrap() {
            descriptor[key] = value.clone();
        }
        self.files
            .push((format!("tools/{name}.yaml"), descriptor.to_string()));
        self.toolset(name);
        self
    }

    pub(crate) fn workflow(mut self, workflow: &Value) -> Self {
        self.files
            .push(("workflow.yaml".to_owned(), workflow.to_string()));
        self
    }

    /// Its `policy.cedar`.
    pub(crate) fn cedar(mut self, policies: &str) -> Self {
        self.files
            .push(("policy.cedar".to_owned(), policies.to_owned()));
        self
    }

    fn toolset(&mut self, name: &str) {
        if let Some(Value::Array(tools)) = self.runefile.get_mut("toolset") {
            tools.push(name.into());
        }
    }

    pub(crate) fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir.join("tools")).unwrap();
        let runefile = Value::Object(self.runefile.clone()).to_string();
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        for (path, text) in &self.files {
            std::fs::write(dir.join(path), text).unwrap();
        }
    }
}
