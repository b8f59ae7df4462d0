//! `channels.yaml`: which messaging platforms reach which agent.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::SpecErrors;
use crate::name::AgentName;
use crate::suggest::help_for;

/// Every known `type`. In a file, case, `-` and `_` do not matter (`google-chat` is `googlechat`), and the aliases
/// `lark` (feishu), `revolt` (stoat), `twilio` (sms), `msteams` (teams) and `kakao` (kakaotalk) are understood.
pub const CHANNEL_TYPES: [&str; 47] = [
    "bluesky",
    "dingtalk",
    "discord",
    "discourse",
    "email",
    "feishu",
    "flock",
    "gitter",
    "googlechat",
    "gotify",
    "guilded",
    "imessage",
    "instagram",
    "irc",
    "kakaotalk",
    "keybase",
    "line",
    "linkedin",
    "mastodon",
    "matrix",
    "mattermost",
    "messenger",
    "mqtt",
    "mumble",
    "nextcloud",
    "nostr",
    "ntfy",
    "pumble",
    "reddit",
    "rocketchat",
    "signal",
    "slack",
    "sms",
    "stoat",
    "teams",
    "telegram",
    "threema",
    "twist",
    "twitch",
    "viber",
    "webex",
    "webhook",
    "wecom",
    "whatsapp",
    "xmpp",
    "zalo",
    "zulip",
];

/// Other names people use, after `-`, `_` and case are gone.
const ALIASES: [(&str, &str); 8] = [
    ("lark", "feishu"),
    ("revolt", "stoat"),
    ("twilio", "sms"),
    ("msteams", "teams"),
    ("kakao", "kakaotalk"),
    ("nextcloudtalk", "nextcloud"),
    ("zalobot", "zalo"),
    ("threemagateway", "threema"),
];

/// A valid channels file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Channels {
    /// The channels, in the order of the file.
    pub channels: Vec<Channel>,
}

/// One way into an agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Channel {
    /// One of [`CHANNEL_TYPES`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Which agent answers.
    pub agent: AgentName,
    /// Who may write to it.
    pub access: ChannelAccess,
    /// The stable ids let in by `access: allowlist`, or let in beforehand by `access: pairing`.
    pub allow: Vec<String>,
    /// What only the adapter understands; strings are raw.
    pub settings: BTreeMap<String, Value>,
}

/// Who may write to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelAccess {
    /// Whoever was let in with a pairing code.
    #[default]
    Pairing,
    /// The ids of `allow`.
    Allowlist,
    /// Everybody.
    Open,
}

impl Channels {
    /// Parses and validates the text of a channels file. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        let (document, source) = Document::parse::<RawChannels>(path, text)?;
        let mut checker = Checker::new(&source);
        let mut channels = Vec::new();
        for (index, entry) in document.channels.into_iter().enumerate() {
            channels.extend(channel(
                &mut checker,
                &At::top("channels").index(index),
                entry,
            ));
        }
        checker.finish(Self { channels })
    }
}

/// What is read: settings are free, so the entries are maps here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChannels {
    channels: Vec<BTreeMap<String, Value>>,
}

/// Which messaging platforms reach which agent.
#[derive(JsonSchema)]
#[schemars(rename = "Channels", deny_unknown_fields)]
#[expect(dead_code, reason = "only its JSON Schema is used")]
pub(crate) struct ChannelsDocument {
    /// The channels.
    channels: Vec<ChannelDocument>,
}

/// One way into an agent; further keys are settings of its platform.
#[derive(JsonSchema)]
#[schemars(rename = "Channel")]
#[expect(dead_code, reason = "only its JSON Schema is used")]
struct ChannelDocument {
    /// The platform, such as `irc`, `slack` or `webhook`.
    r#type: String,
    /// Which agent answers.
    agent: String,
    /// Who may write to it.
    #[schemars(default)]
    access: ChannelAccess,
    /// Stable ids of senders that are let in.
    #[schemars(default)]
    allow: Vec<crate::checker::Scalar>,
    /// Settings of the platform.
    #[schemars(flatten)]
    settings: BTreeMap<String, Value>,
}

