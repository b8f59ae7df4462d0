//! `rune requests show --context`: what filled the window of the models.

use serde_json::Value;

use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::{one_line, shortened};

/// Longest part of a summary that is shown to a person.
const SHOWN_CHARS: usize = 300;

pub(super) async fn show(context: &Context, client: &Client, id: &str) -> Outcome {
    let path = format!("/v1/requests/{}/context", part(id));
    let window = client.get(Api::Gateway, &path).await?;
    let output = context.output;
    if output.is_machine() {
        output.object(&window)?;
        return Ok(Exit::Ok);
    }
    let columns = [
        ("STEP", "/step"),
        ("MODEL", "/model"),
        ("INSTRUCTIONS", "/estimated/instructions"),
        ("TOOLS", "/estimated/tools"),
        ("SUMMARY", "/estimated/summary"),
        ("EARLIER", "/estimated/earlier"),
        ("OWN", "/estimated/own"),
        ("ESTIMATED", "/estimated/total"),
        ("REPORTED", "/reported/input_tokens"),
        ("CACHED", "/reported/cached_tokens"),
    ];
    output.list(list(&window, "calls"), &columns)?;
    for line in lines(&window) {
        output.text(&line)?;
    }
    Ok(Exit::Ok)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// What is told below the table.
fn lines(window: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let earlier = list(window, "earlier");
    let mut lines = vec![String::new()];
    lines.push(match earlier {
        [] => "earlier requests shown: none".to_owned(),
        [only] => format!("earlier requests shown: {}", text(only)),
        [newest, .., oldest] => format!(
            "earlier requests shown: {}, from {} to {}",
            earlier.len(),
            text(oldest),
            text(newest)
        ),
    });
    let left_out = window["left_out"].as_u64().unwrap_or_default();
    let calls = list(window, "calls");
    let summary = calls.last().map(|call| &call["estimated"]["summary"]);
    let is_summarised = summary.and_then(Value::as_u64).unwrap_or_default() > 0;
    if left_out > 0 {
        let how = if is_summarised {
            "a summary stands for them"
        } else {
            "the model is told nothing of them"
        };
        lines.push(format!("older requests left out: {left_out}; {how}"));
    }
    for compaction in list(window, "compactions") {
        let replaces = &compaction["replaces"];
        let requests = replaces["requests"]["count"].as_u64().unwrap_or_default();
        lines.push(format!(
            "entry {}: a summary for turn {} replaced {requests} earlier requests and {} turns of this one: about {} \
             tokens instead of {}\n  {}",
            compaction["seq"],
            compaction["step"],
            replaces["steps"],
            compaction["tokens_after"],
            compaction["tokens_before"],
            shortened(&one_line(&text(&compaction["text"])), SHOWN_CHARS)
        ));
    }
    for spilled in list(window, "spilled") {
        lines.push(format!(
            "{}: {} of {} bytes of its output were shown, the rest is kept as {}",
            text(&spilled["tool"]),
            spilled["shown"],
            spilled["bytes"],
            text(&spilled["handle"])
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_left_out_is_told() {
        let window = json!({
            "calls": [{"estimated": {"summary": 7}}],
            "earlier": ["req_3", "req_2"],
            "left_out": 1,
            "compactions": [{"seq": 4, "step": 2, "replaces": {"requests": {"count": 1}, "steps": 0},
                "text": "It was\nnice.", "tokens_before": 900, "tokens_after": 90}],
            "spilled": [{"tool": "log", "handle": "out-1", "bytes": 99999, "shown": 12000}],
        });
        let text = lines(&window).join("\n");
        for part in [
            "earlier requests shown: 2, from req_2 to req_3",
            "older requests left out: 1; a summary stands for them",
            "entry 4: a summary for turn 2 replaced 1 earlier requests and 0 turns",
            "It was nice.",
            "log: 12000 of 99999 bytes of its output were shown, the rest is kept as out-1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
