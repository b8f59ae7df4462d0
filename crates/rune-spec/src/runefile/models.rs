//! `models`: which models answer.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::checker::Checker;
use crate::document::At;
use crate::suggest::help_for;

/// Providers that need no `endpoints` entry.
const PROVIDERS: [&str; 6] = [
    "anthropic",
    "openai",
    "gemini",
    "copilot",
    "claude-code",
    "offline",
];

/// `models` of a Runefile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Models {
    /// In order of preference; empty means: the first provider with a key, else `offline`.
    pub providers: Vec<String>,
    /// Own endpoints by provider name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Alias to model.
    pub model_mapping: BTreeMap<String, ModelName>,
    /// What happens when a provider fails for good.
    pub fallback_policy: FallbackPolicy,
    /// Input and output tokens per request.
    pub token_budget: u64,
    /// Tokens that the models take in one call, where that is less than half of the budget.
    pub context_window: Option<u64>,
    /// The provider-side safety setting.
    pub safety_policy: SafetyPolicy,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Longest answer of one model call, in tokens.
    pub max_output_tokens: Option<u64>,
    /// How hard a reasoning model thinks.
    pub reasoning_effort: Option<ReasoningEffort>,
}

impl Models {
    /// The providers that may be asked: those that are listed, else the built-in ones.
    pub fn possible_providers(&self) -> Vec<&str> {
        if self.providers.is_empty() {
            PROVIDERS.to_vec()
        } else {
            self.providers.iter().map(String::as_str).collect()
        }
    }

    /// The model id behind `alias` at `provider`: the mapping's, or `alias` itself when nothing is mapped at all.
    /// `None` when the alias is mapped, but not for this provider.
    pub fn resolve<'a>(&'a self, alias: &'a str, provider: &str) -> Option<&'a str> {
        match self.model_mapping.get(alias) {
            Some(ModelName::Any(model)) => Some(model),
            Some(ModelName::PerProvider(models)) => models.get(provider).map(String::as_str),
            None if self.model_mapping.is_empty() => Some(alias),
            None => None,
        }
    }
}

/// What an alias stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ModelName {
    /// The same model id at every provider.
    Any(String),
    /// One model id per provider.
    PerProvider(BTreeMap<String, String>),
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModelNameVisitor;

        impl<'de> Visitor<'de> for ModelNameVisitor {
            type Value = ModelName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model id, or a map from provider to model id")
            }

            fn visit_str<E>(self, value: &str) -> Result<ModelName, E> {
                Ok(ModelName::Any(value.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ModelName, A::Error> {
                let mut models = BTreeMap::new();
                while let Some((provider, model)) = map.next_entry()? {
                    models.insert(provider, model);
                }
                Ok(ModelName::PerProvider(models))
            }
        }

        deserializer.deserialize_any(ModelNameVisitor)
    }
}

/// An endpoint that speaks one of the known protocols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The wire protocol.
    pub protocol: Protocol,
    /// Base URL, as the protocol's official SDK reads it; may hold `${VAR}`.
    pub base_url: String,
    /// Key, usually `${VAR}`.
    pub api_key: Option<String>,
}

/// The wire protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI Chat Completions.
    Openai,
    /// OpenAI Responses.
    Responses,
    /// Gemini generateContent.
    Gemini,
}

/// What happens when a provider fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackPolicy {
    /// The next provider goes on with the tool state so far.
    #[default]
    NextProvider,
    /// The request fails.
    Fail,
}

/// The provider-side safety setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SafetyPolicy {
    /// The provider's default.
    #[default]
    Standard,
    /// The strictest the provider offers.
    Strict,
    /// The laxest the provider offers.
    None,
}

/// How hard a reasoning model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// Not at all, or as little as the model can.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Moderately.
    Medium,
    /// Hard.
    High,
    /// As hard as it can.
    Xhigh,
}

impl ReasoningEffort {
    /// The word providers use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
        }
    }
}

/// Which models answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Models")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelsDocument {
    /// In order of preference: `anthropic`, `openai`, `gemini`, `copilot`, `claude-code`, `offline`, or a name from
    /// `endpoints`. Empty: the first provider with a key, else `offline`.
    providers: Vec<String>,
    /// Own endpoints by provider name.
    endpoints: BTreeMap<String, Endpoint>,
    /// Alias to model id, or alias to `{provider: model id}`.
    model_mapping: BTreeMap<String, ModelName>,
    /// What happens when a provider fails for good.
    fallback_policy: FallbackPolicy,
    /// Input and output tokens per request.
    token_budget: u64,
    /// Tokens that the models take in one call. A prompt is kept below three quarters of it and below half of
    /// `token_budget`: what is older is replaced by a summary.
    context_window: Option<u64>,
    /// The provider-side safety setting.
    safety_policy: SafetyPolicy,
    /// Sampling temperature.
    temperature: Option<f64>,
    /// Longest answer of one model call, in tokens.
    max_output_tokens: Option<u64>,
    /// How hard a reasoning model thinks.
    reasoning_effort: Option<ReasoningEffort>,
}

