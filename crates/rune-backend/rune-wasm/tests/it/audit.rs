//! What `rune tool audit` is told.

use serde_json::json;

use crate::sandbox::{Sandbox, described, guest};

#[tokio::test]
async fn an_audit_says_what_is_imported_and_what_is_granted() {
    let sandbox = Sandbox::new();
    let descriptor = described("limits: {fuel: 5, cpu_ms: 7}\n");
    let audit = sandbox
        .runtime
        .audit(&guest("fetch"), Some(&descriptor))
        .await
        .unwrap();
    let audit = serde_json::to_value(audit).unwrap();
    assert_eq!(audit["kind"], "tool-component");
    assert_eq!(audit["fuel"], 5);
    assert_eq!(audit["cpu_ms"], 7);
    assert_eq!(audit["memory_limit_bytes"], 134_217_728);
    assert_eq!(audit["initial_memory_bytes"], 131_072);
    let import = |name: &str| {
        let imports = audit["imports"].as_array().unwrap();
        imports
            .iter()
            .find(|import| import["name"] == name)
            .unwrap()
            .clone()
    };
    let wanted = json!({
        "name": "wasi:http/outgoing-handler@0.2.0",
        "capability": "network:HOST",
        "required": true,
        "granted": false,
    });
    assert_eq!(import("wasi:http/outgoing-handler@0.2.0"), wanted);
    assert_eq!(import("wasi:io/poll@0.2.0")["granted"], true);
    assert!(
        audit["error"].as_str().unwrap().contains("is not granted"),
        "{audit}"
    );
}

#[tokio::test]
async fn a_component_says_what_it_is() {
    let sandbox = Sandbox::new();
    let audit = sandbox.runtime.audit(&guest("shout"), None).await.unwrap();
    let metadata = audit.metadata.unwrap();
    assert_eq!(
        (
            metadata.name.as_str(),
            metadata.version.as_str(),
            metadata.input_schema.as_str()
        ),
        ("shout", "0.1.0", "{\"type\":\"object\"}")
    );
    assert_eq!(
        metadata.description,
        "Answers its input in capital letters."
    );
    assert_eq!((audit.error, audit.capabilities), (None, None));
}

#[tokio::test]
async fn a_component_that_never_ends_its_description_is_left() {
    let sandbox = Sandbox::new();
    let text = std::fs::read_to_string(guest("shout")).unwrap();
    let text = text.replace(
        ";; Four texts at 32: where, how long.",
        "(loop $again (br $again))",
    );
    let path = sandbox.outer().join("endless.wat");
    std::fs::write(&path, text).unwrap();
    let audit = sandbox.runtime.audit(&path, None).await.unwrap();
    assert!(audit.metadata.is_none());
}
