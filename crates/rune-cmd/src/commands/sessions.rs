//! `rune sessions`

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Api, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::{one_line, printable, shortened};

/// Longest tool output that is shown.
const SHOWN_RESULT_CHARS: usize = 300;

/// Shows a session and its messages.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune sessions ticket-4711\n  rune sessions ticket-4711 --limit 20 -o json"
)]
pub(crate) struct SessionsArgs {
    /// The session
    id: String,
    /// Messages at the most, from the oldest on
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

pub(crate) async fn run(context: &Context, args: &SessionsArgs) -> Outcome {
    let client = context.client()?;
    let path = format!("/v1/sessions/{}", part(&args.id));
    let session = client.get(Api::Gateway, &path).await?;
    let messages = client
        .list(Api::Gateway, &format!("{path}/messages"), &[], args.limit)
        .await?;
    let data = json!({ "session": session, "messages": messages });
    context.output.data(&data, text)?;
    Ok(Exit::Ok)
}

fn text(data: &Value) -> String {
    let session = &data["session"];
    let word = |field: &str| session[field].as_str().unwrap_or("-").to_owned();
    let mut text = format!(
        "session {} of {}/{}, {} messages, {} requests, created {}",
        word("id"),
        word("namespace"),
        word("agent"),
        session["messages"],
        session["requests"],
        word("created_at"),
    );
    for message in data["messages"].as_array().into_iter().flatten() {
        let role = if message["replaces"].is_null() {
            message["role"].as_str().unwrap_or("?")
        } else {
            "summary"
        };
        for block in message["blocks"].as_array().into_iter().flatten() {
            if let Some(line) = block_text(block) {
                text.push_str(&format!("\n{role:>9}  {line}"));
            }
        }
    }
    text
}

fn block_text(block: &Value) -> Option<String> {
    let word = |field: &str| block[field].as_str().unwrap_or_default();
    match word("type") {
        "text" => Some(printable(word("text")).replace('\n', "\n           ")),
        "tool_call" => Some(one_line(&format!(
            "[tool] {} {}",
            word("name"),
            block["input"]
        ))),
        "tool_result" => {
            let content = shortened(&one_line(word("content")), SHOWN_RESULT_CHARS);
            let failed = if block["is_error"] == true {
                " failed"
            } else {
                ""
            };
            Some(format!(
                "[tool] {}{failed}: {content}",
                one_line(word("name"))
            ))
        }
        _ => None,
    }
}
