//! Agents that are components, written for tests: the functions of their core modules in the world of
//! `rune-wasm/tests/guests/agent.wat`.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::readme::root;

/// Where the texts of a guest begin.
const TEXTS: usize = 8192;

/// Asks with the conversation and all tools, and has called what the model calls, until that answers: what the built-in
/// planner does.
pub(crate) const LOOP: &str = r#"
    (func (export "run") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (call $say (i32.const 1) (i32.const 0) (i32.const 0))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (loop $again
        (if (i32.eqz (call $question (i32.const 0))) (then (return (call $reply))))
        (if (i32.eqz (i32.load (i32.const 1128))) (then (return (call $reply))))
        (call $say (i32.const 4) (i32.load (i32.const 1112)) (i32.const 0))
        (call $call_all (i32.load (i32.const 1124)) (i32.load (i32.const 1128)) (i32.const 1160))
        (call $say (i32.const 5) (i32.load (i32.const 1160)) (i32.load (i32.const 1164)))
        (br $again))
      (unreachable))"#;

/// The text form of an agent's component with these functions.
pub(crate) fn component(body: &str) -> String {
    let guests = root().join("crates/rune-backend/rune-wasm/tests/guests");
    let world = std::fs::read_to_string(guests.join("agent.wat")).unwrap();
    let (before, after) = world.split_once("    BODY)\n").unwrap();
    format!("{before}{body})\n{after}")
}

/// The functions of a guest with texts of its own.
#[derive(Default)]
pub(crate) struct Guest {
    data: String,
    end: usize,
}

impl Guest {
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = TEXTS + self.end;
        let hex: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(self.data, "    (data (i32.const {at}) \"{hex}\")").unwrap();
        self.end += bytes.len().next_multiple_of(8);
        at
    }

    /// A text, as the two arguments that it is passed as.
    pub(crate) fn text(&mut self, text: &str) -> String {
        let at = self.put(text.as_bytes());
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    /// A list of calls, as the two arguments that it is passed as.
    pub(crate) fn calls(&mut self, calls: &[(&str, &str)]) -> String {
        let mut list = Vec::new();
        for (name, input) in calls {
            for text in ["", name, input] {
                let at = self.put(text.as_bytes());
                for word in [at, text.len()] {
                    list.extend(u32::try_from(word).unwrap().to_le_bytes());
                }
            }
        }
        let at = self.put(&list);
        format!("(i32.const {at}) (i32.const {})", calls.len())
    }

    /// The component whose `run` is this.
    pub(crate) fn run(self, code: &str) -> String {
        component(&format!(
            "{}    (func (export \"run\") (param $id i32) (param $id_length i32) (param $session i32) (param \
             $session_length i32) (param $input i32) (param $input_length i32) (param $text i32) (param $text_length \
             i32) (result i32)\n      {code})",
            self.data
        ))
    }
}

/// Writes an agent that is a component, with the offline model where `extra` has no `models`.
pub(crate) fn write(home: &Path, name: &str, wat: &str, toolset: &[&str], extra: &str) {
    let dir = home.join(name);
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let models = match extra.contains("models:") {
        true => "",
        false => "models: {providers: [offline], model_mapping: {default: offline}}\n",
    };
    let toolset = json!([toolset, &["rune@memory-store", "rune@memory-recall"]].concat());
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\nentrypoint: agent.wat\n\
         toolset: {toolset}\n{models}{extra}"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("agent.wat"), wat).unwrap();
}
