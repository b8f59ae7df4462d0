//! Cards in both forms.

use std::collections::BTreeMap;

use rune_a2a::{
    AgentCapabilities, AgentCard, AgentExtension, AgentInterface, AgentProvider, AgentSkill,
    Binding, CardForm, CardSignature, ProtocolVersion, SecurityScheme,
};
use serde_json::json;

fn card() -> AgentCard {
    let interface = |version, binding| AgentInterface {
        url: format!("https://example.org/{}", ProtocolVersion::as_str(version)),
        binding,
        version,
        tenant: Some("acme".to_owned()),
    };
    let description = "A key.".to_owned();
    AgentCard {
        name: "hello".to_owned(),
        description: "Says hello.".to_owned(),
        interfaces: vec![
            interface(ProtocolVersion::V1, Binding::JsonRpc),
            interface(ProtocolVersion::V1, Binding::HttpJson),
            interface(ProtocolVersion::V03, Binding::JsonRpc),
            interface(ProtocolVersion::V03, Binding::HttpJson),
        ],
        provider: Some(AgentProvider {
            url: "https://example.org".to_owned(),
            organization: "Example".to_owned(),
        }),
        version: "1.2.3".to_owned(),
        documentation_url: Some("https://example.org/docs".to_owned()),
        capabilities: AgentCapabilities {
            streaming: true,
            push_notifications: false,
            extensions: vec![AgentExtension {
                uri: "https://example.org/x".to_owned(),
                description: "X.".to_owned(),
                required: false,
            }],
            extended_agent_card: true,
        },
        security: BTreeMap::from([
            (
                "bearer".to_owned(),
                SecurityScheme::Bearer {
                    description: description.clone(),
                },
            ),
            (
                "api_key".to_owned(),
                SecurityScheme::ApiKey {
                    header: "X-API-Key".to_owned(),
                    description,
                },
            ),
        ]),
        input_modes: vec!["text/plain".to_owned()],
        output_modes: vec!["text/plain".to_owned()],
        skills: vec![AgentSkill {
            id: "hello".to_owned(),
            name: "hello".to_owned(),
            description: "Says hello.".to_owned(),
            tags: vec!["agent".to_owned()],
            examples: vec!["Hello!".to_owned()],
        }],
        signatures: vec![CardSignature {
            protected: "e30".to_owned(),
            signature: "AA".to_owned(),
        }],
    }
}

#[test]
fn the_official_type_reads_all_of_a_clean_card() {
    let clean = card().encode(CardForm::Clean);
    let official: a2a::AgentCard = serde_json::from_value(clean.clone()).unwrap();
    assert_eq!(serde_json::to_value(official).unwrap(), clean);
}

#[test]
fn a_hybrid_card_is_the_clean_one_with_what_0_3_looks_for() {
    let (clean, hybrid) = (
        card().encode(CardForm::Clean),
        card().encode(CardForm::Hybrid),
    );
    for (key, value) in clean.as_object().unwrap() {
        if key != "securitySchemes" {
            assert_eq!(&hybrid[key], value, "{key}");
        }
    }
    let official: a2a::AgentCard = serde_json::from_value(hybrid.clone()).unwrap();
    assert_eq!(serde_json::to_value(official).unwrap(), clean);
    assert_eq!(hybrid["protocolVersion"], "0.3");
    assert_eq!(hybrid["url"], "https://example.org/0.3");
    assert_eq!(hybrid["preferredTransport"], "JSONRPC");
    assert_eq!(hybrid["additionalInterfaces"][1]["transport"], "HTTP+JSON");
    assert_eq!(hybrid["supportsAuthenticatedExtendedCard"], true);
    assert_eq!(hybrid["security"], json!([{"api_key": []}, {"bearer": []}]));
    let scheme = &hybrid["securitySchemes"]["api_key"];
    assert_eq!(
        (&scheme["type"], &scheme["in"]),
        (&json!("apiKey"), &json!("header"))
    );
}

#[test]
fn a_card_without_an_interface_of_0_3_has_nothing_of_it() {
    let mut card = card();
    card.interfaces.truncate(2);
    assert_eq!(card.encode(CardForm::Hybrid), card.encode(CardForm::Clean));
}
