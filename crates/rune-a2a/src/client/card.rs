//! Cards as others write them.

use serde_json::Value;

use super::ClientError;
use super::limits::{MAX_CARD_BYTES, MAX_CARD_ITEMS};
use crate::limits::MAX_URL_BYTES;
use crate::{AgentInterface, AgentSkill, Binding, CHAIN_EXTENSION, ProtocolVersion};

/// The longest text of a card that is kept, in characters.
const MAX_TEXT_CHARS: usize = 4096;

/// Where and how an agent is called, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardInterface {
    /// An absolute URL.
    pub url: String,
    /// Such as `JSONRPC`.
    pub binding: String,
    /// Such as `1.0`.
    pub version: String,
    /// What is sent as `tenant`.
    pub tenant: Option<String>,
}

/// The card of an agent that somebody else serves, in the form of 1.0 or 0.3 or both. What is not needed is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCard {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its version, not that of the protocol.
    pub version: String,
    /// Where it is called, in its order; those of 1.0 first.
    pub interfaces: Vec<CardInterface>,
    /// Whether it has streams.
    pub streaming: bool,
    /// Whether it tells webhooks.
    pub push_notifications: bool,
    /// URIs of the extensions that it knows.
    pub extensions: Vec<String>,
    /// URIs of those that clients have to know.
    pub required_extensions: Vec<String>,
    /// What it can do.
    pub skills: Vec<AgentSkill>,
}

impl RemoteCard {
    /// Reads a card.
    ///
    /// # Errors
    /// [`ClientError::Malformed`], [`ClientError::TooLarge`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ClientError> {
        if bytes.len() > MAX_CARD_BYTES {
            return Err(ClientError::TooLarge {
                what: "card",
                limit: MAX_CARD_BYTES,
            });
        }
        let wrong = |why: String| ClientError::Malformed { what: "card", why };
        let card: Value = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is not JSON: {error}")))?;
        if !card.is_object() {
            return Err(wrong("it is no object".to_owned()));
        }
        let name = text(&card["name"]);
        if name.is_empty() {
            return Err(wrong("`name` is missing".to_owned()));
        }
        let capabilities = &card["capabilities"];
        let extensions = items(&capabilities["extensions"]);
        let uris = |all: bool| {
            let wanted = extensions
                .clone()
                .filter(move |extension| all || extension["required"] == true);
            wanted
                .map(|extension| text(&extension["uri"]))
                .filter(|uri| !uri.is_empty())
                .collect()
        };
        Ok(Self {
            name,
            description: text(&card["description"]),
            version: text(&card["version"]),
            interfaces: interfaces(&card),
            streaming: capabilities["streaming"] == true,
            push_notifications: capabilities["pushNotifications"] == true,
            extensions: uris(true),
            required_extensions: uris(false),
            skills: items(&card["skills"]).map(skill).collect(),
        })
    }

    /// The interface to call it by: of those that are spoken here the first one of 1.0, else the first one of 0.3.
    ///
    /// # Errors
    /// [`ClientError::NoInterface`], [`ClientError::Extension`].
    pub fn interface(&self) -> Result<AgentInterface, ClientError> {
        let mut required = self.required_extensions.iter();
        if let Some(unknown) = required.find(|uri| *uri != CHAIN_EXTENSION) {
            return Err(ClientError::Extension(unknown.clone()));
        }
        let spoken = |version: ProtocolVersion| {
            let mut spoken = self.interfaces.iter().filter_map(CardInterface::spoken);
            spoken.find(|interface| interface.version == version)
        };
        let chosen = ProtocolVersion::ALL.into_iter().find_map(spoken);
        chosen.ok_or_else(|| {
            let named = self.interfaces.iter();
            let named = named.map(|one| format!("{} {}", one.binding, one.version));
            let named: Vec<String> = named.collect();
            ClientError::NoInterface(match named.is_empty() {
                true => "none".to_owned(),
                false => named.join(", "),
            })
        })
    }

    /// Whether messages with the same key begin one task.
    #[must_use]
    pub fn keeps_keys(&self) -> bool {
        self.extensions.iter().any(|uri| uri == CHAIN_EXTENSION)
    }
}

impl CardInterface {
    fn spoken(&self) -> Option<AgentInterface> {
        let binding = match self.binding.to_ascii_uppercase().as_str() {
            "JSONRPC" => Binding::JsonRpc,
            "HTTP+JSON" => Binding::HttpJson,
            _ => return None,
        };
        let version = match ProtocolVersion::requested(Some(&self.version)) {
            Ok(Some(version)) => version,
            // The methods that are called are those of 0.3.
            Err(_) if self.version.starts_with("0.2.") => ProtocolVersion::V03,
            _ => return None,
        };
        let is_spoken = (binding, version) != (Binding::HttpJson, ProtocolVersion::V03);
        is_spoken.then(|| AgentInterface {
            url: self.url.clone(),
            binding,
            version,
            tenant: self.tenant.clone(),
        })
    }
}

