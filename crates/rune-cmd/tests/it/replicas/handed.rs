//! What a replica is given of the daemon's settings.

use serde_json::json;

use super::{Rig, builder};
use crate::remote_agents::server::{Reply, Scripted, result};
use crate::remote_agents::{ask, deploy, deploy_asker, outcome, ran, tool};

const KEY: &str = "key-of-the-callee";

/// An agent elsewhere that answers everything.
async fn elsewhere() -> Scripted {
    Scripted::agent(json!({}), |_| {
        let parts = json!([{"text": "hi"}]);
        result(&json!({"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": parts}}))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_elsewhere_are_called_with_the_credentials_of_the_daemon() {
    let agent = elsewhere().await;
    let credentials = format!("{} X-API-Key: {KEY}", agent.base);
    let rig = Rig::start(builder().env("RUNE_A2A_REMOTE_CREDENTIALS", credentials)).await;
    deploy_asker(&rig.served, &agent.base, "");
    let told = outcome(&ran(&rig.api, "asker", &ask("x")).await);
    assert_eq!(told, Ok(json!("hi")));
    deploy(&rig.served, "sender", &["rune@a2a-send"], "", "");
    let send = tool("rune@a2a-send", &json!({"url": agent.base, "message": "x"}));
    let told = outcome(&ran(&rig.api, "sender", &send).await).unwrap();
    assert_eq!(told["text"], "hi");
    let calls = agent.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    for seen in agent.seen() {
        let header = format!("x-api-key: {KEY}");
        assert!(seen.head.contains(&header), "{seen:?}");
    }

    // Who calls nobody elsewhere has none of them.
    deploy(&rig.served, "alone", &["rune@system-time"], "", "");
    let client = reqwest::Client::new();
    let mut told = Vec::new();
    for (id, process) in rig.processes() {
        let url = format!("{}/internal/v1/replica", rig.served.0.control_plane());
        let boot = client
            .post(url)
            .bearer_auth(&process.env["RUNE_REPLICA_TOKEN"]);
        let boot = boot.json(&json!({"fingerprint": process.env["RUNE_REPLICA_FINGERPRINT"]}));
        let boot = boot.send().await.unwrap();
        assert_eq!(boot.status(), 200, "{id}");
        let boot: serde_json::Value = boot.json().await.unwrap();
        let agent = boot["deployment"]["agent"].as_str().unwrap().to_owned();
        told.push((agent, boot["settings"].to_string().contains(KEY)));
    }
    told.sort();
    let expected = [("alone", false), ("asker", true), ("sender", true)];
    assert_eq!(told, expected.map(|(agent, has)| (agent.to_owned(), has)));
    assert!(!rig.served.0.log().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_elsewhere_are_called_only_where_the_daemon_lets_them() {
    let agent = elsewhere().await;
    let rig = Rig::start(builder().env("RUNE_A2A_REMOTE_HOSTS", "agents.example.org")).await;
    deploy_asker(&rig.served, &agent.base, "");
    let (code, message) = outcome(&ran(&rig.api, "asker", &ask("x")).await).unwrap_err();
    assert_eq!(code, "denied");
    assert!(message.contains("a2a.remote_hosts"), "{message}");
    assert!(agent.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_asked_through_the_proxy_of_the_machine_and_replicas_are_not() {
    let proxy = Scripted::start(|_, _| Reply::Whole(400, "application/json", b"{}".to_vec())).await;
    let rig = Rig::start(builder().env("HTTP_PROXY", &proxy.base)).await;
    let dir = rig.served.0.home().join("modeled");
    std::fs::create_dir_all(&dir).unwrap();
    let endpoint = "{protocol: openai, base_url: \"http://models.invalid/v1\", api_key: test}";
    let runefile = format!(
        "name: modeled\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: m\ntoolset: []\n\
         models: {{providers: [far], endpoints: {{far: {endpoint}}}, model_mapping: {{m: some-model}}}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    rig.served.rune(&["run", "modeled"]).ok();
    let id = rig.api.start("modeled", "hello").await;
    let row = rig.api.ended(&id).await;
    assert_eq!(row["status"], "failed", "{row}");
    let seen = proxy.seen();
    assert!(!seen.is_empty(), "{row}");
    for seen in seen {
        let path = &seen.path;
        assert!(path.starts_with("http://models.invalid/v1/"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claude_program_finds_the_home_of_the_daemon_and_keys_stay_there() {
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("claude");
    let script = "#!/bin/sh\necho \"$HOME\" > \"$HOME/asked-in\"\necho '2.1.197 (Claude Code)'\n";
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.path().display());
    let builder = builder().env("PATH", path);
    let rig = Rig::start(builder.env("OPENAI_API_KEY", KEY)).await;
    let home = rig.served.0.home().to_owned();
    let dir = home.join("thinker");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: thinker\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: m\ntoolset: []\n\
                    models: {providers: [claude-code], model_mapping: {m: some-model}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    rig.served.rune(&["run", "thinker"]).ok();
    let id = rig.api.start("thinker", "hello").await;
    let row = rig.api.ended(&id).await;
    // It is the right one to ask, and answers nothing.
    assert_eq!(row["status"], "failed", "{row}");
    let asked = std::fs::read_to_string(home.join("asked-in"));
    let asked = asked.unwrap_or_else(|error| panic!("{error}: {row}\n{}", rig.served.0.log()));
    assert_eq!(asked.trim(), home.to_str().unwrap());
    let env = rig.process().env;
    assert_eq!(env["HOME"], home.to_str().unwrap());
    assert!(!env.values().any(|value| value.contains(KEY)), "{env:?}");
}
