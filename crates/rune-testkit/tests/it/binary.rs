use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

const SCRIPT: &str = r#"
latency_ms: 1
rules:
  - when: {text: weather, results: 0, protocol: openai}
    faults:
      - {fault: {status: {code: 429, retry_after: 0}}, times: 2}
      - fault: {cut: in_tool_call}
      - fault: close
      - fault: {stall: {after_chunks: 2, ping_ms: 5}}
      - fault: {garbage: html}
    replies:
      - reasoning: Let me think.
        tool_calls: [{name: weather, input: {city: Oslo}}]
        usage: {input: 20, cached: 10}
      - text: [It , rains]
        stop: max_tokens
"#;

#[test]
fn reads_a_script_and_prints_where_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.yaml");
    std::fs::write(&file, SCRIPT).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_rune-model-server"))
        .arg("--script")
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let printed: Value = serde_json::from_str(&line).unwrap();
    let url = format!("{}/chat/completions", printed["openai"].as_str().unwrap());
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "weather"}]});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let request = reqwest::Client::new()
        .post(url)
        .bearer_auth("k")
        .json(&body)
        .send();
    let status = runtime.block_on(request).unwrap().status();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status, 429);
}

#[test]
fn says_where_a_script_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.yaml");
    std::fs::write(&file, "rules:\n  - wehn: {}\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rune-model-server"))
        .arg("--script")
        .arg(&file)
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && message.contains("wehn") && message.contains("script.yaml"),
        "{message}"
    );
}