fn interfaces(card: &Value) -> Vec<CardInterface> {
    let young = items(&card["supportedInterfaces"]).map(|one| {
        let tenant = text(&one["tenant"]);
        CardInterface {
            url: text(&one["url"]),
            binding: text(&one["protocolBinding"]),
            version: text(&one["protocolVersion"]),
            tenant: (!tenant.is_empty()).then_some(tenant),
        }
    });
    let said = text(&card["protocolVersion"]);
    let version = match said.is_empty() {
        true => ProtocolVersion::V03.as_str().to_owned(),
        false => said,
    };
    let old = |url: &Value, transport: &Value| CardInterface {
        url: text(url),
        binding: match transport.as_str() {
            Some(transport) => transport.to_owned(),
            None => Binding::JsonRpc.as_str().to_owned(),
        },
        version: version.clone(),
        tenant: None,
    };
    let preferred = old(&card["url"], &card["preferredTransport"]);
    let others =
        items(&card["additionalInterfaces"]).map(|one| old(&one["url"], &one["transport"]));
    let mut all: Vec<CardInterface> = Vec::new();
    for one in young.chain([preferred]).chain(others) {
        let is_url = one.url.starts_with("https://") || one.url.starts_with("http://");
        // A hybrid card says the same twice.
        let is_known = all.iter().any(|known| {
            (&known.url, &known.binding, &known.version) == (&one.url, &one.binding, &one.version)
        });
        if is_url && one.url.len() <= MAX_URL_BYTES && !is_known {
            all.push(one);
        }
    }
    all
}

fn skill(skill: &Value) -> AgentSkill {
    let texts = |list: &Value| items(list).map(text).collect();
    AgentSkill {
        id: text(&skill["id"]),
        name: text(&skill["name"]),
        description: text(&skill["description"]),
        tags: texts(&skill["tags"]),
        examples: texts(&skill["examples"]),
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> + Clone {
    list.as_array().into_iter().flatten().take(MAX_CARD_ITEMS)
}

fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(card: &Value) -> Result<(String, Binding, ProtocolVersion), ClientError> {
        let card = RemoteCard::parse(card.to_string().as_bytes())?;
        let one = card.interface()?;
        Ok((one.url, one.binding, one.version))
    }

    #[test]
    fn the_first_interface_of_1_0_that_is_spoken_is_chosen() {
        let card = json!({"name": "a", "supportedInterfaces": [
            {"url": "https://x/grpc", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
            {"url": "https://x/old", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
            {"url": "https://x/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0.1"},
            {"url": "https://x/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        ]});
        let expected = (
            "https://x/rest".to_owned(),
            Binding::HttpJson,
            ProtocolVersion::V1,
        );
        assert_eq!(chosen(&card), Ok(expected));
    }

    #[test]
    fn a_card_of_0_3_has_its_own_fields() {
        let card = json!({
            "name": "a", "url": "https://x/", "protocolVersion": "0.3.0", "preferredTransport": "GRPC",
            "additionalInterfaces": [{"url": "https://x/rpc", "transport": "JSONRPC"}],
        });
        let expected = (
            "https://x/rpc".to_owned(),
            Binding::JsonRpc,
            ProtocolVersion::V03,
        );
        assert_eq!(chosen(&card), Ok(expected));
        let old = json!({"name": "a", "url": "https://x/"});
        assert_eq!(chosen(&old).unwrap().2, ProtocolVersion::V03);
    }

    #[test]
    fn an_extension_that_has_to_be_known_is_named() {
        let card = |uri: &str, required: bool| {
            json!({
                "name": "a", "url": "https://x/",
                "capabilities": {"extensions": [{"uri": uri, "required": required}]},
            })
        };
        assert!(chosen(&card("urn:other", false)).is_ok());
        assert!(chosen(&card(CHAIN_EXTENSION, true)).is_ok());
        let refused = chosen(&card("urn:other", true)).unwrap_err();
        assert!(refused.to_string().contains("`urn:other`"), "{refused}");
    }

    #[test]
    fn a_card_with_nothing_to_call_says_so() {
        let card = json!({"name": "a", "supportedInterfaces": [
            {"url": "https://x", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
            {"url": "ftp://x", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": "https://x", "protocolBinding": "JSONRPC", "protocolVersion": "2.0"},
        ]});
        let error = chosen(&card).unwrap_err().to_string();
        assert!(error.ends_with("names GRPC 1.0, JSONRPC 2.0"), "{error}");
        for wrong in ["", "[]", "{}", "{\"name\": 1}", "<html>"] {
            let error = RemoteCard::parse(wrong.as_bytes()).unwrap_err();
            assert!(matches!(error, ClientError::Malformed { .. }), "{wrong}");
        }
        let huge = vec![b' '; MAX_CARD_BYTES + 1];
        assert!(matches!(
            RemoteCard::parse(&huge),
            Err(ClientError::TooLarge { .. })
        ));
    }
}
