//! Which providers an agent has, and what happens when one fails.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use rune_runtime::model::{
    Account, CallError, Endpoint, FallbackPolicy, HttpClient, ModelErrorKind, ModelEvent, ModelIds,
    Protocol, Providers, ProvidersConfig, ProvidersError,
};
use rune_testkit::{CutAt, Fault, ModelScript, ModelServer, Reply};

use super::{LIMITS, ask, on_server};

fn config(providers: &[&str]) -> ProvidersConfig {
    ProvidersConfig {
        providers: providers.iter().map(|&name| name.to_owned()).collect(),
        default_model: "main".to_owned(),
        timeouts: LIMITS,
        ..ProvidersConfig::default()
    }
}

/// The candidates as `provider/model`.
fn candidates(config: &ProvidersConfig) -> Vec<String> {
    let providers = Providers::new(config, &HttpClient::new()).unwrap();
    providers
        .candidates()
        .map(|candidate| format!("{}/{}", candidate.client.provider(), candidate.model))
        .collect()
}

fn keyed(model: Option<&str>) -> Account {
    Account {
        api_key: Some("k".into()),
        base_url: None,
        model: model.map(str::to_owned),
    }
}

#[test]
fn without_providers_the_first_with_a_key_is_used() {
    let mut config = config(&[]);
    assert_eq!(candidates(&config), ["offline/main"]);
    config
        .accounts
        .insert("openai".to_owned(), keyed(Some("o")));
    assert_eq!(candidates(&config), ["openai/o"]);
    config.accounts.insert("anthropic".to_owned(), keyed(None));
    assert_eq!(candidates(&config), ["anthropic/main"]);
}

#[test]
fn an_alias_means_a_model_per_provider() {
    let mut config = config(&["anthropic", "openai", "gemini", "offline"]);
    let ids = [("anthropic", "a"), ("openai", "o")];
    let ids: BTreeMap<_, _> = ids
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .into();
    config
        .model_mapping
        .insert("main".to_owned(), ModelIds::ByProvider(ids));
    assert_eq!(
        candidates(&config),
        ["anthropic/a", "openai/o", "offline/main"]
    );
    config
        .model_mapping
        .insert("main".to_owned(), ModelIds::Same("m".to_owned()));
    assert_eq!(candidates(&config).len(), 4);
    assert_eq!(candidates(&config)[2], "gemini/m");
}

#[test]
fn names_an_unknown_provider_and_a_missing_model() {
    let http = HttpClient::new();
    let error = Providers::new(&config(&["nope"]), &http).unwrap_err();
    assert!(matches!(error, ProvidersError::UnknownProvider { name, .. } if name == "nope"));
    let mut config = config(&["gemini"]);
    config
        .model_mapping
        .insert("main".to_owned(), ModelIds::ByProvider(BTreeMap::new()));
    let error = Providers::new(&config, &http).unwrap_err();
    assert_eq!(
        error,
        ProvidersError::NoModel {
            alias: "main".to_owned()
        }
    );
}

/// A first provider that fails with `fault`, then a good one. Answers the text or the
/// error, and the failures told as `from: kind -> next`.
async fn call(fault: Fault, policy: FallbackPolicy) -> (Result<String, CallError>, Vec<String>) {
    let bad = ModelScript::new()
        .fault_first(fault.always())
        .reply(Reply::text(["ü", "b"]));
    let bad = ModelServer::start(bad).await.unwrap();
    let good = ModelServer::start(ModelScript::new()).await.unwrap();
    let mut config = config(&["bad", "good"]);
    config.fallback = policy;
    for (name, server, protocol) in [
        ("bad", &bad, Protocol::Anthropic),
        ("good", &good, Protocol::OpenAi),
    ] {
        let endpoint = Endpoint {
            protocol,
            base_url: server.base_url(on_server(protocol)),
            api_key: Some("k".into()),
        };
        config.endpoints.insert(name.to_owned(), endpoint);
    }
    let providers = Providers::new(&config, &HttpClient::new()).unwrap();
    let mut told = Vec::new();
    let called = providers
        .call(
            |candidate| {
                let mut request = ask("hi");
                request.model.clone_from(&candidate.model);
                request
            },
            |error, next| {
                let next = next.map_or("-", |next| next.client.provider());
                told.push(format!("{}: {:?} -> {next}", error.provider, error.kind));
            },
        )
        .await;
    let stream = match called {
        Ok((_, stream)) => stream,
        Err(error) => return (Err(error), told),
    };
    let events: Vec<_> = stream.collect().await;
    let mut text = String::new();
    for event in events {
        match event {
            Ok(ModelEvent::Text(more)) => text.push_str(&more),
            Ok(_) => {}
            Err(error) => return (Err(error), told),
        }
    }
    (Ok(text), told)
}

#[tokio::test]
async fn goes_on_to_the_next_provider() {
    let (text, told) = call(Fault::status(401), FallbackPolicy::NextProvider).await;
    assert_eq!(text.unwrap(), "Echo: hi");
    assert_eq!(told, ["bad: Unauthenticated -> good"]);
}

#[tokio::test]
async fn fails_where_the_policy_says_so() {
    let (error, told) = call(Fault::status(401), FallbackPolicy::Fail).await;
    assert!(!error.unwrap_err().shown);
    assert_eq!(told, ["bad: Unauthenticated -> -"]);
}

#[tokio::test]
async fn does_not_hide_a_fault_of_the_request() {
    let (error, told) = call(Fault::context_overflow(), FallbackPolicy::NextProvider).await;
    assert_eq!(
        error.unwrap_err().error.kind,
        ModelErrorKind::ContextOverflow
    );
    assert_eq!(told, ["bad: ContextOverflow -> -"]);
}

#[tokio::test]
async fn does_not_start_again_once_something_was_shown() {
    let (error, told) = call(Fault::cut(CutAt::AfterText), FallbackPolicy::NextProvider).await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.error.kind, error.shown),
        (ModelErrorKind::Truncated, true)
    );
    assert_eq!(told.len(), 0);
}
