//! Copilot: the exchange of tokens, and what its calls carry. The server is scripted.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use rune_runtime::model::{
    CopilotClient, CopilotTokens, GuardedClient, HttpClient, LlmClient, ModelError, ModelErrorKind,
    ModelRequest, ModelStream,
};
use rune_store_runtime::StopReason;
use rune_testkit::{
    CopilotAccount, ModelScript, ModelServer, Protocol, RecordedRequest, Reply, ToolCall,
};
use serde_json::json;

use super::suite::{KEY, Subject, Tune};
use super::{LIMITS, Shown, ask, calls, guard, message, result};
use rune_store_runtime::Role;

const GITHUB_TOKEN: &str = "gho_secret";
const EXCHANGE: &str = "/copilot_internal/v2/token";

fn account() -> CopilotAccount {
    CopilotAccount {
        github_token: Some(GITHUB_TOKEN.to_owned()),
        ..CopilotAccount::default()
    }
}

async fn serve(account: CopilotAccount) -> ModelServer {
    ModelServer::start(ModelScript::new().copilot(account))
        .await
        .unwrap()
}

fn client(server: &ModelServer, github_token: Option<&str>) -> GuardedClient {
    let tokens = CopilotTokens::new(github_token.map(Into::into), &server.root());
    let base_url = Some(server.root());
    let client = CopilotClient::new(Arc::new(tokens), base_url, LIMITS, HttpClient::new());
    guard(Arc::new(client))
}

/// The client behind a token that GitHub, another server, hands out.
pub(crate) struct Copilot;

struct WithGithub {
    client: GuardedClient,
    _github: ModelServer,
}

#[async_trait]
impl LlmClient for WithGithub {
    fn provider(&self) -> &str {
        self.client.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.client.stream(request).await
    }
}

#[async_trait]
impl Subject for Copilot {
    fn wire(&self) -> Protocol {
        Protocol::Openai
    }

    async fn client(&self, server: &ModelServer, tune: &Tune) -> Box<dyn LlmClient> {
        let mut account = account();
        account.token = Some(KEY.to_owned());
        let github = serve(account).await;
        let tokens = CopilotTokens::new(Some(GITHUB_TOKEN.into()), &github.root());
        let base_url = server.base_url(Protocol::Openai);
        let base_url = tune.base_url.clone().unwrap_or(base_url);
        let http = HttpClient::new();
        let client = CopilotClient::new(Arc::new(tokens), Some(base_url), tune.timeouts, http);
        Box::new(WithGithub {
            client: guard(Arc::new(client)).retry(tune.retry.clone()),
            _github: github,
        })
    }
}

/// The paths asked for, in order.
fn paths(server: &ModelServer) -> Vec<String> {
    let seen = server.requests();
    seen.into_iter().map(|request| request.path).collect()
}

fn exchanges(server: &ModelServer) -> usize {
    let paths = paths(server);
    paths.iter().filter(|path| *path == EXCHANGE).count()
}

async fn echo(client: &GuardedClient, text: &str) {
    let (shown, _) = Shown::output(client, &ask(text)).await;
    assert_eq!(shown.text, format!("Echo: {text}"));
}

async fn refusal(client: &GuardedClient) -> ModelError {
    client.stream(&ask("hi")).await.err().unwrap()
}

#[tokio::test]
async fn a_token_is_exchanged_once_and_kept() {
    let server = serve(account()).await;
    let client = client(&server, Some(GITHUB_TOKEN));
    echo(&client, "one").await;
    echo(&client, "two").await;
    let expected = [EXCHANGE, "/chat/completions", "/chat/completions"];
    assert_eq!(paths(&server), expected);
    for RecordedRequest { path, headers, .. } in server.requests() {
        let carries_github_token = headers["authorization"].contains(GITHUB_TOKEN);
        assert_eq!(carries_github_token, path == EXCHANGE, "{path}");
        assert!(headers.contains_key("editor-version"), "{path}");
    }
    let call = &server.requests()[1].headers;
    assert_eq!(call["copilot-integration-id"], "vscode-chat");
    assert_eq!(call["x-initiator"], "user");
}

