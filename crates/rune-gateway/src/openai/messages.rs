//! Messages and items of OpenAI's API as a conversation.

use rune_http::ApiError;
use rune_store_runtime::ApprovalId;
use serde_json::{Value, json};

use crate::conversation::{Speaker, Turn, image_part, text_part};

/// The turns of `messages` of a chat completion.
pub(crate) fn chat_turns(messages: &[Value]) -> Result<Vec<Turn>, ApiError> {
    let mut turns = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let at = format!("messages[{n}]");
        chat_turn(message, &at, &mut turns).map_err(|error| error.of_param("messages"))?;
    }
    Ok(turns)
}

fn chat_turn(message: &Value, at: &str, turns: &mut Vec<Turn>) -> Result<(), ApiError> {
    let speaker = speaker(&message["role"], at)?;
    let mut parts = parts(&message["content"], speaker == Speaker::User, at)?;
    if speaker == Speaker::Assistant {
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let called = &call["function"];
            parts.push(call_part(&called["name"], &called["arguments"]));
        }
    }
    if speaker == Speaker::User && parts.is_empty() {
        return Err(ApiError::invalid(format!("`{at}.content` is empty")));
    }
    turns.push(Turn { speaker, parts });
    Ok(())
}

/// What `input` of a response is.
#[derive(Debug, Default)]
pub(crate) struct ResponseInput {
    pub(crate) turns: Vec<Turn>,
    /// Answers to questions that an earlier response put.
    pub(crate) decisions: Vec<Decision>,
}

/// What a client says to a question about a tool call.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) approval_id: ApprovalId,
    pub(crate) approve: bool,
    pub(crate) note: Option<String>,
}

/// Reads `input` of a response.
pub(crate) fn response_input(input: &Value) -> Result<ResponseInput, ApiError> {
    let mut read = ResponseInput::default();
    match input {
        Value::String(text) => read.turns.push(Turn::text(Speaker::User, text)),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let at = format!("input[{n}]");
                response_item(item, &at, &mut read).map_err(|error| error.of_param("input"))?;
            }
        }
        _ => {
            let error = ApiError::invalid("`input` is a text or a list of items");
            return Err(error.of_param("input"));
        }
    }
    Ok(read)
}

fn response_item(item: &Value, at: &str, read: &mut ResponseInput) -> Result<(), ApiError> {
    match item["type"].as_str() {
        None | Some("message") => chat_turn(item, at, &mut read.turns),
        Some("function_call" | "mcp_call" | "custom_tool_call") => {
            let mut parts = vec![call_part(&item["name"], &item["arguments"])];
            if let Some(output) = item["output"].as_str() {
                parts.push(text_part(&format!("It answered: {output}")));
            }
            read.turns.push(Turn {
                speaker: Speaker::Assistant,
                parts,
            });
            Ok(())
        }
        Some("function_call_output" | "custom_tool_call_output") => {
            let parts = parts(&item["output"], true, at)?;
            read.turns.push(Turn {
                speaker: Speaker::Tool,
                parts,
            });
            Ok(())
        }
        Some("mcp_approval_response") => {
            let id = item["approval_request_id"].as_str().unwrap_or_default();
            let approve = item["approve"].as_bool();
            let approve = approve.ok_or_else(|| {
                ApiError::invalid(format!("`{at}.approve` has to be true or false"))
            })?;
            read.decisions.push(Decision {
                approval_id: id.parse().map_err(ApiError::from)?,
                approve,
                note: item["reason"].as_str().map(str::to_owned),
            });
            Ok(())
        }
        // What a client sends back of earlier output, and what says nothing here.
        Some("reasoning" | "mcp_approval_request" | "mcp_list_tools") => Ok(()),
        Some(other) => Err(unsupported(other, &format!("{at}.type"))),
    }
}

fn speaker(role: &Value, at: &str) -> Result<Speaker, ApiError> {
    match role.as_str() {
        Some("system" | "developer") => Ok(Speaker::Client),
        Some("user") => Ok(Speaker::User),
        Some("assistant") => Ok(Speaker::Assistant),
        Some("tool" | "function") => Ok(Speaker::Tool),
        _ => Err(ApiError::invalid(format!(
            "`{at}.role` is one of system, developer, user, assistant and tool"
        ))),
    }
}

