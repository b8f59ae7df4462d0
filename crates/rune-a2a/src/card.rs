//! Agent cards: how an agent describes itself.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ProtocolVersion;

/// How an agent is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// JSON-RPC over HTTP.
    JsonRpc,
    /// A path for each operation.
    HttpJson,
}

impl Binding {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JsonRpc => "JSONRPC",
            Self::HttpJson => "HTTP+JSON",
        }
    }
}

/// Where and how an agent is called; the first one is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInterface {
    /// An absolute URL.
    pub url: String,
    /// How.
    pub binding: Binding,
    /// In which version.
    pub version: ProtocolVersion,
    /// What the client sends as `tenant`.
    pub tenant: Option<String>,
}

/// What an agent can do beside answering.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentCapabilities {
    /// Streams.
    pub streaming: bool,
    /// Webhooks.
    pub push_notifications: bool,
    /// Extensions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<AgentExtension>,
    /// A card for clients with credentials.
    pub extended_agent_card: bool,
}

/// An extension that an agent knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentExtension {
    /// Its name.
    pub uri: String,
    /// For a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether clients have to know it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Who offers an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentProvider {
    /// A home page.
    pub url: String,
    /// A name.
    pub organization: String,
}

/// Something that an agent can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSkill {
    /// Unique within the agent.
    pub id: String,
    /// For a person.
    pub name: String,
    /// For a person, and for the model of a calling agent.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Such as a client may say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// How a client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityScheme {
    /// `Authorization: Bearer …`; the format is such as `JWT`.
    Bearer {
        /// For a person.
        description: String,
    },
    /// A key in a header.
    ApiKey {
        /// The header.
        header: String,
        /// For a person.
        description: String,
    },
}

impl SecurityScheme {
    fn encode(&self, version: ProtocolVersion) -> Value {
        match (self, version) {
            (Self::Bearer { description }, ProtocolVersion::V1) => {
                json!({"httpAuthSecurityScheme": {"scheme": "Bearer", "description": description}})
            }
            (Self::Bearer { description }, ProtocolVersion::V03) => {
                json!({"type": "http", "scheme": "Bearer", "description": description})
            }
            (
                Self::ApiKey {
                    header,
                    description,
                },
                ProtocolVersion::V1,
            ) => json!({
                "apiKeySecurityScheme":
                    {"location": "header", "name": header, "description": description},
            }),
            (
                Self::ApiKey {
                    header,
                    description,
                },
                ProtocolVersion::V03,
            ) => json!({
                "type": "apiKey", "in": "header", "name": header, "description": description,
            }),
        }
    }
}

/// A signature of a card (RFC 7515, detached).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CardSignature {
    /// The protected header, base64url.
    pub protected: String,
    /// Base64url.
    pub signature: String,
}

/// Which fields a card has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardForm {
    /// Those of 1.0.
    Clean,
    /// Those of 0.3 beside them, so that clients of either version read it.
    Hybrid,
}

/// How an agent describes itself.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentCard {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where it is called, the preferred one first; at least one.
    pub interfaces: Vec<AgentInterface>,
    /// Who offers it.
    pub provider: Option<AgentProvider>,
    /// Its version, not that of the protocol.
    pub version: String,
    /// Where more is said.
    pub documentation_url: Option<String>,
    /// What it can do beside answering.
    pub capabilities: AgentCapabilities,
    /// How clients prove who they are, by name; any one of them is enough.
    pub security: BTreeMap<String, SecurityScheme>,
    /// Media types that it takes.
    pub input_modes: Vec<String>,
    /// Media types that it answers with.
    pub output_modes: Vec<String>,
    /// What it can do.
    pub skills: Vec<AgentSkill>,
    /// Signatures of all that.
    pub signatures: Vec<CardSignature>,
}

impl AgentCard {
    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self, form: CardForm) -> Value {
        let mut out = self.encode_clean();
        if form == CardForm::Hybrid {
            self.add_legacy(&mut out);
        }
        Value::Object(out)
    }

    fn encode_clean(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let mut put = |key: &str, value: Value| {
            out.insert(key.to_owned(), value);
        };
        put("name", json!(self.name));
        put("description", json!(self.description));
        let interfaces = self.interfaces.iter().map(|interface| {
            let mut value = json!({
                "url": interface.url,
                "protocolBinding": interface.binding.as_str(),
                "protocolVersion": interface.version.as_str(),
            });
            if let Some(tenant) = &interface.tenant {
                value["tenant"] = json!(tenant);
            }
            value
        });
        put("supportedInterfaces", interfaces.collect());
        if let Some(provider) = &self.provider {
            put("provider", json!(provider));
        }
        put("version", json!(self.version));
        if let Some(url) = &self.documentation_url {
            put("documentationUrl", json!(url));
        }
        put("capabilities", json!(self.capabilities));
        if !self.security.is_empty() {
            put("securitySchemes", self.schemes(ProtocolVersion::V1));
            let requirements = self.security.keys();
            let requirements = requirements.map(|name| json!({"schemes": {name: {"list": []}}}));
            put("securityRequirements", requirements.collect());
        }
        put("defaultInputModes", json!(self.input_modes));
        put("defaultOutputModes", json!(self.output_modes));
        put("skills", json!(self.skills));
        if !self.signatures.is_empty() {
            put("signatures", json!(self.signatures));
        }
        out
    }

    /// The fields that clients of 0.3 look for. Those of 1.0 pass them over.
    fn add_legacy(&self, out: &mut Map<String, Value>) {
        let old = |interface: &&AgentInterface| interface.version == ProtocolVersion::V03;
        let mut interfaces = self.interfaces.iter().filter(old);
        let Some(preferred) = interfaces.next() else {
            return;
        };
        let mut put = |key: &str, value: Value| {
            out.insert(key.to_owned(), value);
        };
        put("protocolVersion", json!(ProtocolVersion::V03.as_str()));
        put("url", json!(preferred.url));
        put("preferredTransport", json!(preferred.binding.as_str()));
        let others = std::iter::once(preferred).chain(interfaces);
        let others = others.map(
            |interface| json!({"url": interface.url, "transport": interface.binding.as_str()}),
        );
        put("additionalInterfaces", others.collect());
        let extended = self.capabilities.extended_agent_card;
        put("supportsAuthenticatedExtendedCard", json!(extended));
        if !self.security.is_empty() {
            let security = self.security.keys();
            put("security", security.map(|name| json!({name: []})).collect());
            // Each scheme has the members of both, under names that do not collide.
            let mut schemes = self.schemes(ProtocolVersion::V1);
            let legacy = self.schemes(ProtocolVersion::V03);
            if let (Value::Object(schemes), Value::Object(legacy)) = (&mut schemes, legacy) {
                for (name, more) in legacy {
                    if let (Some(Value::Object(scheme)), Value::Object(more)) =
                        (schemes.get_mut(&name), more)
                    {
                        scheme.extend(more);
                    }
                }
            }
            put("securitySchemes", schemes);
        }
    }

    fn schemes(&self, version: ProtocolVersion) -> Value {
        let schemes = self.security.iter();
        let schemes = schemes.map(|(name, scheme)| (name.clone(), scheme.encode(version)));
        Value::Object(schemes.collect())
    }
}
