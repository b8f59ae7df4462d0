//! Answers that have to match `output_schema`.

use rune_store_runtime::{EntryBody, ErrorCode, OUTPUT_REPAIR, RequestStatus};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, Stop, ToolCall};
use serde_json::{Value, json};

use super::harness::{Bot, Rig};
use super::recovery::recovered;

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
    })
}

const ADA: &str = "{\"name\": \"Ada\", \"age\": 36}";
const TOO_YOUNG: &str = "{\"name\": \"Ada\", \"age\": -1}";
/// In what the model is told about a wrong answer.
const TOLD: &str = "does not match the JSON Schema";

fn ada() -> Option<Value> {
    Some(json!({"name": "Ada", "age": 36}))
}

async fn rig(server: &ModelServer, protocol: Protocol) -> Rig {
    let bot = Bot::on(&[(server, protocol)]).set("output_schema", person());
    Rig::new(bot.builtin("rune@system-time")).await
}

/// First a wrong answer, then one that is right.
fn wrong_then_right() -> ModelScript {
    ModelScript::new()
        .on_text("who")
        .reply(Reply::text(TOO_YOUNG))
        .on_text(TOLD)
        .reply(Reply::text(ADA))
}

#[tokio::test]
async fn the_output_is_the_json_of_the_answer() {
    for protocol in Protocol::ALL {
        let time = ToolCall::new("rune__system-time", json!({}));
        let script = ModelScript::new()
            .on_text("who")
            .reply(Reply::calls([time]).saying("Let me see."))
            .then(Reply::text(format!("```json\n{ADA}\n```")));
        let server = ModelServer::start(script).await.unwrap();
        let ended = rig(&server, protocol).await.ask("who?").await;
        assert_eq!(
            ended.row.output,
            ada(),
            "{protocol:?} {:?}",
            ended.row.failure
        );
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_wrong_answer_is_told_and_asked_again() {
    for protocol in Protocol::ALL {
        let server = ModelServer::start(wrong_then_right()).await.unwrap();
        let rig = rig(&server, protocol).await;
        let ended = rig.ask("who?").await;
        assert_eq!(
            ended.row.output,
            ada(),
            "{protocol:?} {:?}",
            ended.row.failure
        );
        let told = ended.journal.iter().find_map(|entry| match &entry.body {
            EntryBody::Notice { code, message } if code == OUTPUT_REPAIR => Some(message.clone()),
            _ => None,
        });
        let told = told.unwrap();
        assert!(told.contains("`/age`"), "{told}");
        let sent = server.requests()[1].body.to_string();
        assert!(sent.contains(TOLD), "{sent}");
        // The next request of the session is shown what was said, the server checks it.
        let next = rig.ask_in(&ended.row.session_id, "who again?").await;
        assert_eq!(
            next.row.output,
            ada(),
            "{protocol:?} {:?}",
            next.row.failure
        );
        let sent = server.requests()[2].body.to_string();
        assert!(sent.contains(TOLD), "{sent}");
    }
}

#[tokio::test]
async fn an_answer_that_stays_wrong_is_a_failure() {
    let script = ModelScript::new().reply(Reply::text("I am Ada."));
    let server = ModelServer::start(script).await.unwrap();
    let ended = rig(&server, Protocol::Openai).await.ask("who?").await;
    assert_eq!(ended.row.status, RequestStatus::Failed);
    let failure = ended.row.failure.unwrap();
    assert_eq!(failure.code, ErrorCode::ModelUnavailable);
    assert!(
        failure.message.contains("`output_schema`") && failure.message.contains("not JSON"),
        "{failure}"
    );
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_refusal_is_not_asked_again() {
    let script = ModelScript::new().reply(Reply::text("No.").stop(Stop::Refusal));
    let server = ModelServer::start(script).await.unwrap();
    let ended = rig(&server, Protocol::Anthropic).await.ask("who?").await;
    assert_eq!(ended.row.status, RequestStatus::Failed);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_schema_of_a_text_takes_the_answer_as_it_is() {
    let bot = Bot::new().set("output_schema", json!({"type": "string", "minLength": 3}));
    let ended = Rig::new(bot).await.ask("42").await;
    assert_eq!(ended.output(), "Echo: 42");
}

#[tokio::test]
async fn a_repair_goes_on_after_an_interruption_anywhere() {
    let server = ModelServer::start(wrong_then_right()).await.unwrap();
    let rig = rig(&server, Protocol::Responses).await;
    let whole = rig.ask("who?").await;
    let kinds = [
        "accepted",
        "started",
        "model_reply",
        "notice",
        "model_reply",
        "finished",
    ];
    assert_eq!(whole.kinds(), kinds);
    for cut in 1..kinds.len() {
        let next = rig.cut(&whole.row, &whole.journal, cut).await;
        let ended = recovered(&next, &whole).await;
        assert_eq!(
            ended.row.output,
            ada(),
            "cut {cut}: {:?}",
            ended.row.failure
        );
    }
}