impl Default for ModelsDocument {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            endpoints: BTreeMap::new(),
            model_mapping: BTreeMap::new(),
            fallback_policy: FallbackPolicy::default(),
            token_budget: 100_000,
            context_window: None,
            safety_policy: SafetyPolicy::default(),
            temperature: None,
            max_output_tokens: None,
            reasoning_effort: None,
        }
    }
}

impl ModelsDocument {
    pub(crate) fn validate(self, checker: &mut Checker<'_>, default_model: &str) -> Models {
        let at = At::top("models");
        self.check_providers(checker, &at);
        self.check_endpoints(checker, &at.field("endpoints"));
        self.check_mapping(checker, &at.field("model_mapping"), default_model);
        checker.at_least_one(&at.field("token_budget"), self.token_budget);
        if self
            .temperature
            .is_some_and(|value| !(0.0..=2.0).contains(&value))
        {
            checker.error(&at.field("temperature"), "must be between 0 and 2");
        }
        if let Some(tokens) = self.context_window {
            checker.at_least_one(&at.field("context_window"), tokens);
        }
        if let Some(tokens) = self.max_output_tokens {
            checker.at_least_one(&at.field("max_output_tokens"), tokens);
        }
        Models {
            providers: self.providers,
            endpoints: self.endpoints,
            model_mapping: self.model_mapping,
            fallback_policy: self.fallback_policy,
            token_budget: self.token_budget,
            context_window: self.context_window,
            safety_policy: self.safety_policy,
            temperature: self.temperature,
            max_output_tokens: self.max_output_tokens,
            reasoning_effort: self.reasoning_effort,
        }
    }

    fn known_providers(&self) -> Vec<&str> {
        PROVIDERS
            .into_iter()
            .chain(self.endpoints.keys().map(String::as_str))
            .collect()
    }

    fn check_providers(&self, checker: &mut Checker<'_>, at: &At) {
        let known = self.known_providers();
        for (index, provider) in self.providers.iter().enumerate() {
            let at = at.field("providers").index(index);
            if !known.contains(&provider.as_str()) {
                checker.error_with_help(
                    &at,
                    format!("unknown provider `{provider}`"),
                    help_for(provider, known.iter().copied()),
                );
            } else if self.providers[..index].contains(provider) {
                checker.error(&at, format!("provider `{provider}` is listed twice"));
            }
        }
    }

    fn check_endpoints(&self, checker: &mut Checker<'_>, at: &At) {
        for (name, endpoint) in &self.endpoints {
            let at = at.field(name);
            if PROVIDERS.contains(&name.as_str()) {
                checker.error(
                    &at.clone().key(),
                    format!("`{name}` is a built-in provider; choose another name"),
                );
            }
            let url = &endpoint.base_url;
            if !["http://", "https://", "${"]
                .iter()
                .any(|prefix| url.starts_with(prefix))
            {
                checker.error(
                    &at.field("base_url"),
                    format!("`{url}` is not an http(s) URL"),
                );
            }
        }
    }

    fn check_mapping(&self, checker: &mut Checker<'_>, at: &At, default_model: &str) {
        let known = self.known_providers();
        for (alias, model) in &self.model_mapping {
            let at = at.field(alias);
            match model {
                ModelName::Any(model) => checker.filled(&at, "a model id", model),
                ModelName::PerProvider(models) => {
                    for provider in models
                        .keys()
                        .filter(|provider| !known.contains(&provider.as_str()))
                    {
                        checker.error_with_help(
                            &at.field(provider).key(),
                            format!("unknown provider `{provider}`"),
                            help_for(provider, known.iter().copied()),
                        );
                    }
                }
            }
        }
        if !self.model_mapping.is_empty() && !self.model_mapping.contains_key(default_model) {
            checker.error_with_help(
                &At::top("default_model"),
                format!("`{default_model}` is not an alias in `models.model_mapping`"),
                help_for(default_model, self.model_mapping.keys().map(String::as_str)),
            );
        }
    }
}
