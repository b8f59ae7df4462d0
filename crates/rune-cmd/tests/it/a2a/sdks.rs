//! The official Python SDKs of both versions as clients.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply};

use super::signed::signing;
use super::{SLOW, daemon, deploy};
use crate::home::Served;
use crate::openai::deploy_asking;
use crate::python::{A2A_0_3, A2A_1, program};
use crate::wire::{assert_no_panic, deploy as deploy_model};

/// What both SDKs are asked to do.
const STEPS: [&str; 8] = [
    "card",
    "blocking",
    "streaming",
    "resubscribe",
    "cancel",
    "webhooks",
    "files",
    "approvals",
];
const MAKER: &str = r#"rules:
  - respond: '[{"type": "text", "text": "See:"}, {"type": "file", "media_type": "application/pdf", "name": "a.pdf", "data": "AQID"}, {"type": "file", "url": "https://example.org/b.txt"}]'
"#;

/// A daemon with the agents of the steps, and their models.
struct Stage {
    served: Served,
    /// The model of the agent that is sent files.
    eye: ModelServer,
    /// The model that tells its answer piece by piece.
    _teller: ModelServer,
}

impl Stage {
    async fn new() -> Self {
        let served = daemon(&[("RUNE_A2A_PUSH_ALLOW_PRIVATE", "127.0.0.1")]).await;
        deploy(&served, "plain", "", "", &[]);
        deploy(&served, "stuck", SLOW, "", &[]);
        deploy(
            &served,
            "maker",
            MAKER,
            "output_schema: {type: array}\n",
            &[],
        );
        deploy_asking(&served);
        let seen = ModelScript::new().reply(Reply::text(["seen"]));
        let eye = ModelServer::start(seen).await.unwrap();
        deploy_model(&served, "eye", &[(&eye, Protocol::Anthropic)], &[], "");
        let whole: String = (0..100).map(|n| format!("{n} ")).collect();
        let every = |millis| {
            let told = Reply::text(whole.as_str()).chunks(100);
            told.chunk_every(Duration::from_millis(millis))
        };
        let script = ModelScript::new().on_text("go").reply(every(5));
        let script = script.on_text("slowly").reply(every(50));
        let teller = ModelServer::start(script).await.unwrap();
        let models = [(&teller, Protocol::Anthropic)];
        deploy_model(&served, "teller", &models, &[], "");
        Self {
            served,
            eye,
            _teller: teller,
        }
    }

    /// The files that a client sent reached the model.
    fn assert_seen(&self) {
        let requests = self.eye.requests();
        let sent = serde_json::to_string(&requests.last().unwrap().body).unwrap();
        let png = BASE64_STANDARD.encode(b"\x89PNG\r\n\x1a\nnot much of one");
        for expected in [&png, "File `t.csv` (text/csv):\\na,b\\n1,2"] {
            assert!(sent.contains(expected), "{expected}: {sent}");
        }
        assert_no_panic(&self.served);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_of_1_0_works_over_both_bindings() {
    let Some(client) = program(&A2A_1, "a2a/client_1.py") else {
        return;
    };
    let stage = Stage::new().await;
    for binding in ["JSONRPC", "HTTP+JSON"] {
        let args = [stage.served.0.gateway(), binding, "lists"];
        client.run(&[&args[..], &STEPS].concat());
        stage.assert_seen();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_of_0_3_works() {
    let Some(client) = program(&A2A_0_3, "a2a/client_0_3.py") else {
        return;
    };
    let stage = Stage::new().await;
    let args = [stage.served.0.gateway()];
    client.run(&[&args[..], &STEPS].concat());
    stage.assert_seen();
}

#[tokio::test(flavor = "multi_thread")]
async fn that_of_1_0_checks_the_signatures_of_cards() {
    let Some(client) = program(&A2A_1, "a2a/client_1.py") else {
        return;
    };
    let (served, _key) = signing(&[("RUNE_API_KEY", "key")]).await;
    for binding in ["JSONRPC", "HTTP+JSON"] {
        client.run(&[served.0.gateway(), binding, "signature"]);
    }
}
