//! The model without a model.

use std::path::Path;
use std::sync::Arc;

use rune_runtime::model::{LlmClient, ModelErrorKind, OfflineClient};
use rune_spec::Script;
use rune_store_runtime::{Block, Role, StopReason};
use serde_json::json;

use super::{Shown, ask, calls, message, result};

fn scripted(text: &str) -> OfflineClient {
    let script =
        Script::parse(Path::new("script.yaml"), text).unwrap_or_else(|errors| panic!("{errors}"));
    OfflineClient::new(Some(Arc::new(script)))
}

#[tokio::test]
async fn echoes_without_a_script() {
    let client = OfflineClient::default();
    let (shown, output) = Shown::output(&client, &ask("hé llo")).await;
    assert_eq!(shown.text, "Echo: hé llo");
    assert_eq!(output.blocks, [Block::text("Echo: hé llo")]);
    assert_eq!(output.stop, StopReason::EndTurn);
    assert_eq!(output.usage.output_tokens, 4);
    let (_, again) = Shown::output(&client, &ask("hé llo")).await;
    assert_eq!(again, output);
}

#[tokio::test]
async fn calls_a_tool_on_command_and_reports_its_result() {
    let client = OfflineClient::default();
    let mut request = ask("/tool weather {\"city\": \"Oslo\"}");
    let (_, output) = Shown::output(&client, &request).await;
    assert_eq!(output.stop, StopReason::ToolUse);
    let made = calls(&output.blocks);
    assert_eq!(
        made,
        [("call_0".into(), "weather".into(), json!({"city": "Oslo"}))]
    );
    request
        .messages
        .push(message(Role::Assistant, output.blocks));
    let rain = result("call_0", "weather", "rain");
    request.messages.push(message(Role::Tool, vec![rain]));
    let (shown, output) = Shown::output(&client, &request).await;
    assert_eq!(shown.text, "weather answered: rain");
    assert_eq!(output.stop, StopReason::EndTurn);
}

#[tokio::test]
async fn plays_its_script_and_echoes_the_rest() {
    let client = scripted(
        r#"
rules:
  - match: { contains: time, step: 1 }
    respond: Let me look.
    tool_calls: [{ name: time, input: {} }]
  - match: { after_tool: time }
    respond: "It is {{ result.now }}."
"#,
    );
    let mut request = ask("What time is it?");
    let (shown, output) = Shown::output(&client, &request).await;
    assert_eq!(
        (shown.text.as_str(), calls(&output.blocks).len()),
        ("Let me look.", 1)
    );
    request
        .messages
        .push(message(Role::Assistant, output.blocks));
    let noon = result("call_0", "time", "{\"now\":\"noon\"}");
    request.messages.push(message(Role::Tool, vec![noon]));
    let (shown, _) = Shown::output(&client, &request).await;
    assert_eq!(shown.text, "It is noon.");
    let (shown, _) = Shown::output(&client, &ask("hello")).await;
    assert_eq!(shown.text, "Echo: hello");
}

#[tokio::test(start_paused = true)]
async fn plays_delays_and_failures() {
    let client = scripted(
        r"
rules:
  - match: { equals: busy }
    error: { kind: rate_limited, message: slow down }
    delay_ms: 60000
  - match: { equals: cut }
    respond: half an
    error: { kind: cut, message: gone }
",
    );
    let started = tokio::time::Instant::now();
    let error = client.stream(&ask("busy")).await.err().unwrap();
    assert_eq!(error.kind, ModelErrorKind::RateLimited);
    assert_eq!(started.elapsed().as_secs(), 60);
    let shown = Shown::of(client.stream(&ask("cut")).await.unwrap()).await;
    assert_eq!(shown.text, "half an");
    assert_eq!(shown.error.unwrap().kind, ModelErrorKind::Truncated);
}