fn channel(
    checker: &mut Checker<'_>,
    at: &At,
    mut entry: BTreeMap<String, Value>,
) -> Option<Channel> {
    let kind = text(checker, at, &mut entry, "type").and_then(|name| {
        let known = kind(&name);
        if known.is_none() {
            let help = help_for(&name, CHANNEL_TYPES.iter().copied());
            checker.error_with_help(
                &at.field("type"),
                format!("unknown channel type `{name}`"),
                help,
            );
        }
        known
    });
    let agent = text(checker, at, &mut entry, "agent")
        .and_then(|name| checker.take(&at.field("agent"), name.parse()));
    let access = access(checker, at, entry.remove("access").as_ref());
    let allow = allow(checker, at, entry.remove("allow"));
    match access {
        Some(ChannelAccess::Allowlist) if allow.is_empty() => {
            checker.error(at, "`access: allowlist` needs a list `allow` of sender ids");
        }
        Some(ChannelAccess::Open) if !allow.is_empty() => {
            checker.error(
                &at.field("allow").key(),
                "`allow` has no meaning with `access: open`",
            );
        }
        _ => {}
    }
    // Misspelt common keys would otherwise pass as settings and silently leave the default, as `acces: open` would.
    for key in entry.keys() {
        if let Some(near) =
            crate::nearest(key, ["access", "allow", "agent", "type"]).filter(|near| near.len() > 4)
        {
            checker.error_with_help(
                &at.field(key).key(),
                format!("unknown key `{key}`"),
                Some(format!("did you mean `{near}`?")),
            );
        }
    }
    Some(Channel {
        kind: kind?,
        agent: agent?,
        access: access?,
        allow,
        settings: entry,
    })
}

fn kind(name: &str) -> Option<&'static str> {
    let plain: String = name
        .to_lowercase()
        .chars()
        .filter(|c| !matches!(c, '-' | '_' | '.' | ' '))
        .collect();
    let plain = ALIASES
        .iter()
        .find(|(alias, _)| *alias == plain)
        .map_or(plain.as_str(), |(_, kind)| kind);
    CHANNEL_TYPES.iter().copied().find(|kind| *kind == plain)
}

fn text(
    checker: &mut Checker<'_>,
    at: &At,
    entry: &mut BTreeMap<String, Value>,
    key: &str,
) -> Option<String> {
    match entry.remove(key) {
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            checker.error(&at.field(key), format!("`{key}` must be text"));
            None
        }
        None => {
            checker.error(at, format!("missing required key `{key}`"));
            None
        }
    }
}

fn access(checker: &mut Checker<'_>, at: &At, value: Option<&Value>) -> Option<ChannelAccess> {
    match value.map(Value::as_str) {
        None => Some(ChannelAccess::default()),
        Some(Some("pairing")) => Some(ChannelAccess::Pairing),
        Some(Some("allowlist")) => Some(ChannelAccess::Allowlist),
        Some(Some("open")) => Some(ChannelAccess::Open),
        Some(other) => {
            let word = other.unwrap_or_default();
            let help = help_for(word, ["pairing", "allowlist", "open"]);
            checker.error_with_help(&at.field("access"), format!("unknown value `{word}`"), help);
            None
        }
    }
}

fn allow(checker: &mut Checker<'_>, at: &At, value: Option<Value>) -> Vec<String> {
    let at = at.field("allow");
    let entries = match value {
        None => return Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => {
            checker.error(&at, "`allow` must be a list of sender ids");
            return Vec::new();
        }
    };
    let mut ids = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match entry {
            Value::String(id) => ids.push(id),
            Value::Number(id) => ids.push(id.to_string()),
            _ => checker.error(&at.index(index), "a sender id must be text"),
        }
    }
    ids
}