/// The parts of a content. Images are for the user to show.
fn parts(content: &Value, may_show: bool, at: &str) -> Result<Vec<Value>, ApiError> {
    let items = match content {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => return Ok(vec![text_part(text)]),
        Value::Array(items) => items,
        _ => {
            return Err(ApiError::invalid(format!(
                "`{at}.content` is a text or a list of parts"
            )));
        }
    };
    let mut parts = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let at = format!("{at}.content[{n}]");
        let text = |name: &str| {
            item[name].as_str().map(str::to_owned).ok_or_else(|| {
                ApiError::invalid(format!("`{at}.{name}` is missing, or is no text"))
            })
        };
        let part = match item["type"].as_str() {
            Some("text" | "input_text" | "output_text") => text_part(&text("text")?),
            Some("refusal") => text_part(&text("refusal")?),
            Some("image_url") if may_show => match &item["image_url"]["url"] {
                Value::String(url) => image_part(url)?,
                _ => {
                    let message = format!("`{at}.image_url.url` is missing, or is no text");
                    return Err(ApiError::invalid(message));
                }
            },
            Some("input_image") if may_show && item["file_id"].is_null() => {
                image_part(&text("image_url")?)?
            }
            Some("input_image") if may_show => {
                return Err(unsupported("input_image with a file_id", &at));
            }
            other => {
                let other = other.unwrap_or("a part without a type").to_owned();
                return Err(unsupported(&other, &format!("{at}.type")));
            }
        };
        parts.push(part);
    }
    Ok(parts)
}

/// What was called, for a reader.
fn call_part(name: &Value, arguments: &Value) -> Value {
    let arguments = arguments.as_str().unwrap_or_default();
    json!({
        "type": "text",
        "text": format!("(called the tool {} with {arguments})", name.as_str().unwrap_or_default()),
    })
}

fn unsupported(what: &str, at: &str) -> ApiError {
    let message = format!(
        "`{at}`: {what} is not supported here; agents take text and, from the user, images"
    );
    ApiError::invalid(message).labelled("unsupported_content")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_parts_become_turns() {
        let messages = json!([
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        ]);
        let turns = chat_turns(messages.as_array().unwrap()).unwrap();
        let speakers: Vec<Speaker> = turns.iter().map(|turn| turn.speaker).collect();
        use Speaker::{Assistant, Client, Tool, User};
        assert_eq!(speakers, [Client, User, Assistant, Tool]);
        assert_eq!(turns[1].parts[1]["media_type"], "image/png");
        assert_eq!(turns[2].parts[0]["text"], "(called the tool look with {})");
    }

    #[test]
    fn what_cannot_be_carried_is_refused_where_it_stands() {
        for (message, expected) in [
            (json!({"role": "robot", "content": "x"}), "messages[0].role"),
            (json!({"role": "user", "content": ""}), ""),
            (
                json!({"role": "user", "content": []}),
                "messages[0].content",
            ),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": 5}), "messages[0].content"),
            (
                json!({"role": "user", "content": [{"type": "input_audio"}]}),
                "messages[0].content[0].type",
            ),
            (
                json!({"role": "user", "content": [{"type": "text"}]}),
                "messages[0].content[0].text",
            ),
        ] {
            let read = chat_turns(std::slice::from_ref(&message));
            if expected.is_empty() {
                assert!(read.is_ok(), "{message}");
                continue;
            }
            let error = read.unwrap_err();
            assert!(error.message().contains(expected), "{}", error.message());
        }
    }

    #[test]
    fn items_of_a_response_become_turns_and_decisions() {
        let id = ApprovalId::generate();
        let input = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "Go."}]},
            {"type": "reasoning", "summary": []},
            {"type": "mcp_approval_response", "approval_request_id": id, "approve": true},
        ]);
        let read = response_input(&input).unwrap();
        assert_eq!(read.turns, [Turn::text(Speaker::User, "Go.")]);
        assert_eq!(read.decisions[0].approval_id, id);
        assert!(read.decisions[0].approve);
        assert!(response_input(&json!([{"type": "item_reference", "id": "x"}])).is_err());
        assert!(response_input(&json!(5)).is_err());
    }
}
