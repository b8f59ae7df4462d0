//! Which providers an agent has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{LIMITS, ask, client_of};
use rune_runtime::model::{
    Account, ClientConfig, LlmClient, ModelErrorKind, ModelIds, Protocol, ProviderPool, Providers,
    ProvidersConfig, ProvidersError,
};

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
    let providers = Providers::new(config, &ProviderPool::default()).unwrap();
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
fn the_order_is_the_documented_one() {
    let mut config = config(&[]);
    for name in ["openai", "copilot", "gemini", "claude-code", "anthropic"] {
        config.accounts.insert(name.to_owned(), keyed(None));
        assert_eq!(candidates(&config), [format!("{name}/main")]);
    }
    let all = [
        "anthropic",
        "claude-code",
        "gemini",
        "copilot",
        "openai",
        "offline",
    ];
    config.providers = all.map(str::to_owned).to_vec();
    assert_eq!(candidates(&config), all.map(|name| format!("{name}/main")));
}

#[tokio::test]
async fn agents_share_what_belongs_to_the_provider() {
    let pool = ProviderPool::default();
    let one = pool.guard("openai", "http://a");
    assert!(Arc::ptr_eq(&one, &pool.clone().guard("openai", "http://a")));
    assert!(!Arc::ptr_eq(&one, &pool.guard("openai", "http://b")));
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
    let pool = ProviderPool::default();
    let error = Providers::new(&config(&["nope"]), &pool).unwrap_err();
    assert!(matches!(error, ProvidersError::UnknownProvider { name, .. } if name == "nope"));
    let mut config = config(&["gemini"]);
    config
        .model_mapping
        .insert("main".to_owned(), ModelIds::ByProvider(BTreeMap::new()));
    let error = Providers::new(&config, &pool).unwrap_err();
    assert_eq!(
        error,
        ProvidersError::NoModel {
            alias: "main".to_owned()
        }
    );
}

#[tokio::test]
async fn a_vendor_without_a_key_is_not_even_called() {
    for protocol in Protocol::ALL {
        let config = ClientConfig::new(protocol.name());
        let client = client_of(protocol, config);
        let error = client.stream(&ask("hi")).await.err().unwrap();
        assert_eq!(error.kind, ModelErrorKind::Unauthenticated);
    }
}
