//! `/tool NAME {json}`.

use rune_spec::ScriptToolCall;
use serde_json::{Map, Value};

use crate::model::ToolDefinition;

const COMMAND: &str = "/tool";

/// The calls that `input` asks for, or what is wrong with it; `None` where it is no
/// command. Every line that begins with `/tool` is a call; its JSON may go on below it.
pub(super) fn commands(
    input: &str,
    tools: &[ToolDefinition],
) -> Option<Result<Vec<ScriptToolCall>, String>> {
    let mut commands: Vec<String> = Vec::new();
    for line in input.trim().lines() {
        match (command(line), commands.last_mut()) {
            (Some(rest), _) => commands.push(rest.to_owned()),
            (None, Some(last)) => {
                last.push('\n');
                last.push_str(line);
            }
            (None, None) => return None,
        }
    }
    (!commands.is_empty()).then(|| commands.iter().map(|text| call(text, tools)).collect())
}

/// What follows `/tool` on its line.
fn command(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix(COMMAND)?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some(rest)
}

fn call(text: &str, tools: &[ToolDefinition]) -> Result<ScriptToolCall, String> {
    let text = text.trim();
    let (name, json) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if name.is_empty() {
        return Err("Usage: /tool NAME {json}".to_owned());
    }
    let name = find(name, tools)?;
    let input = match json.trim() {
        "" => Map::new(),
        json => match serde_json::from_str(json) {
            Ok(Value::Object(input)) => input,
            Ok(_) => return Err(format!("The input of {name} is not a JSON object.")),
            Err(error) => return Err(format!("The input of {name} is not JSON: {error}.")),
        },
    };
    Ok(ScriptToolCall { name, input })
}

/// The model-visible name of the tool that the user calls `name`.
fn find(name: &str, tools: &[ToolDefinition]) -> Result<String, String> {
    let visible = name.replace(['@', '/'], "__");
    let found = tools
        .iter()
        .find(|tool| tool.name == name || tool.name == visible);
    match found {
        Some(tool) => Ok(tool.name.clone()),
        None if tools.is_empty() => Err(format!("There is no tool {name}: the agent has none.")),
        None => {
            let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
            Err(format!(
                "There is no tool {name}. The agent has: {}.",
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> Vec<ToolDefinition> {
        ["rune__file-read", "weather"]
            .map(|name| ToolDefinition {
                name: name.to_owned(),
                description: String::new(),
                input_schema: json!({"type": "object"}),
            })
            .into()
    }

    #[track_caller]
    fn check(input: &str, expected: &[&str]) {
        let calls = commands(input, &tools()).unwrap();
        let lines: Vec<_> = match calls {
            Ok(calls) => calls
                .iter()
                .map(|call| format!("{} {}", call.name, Value::from(call.input.clone())))
                .collect(),
            Err(problem) => vec![problem],
        };
        assert_eq!(lines, expected);
    }

    #[test]
    fn finds_a_tool_by_each_of_its_names() {
        let expected = ["rune__file-read {\"path\":\"a\"}"];
        check("/tool rune@file-read {\"path\": \"a\"}", &expected);
        check("/tool rune__file-read {\"path\":\n \"a\"}", &expected);
        check("/tool weather", &["weather {}"]);
    }

    #[test]
    fn calls_one_tool_per_command_line() {
        check(
            "/tool weather\n/tool rune@file-read {}",
            &["weather {}", "rune__file-read {}"],
        );
    }

    #[test]
    fn says_what_is_wrong() {
        check("/tool", &["Usage: /tool NAME {json}"]);
        check(
            "/tool nope",
            &["There is no tool nope. The agent has: rune__file-read, weather."],
        );
        check(
            "/tool weather 5",
            &["The input of weather is not a JSON object."],
        );
    }

    #[test]
    fn leaves_other_text_alone() {
        assert!(commands("hello", &tools()).is_none());
        assert!(commands("/toolbox", &tools()).is_none());
        assert!(commands("say\n/tool weather", &tools()).is_none());
    }
}
