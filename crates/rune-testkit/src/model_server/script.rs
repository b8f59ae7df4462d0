use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    conversation::Conversation,
    copilot::CopilotAccount,
    fault::Fault,
    protocol::Protocol,
    reply::{Reply, millis},
};
use crate::TestkitError;

/// What the server answers: the first rule that matches a request and is not used up.
///
/// Built in code, or read from a YAML or JSON file with the same field names:
///
/// ```
/// use rune_testkit::{Fault, ModelScript, Reply, ToolCall};
/// use serde_json::json;
///
/// let script = ModelScript::new()
///     .on_text("weather")
///     .fault_first(Fault::status(429).retry_after(0.0))
///     .reply(Reply::calls([ToolCall::new("weather", json!({"city": "Oslo"}))]))
///     .then(Reply::text("It rains."));
/// # assert_eq!(script.rules.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelScript {
    /// The rules, tried in order.
    pub rules: Vec<Rule>,
    /// What a request gets that no rule answers.
    pub otherwise: Otherwise,
    /// Milliseconds before the first byte of every answer.
    pub latency_ms: u64,
    /// In how many chunks an echo is streamed.
    pub echo_chunks: usize,
    /// The only key accepted; without it any that is not empty.
    pub api_key: Option<String>,
    /// Whether Gemini's calls have an `id` (the real ones often have none).
    pub gemini_call_ids: bool,
    /// The account behind the Copilot endpoints.
    pub copilot: CopilotAccount,
}

/// What a request gets that no rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// `Echo: <last user text>`.
    #[default]
    Echo,
    /// 400, saying that the script has no answer.
    Refuse,
}

/// A rule: for the requests that match `when`, first the faults, then the replies.
///
/// The replies are the steps of one conversation: the n-th is given when the model has already answered n times since
/// the user spoke last (the last one from there on). So one rule serves any number of sessions at once, and a retry
/// gets the same answer. A rule without replies, or used up, passes the request on to the next.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Which requests.
    pub when: When,
    /// What goes wrong first.
    pub faults: Vec<Fault>,
    /// The answers, step by step.
    pub replies: Vec<Reply>,
    /// How many answers (faults not counted) the rule gives; without it, any number.
    pub times: Option<u32>,
}

/// Which requests a rule is for; all that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The last user text contains this.
    pub text: Option<String>,
    /// This many tool results came since the user spoke last.
    pub results: Option<usize>,
    /// The model asked for.
    pub model: Option<String>,
    /// The protocol spoken.
    pub protocol: Option<Protocol>,
}

impl When {
    pub(crate) fn holds(&self, protocol: Protocol, conversation: &Conversation) -> bool {
        self.text
            .as_ref()
            .is_none_or(|text| conversation.last_user_text().contains(text.as_str()))
            && self.results.is_none_or(|n| conversation.results() == n)
            && self
                .model
                .as_ref()
                .is_none_or(|model| *model == conversation.model)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
    }
}

impl Default for ModelScript {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            otherwise: Otherwise::Echo,
            latency_ms: 0,
            echo_chunks: 1,
            api_key: None,
            gemini_call_ids: true,
            copilot: CopilotAccount::default(),
        }
    }
}

impl ModelScript {
    /// An empty script: everything is echoed, at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The answers in the order the requests come, whatever they say; then 400.
    #[must_use]
    pub fn turns(replies: impl IntoIterator<Item = Reply>) -> Self {
        let once = |reply| Rule {
            replies: vec![reply],
            times: Some(1),
            ..Rule::default()
        };
        Self {
            rules: replies.into_iter().map(once).collect(),
            otherwise: Otherwise::Refuse,
            ..Self::default()
        }
    }

    /// Reads a script from a YAML or JSON file.
    ///
    /// # Errors
    /// [`TestkitError::File`] when it cannot be read, [`TestkitError::Script`] when it is not a script.
    pub fn load(path: &Path) -> Result<Self, TestkitError> {
        let text = std::fs::read_to_string(path).map_err(|source| TestkitError::File {
            path: path.to_owned(),
            source,
        })?;
        let script_error = |message| TestkitError::Script {
            path: path.to_owned(),
            message,
        };
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            serde_json::from_str(&text).map_err(|error| script_error(error.to_string()))
        } else {
            serde_saphyr::from_str(&text).map_err(|error| script_error(error.to_string()))
        }
    }

    /// Begins a rule.
    #[must_use]
    pub fn on(mut self, when: When) -> Self {
        self.rules.push(Rule {
            when,
            ..Rule::default()
        });
        self
    }

    /// Begins a rule for requests whose last user text contains `text`.
    #[must_use]
    pub fn on_text(self, text: impl Into<String>) -> Self {
        self.on(When {
            text: Some(text.into()),
            ..When::default()
        })
    }

    /// Begins a rule for requests with `n` tool results since the user spoke last.
    #[must_use]
    pub fn on_results(self, n: usize) -> Self {
        self.on(When {
            results: Some(n),
            ..When::default()
        })
    }

    /// Begins a rule for requests for a model.
    #[must_use]
    pub fn on_model(self, model: impl Into<String>) -> Self {
        self.on(When {
            model: Some(model.into()),
            ..When::default()
        })
    }

    /// Gives the rule begun last (or a new one for everything) its next answer.
    #[must_use]
    pub fn reply(self, reply: Reply) -> Self {
        self.edit(|rule| rule.replies.push(reply))
    }

    /// The answer of the next step, after the tool results; the same as another [`ModelScript::reply`].
    #[must_use]
    pub fn then(self, reply: Reply) -> Self {
        self.reply(reply)
    }

    /// Lets this go wrong before the rule begun last answers. Several come one after the other.
    #[must_use]
    pub fn fault_first(self, fault: Fault) -> Self {
        self.edit(|rule| rule.faults.push(fault))
    }

    /// Ends the rule begun last after `n` answers.
    #[must_use]
    pub fn times(self, n: u32) -> Self {
        self.edit(|rule| rule.times = Some(n))
    }

    /// What a request gets that no rule answers.
    #[must_use]
    pub fn otherwise(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }

    /// Waits before the first byte of every answer.
    #[must_use]
    pub fn latency(mut self, wait: Duration) -> Self {
        self.latency_ms = millis(wait);
        self
    }

    /// Streams an echo in `n` chunks.
    #[must_use]
    pub fn echo_chunks(mut self, n: usize) -> Self {
        self.echo_chunks = n;
        self
    }

    /// Accepts this key only.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sends Gemini's calls without an `id`.
    #[must_use]
    pub fn without_gemini_call_ids(mut self) -> Self {
        self.gemini_call_ids = false;
        self
    }

    /// Has this Copilot account.
    #[must_use]
    pub fn copilot(mut self, account: CopilotAccount) -> Self {
        self.copilot = account;
        self
    }

    fn edit(mut self, change: impl FnOnce(&mut Rule)) -> Self {
        if self.rules.is_empty() {
            self.rules.push(Rule::default());
        }
        if let Some(rule) = self.rules.last_mut() {
            change(rule);
        }
        self
    }
}