#[tokio::test]
async fn requests_that_come_together_share_one_exchange() {
    let mut account = account();
    account.exchange_ms = 100;
    let server = serve(account).await;
    let client = client(&server, Some(GITHUB_TOKEN));
    join_all((0..8).map(|_| echo(&client, "hi"))).await;
    assert_eq!(exchanges(&server), 1);
}

#[tokio::test]
async fn a_refusal_is_shared_too() {
    let mut account = account();
    account.exchange_ms = 100;
    account.refuse = Some(403);
    let server = serve(account).await;
    let client = client(&server, Some(GITHUB_TOKEN));
    join_all((0..8).map(|_| refusal(&client))).await;
    assert_eq!(exchanges(&server), 1);
}

#[tokio::test]
async fn a_token_that_is_about_to_end_is_renewed_before_the_call() {
    let mut account = account();
    account.lasts = 30;
    let server = serve(account).await;
    let client = client(&server, Some(GITHUB_TOKEN));
    echo(&client, "one").await;
    echo(&client, "two").await;
    let one = [EXCHANGE, "/chat/completions"];
    assert_eq!(paths(&server), [one, one].concat());
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let mut account = account();
    account.calls_per_token = Some(1);
    let server = serve(account.clone()).await;
    let own = client(&server, Some(GITHUB_TOKEN));
    echo(&own, "one").await;
    echo(&own, "two").await;
    let statuses: Vec<_> = server.requests().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [200, 200, 401, 200, 200].map(Some));
    // A new one that is refused as well is the end of it.
    account.calls_per_token = Some(0);
    let server = serve(account).await;
    let error = refusal(&client(&server, Some(GITHUB_TOKEN))).await;
    assert_eq!(error.kind, ModelErrorKind::Unauthenticated);
    assert_eq!((exchanges(&server), server.requests().len()), (2, 4));
}

#[tokio::test]
async fn a_refused_exchange_says_what_to_do_and_never_the_token() {
    for (status, help) in [
        (401, "COPILOT_TOKEN or GITHUB_TOKEN"),
        (403, "personal access token"),
        (404, "no Copilot for this account"),
    ] {
        let mut account = account();
        account.refuse = Some(status);
        let server = serve(account).await;
        let error = refusal(&client(&server, Some(GITHUB_TOKEN))).await;
        assert_eq!(error.kind, ModelErrorKind::Unauthenticated);
        let message = error.to_string();
        assert!(message.contains(help), "{message}");
        assert!(!message.contains(GITHUB_TOKEN), "{message}");
        assert_eq!(server.requests().len(), 1, "not retried: {status}");
    }
    let server = serve(account()).await;
    let unknown = refusal(&client(&server, Some("gho_other"))).await;
    assert_eq!(unknown.status, Some(401));
    let none = refusal(&client(&server, None)).await;
    assert!(none.to_string().contains("no GitHub token"), "{none}");
}

#[tokio::test]
async fn a_fault_of_the_exchange_is_retried() {
    let mut account = account();
    account.refuse = Some(503);
    let server = serve(account).await;
    let error = refusal(&client(&server, Some(GITHUB_TOKEN))).await;
    assert_eq!(error.kind, ModelErrorKind::Overloaded);
    assert_eq!(exchanges(&server), 3);
}

#[tokio::test]
async fn calls_within_a_tool_loop_are_the_agents() {
    let call = ToolCall::new("weather", json!({"city": "Oslo"}));
    let script = ModelScript::new()
        .reply(Reply::calls([call]))
        .then(Reply::text("It rains."))
        .copilot(account());
    let server = ModelServer::start(script).await.unwrap();
    let client = client(&server, Some(GITHUB_TOKEN));
    let mut request = ask("weather?");
    let (_, first) = Shown::output(&client, &request).await;
    assert_eq!(first.stop, StopReason::ToolUse);
    let (id, name, _) = calls(&first.blocks).remove(0);
    request
        .messages
        .push(message(Role::Assistant, first.blocks));
    request
        .messages
        .push(message(Role::Tool, vec![result(&id, &name, "rain")]));
    let (shown, _) = Shown::output(&client, &request).await;
    assert_eq!(shown.text, "It rains.");
    let initiators: Vec<_> = server.requests()[1..]
        .iter()
        .map(|call| call.headers["x-initiator"].clone())
        .collect();
    assert_eq!(initiators, ["user", "agent"]);
}
