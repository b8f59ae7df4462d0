//! `rune test`: recorded runs, played without a daemon and without a network.

use std::path::Path;

use serde_json::Value;

use crate::home::{Home, Served};
use crate::wire::Api;

/// An agent that asks a tool of its own and reports.
fn write_agent(dir: &Path, instructions: &str, said: &str) {
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = format!(
        "name: bot\nversion: 0.1.0\ninstructions: {instructions}\ndefault_model: default\ntoolset: [look]\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let tool = "name: look\ndescription: Looks.\nmodule: tools/look.sh\n";
    std::fs::write(dir.join("tools/look.yaml"), tool).unwrap();
    std::fs::write(
        dir.join("tools/look.sh"),
        format!("echo '{{\"said\": \"{said}\"}}'\n"),
    )
    .unwrap();
}

/// The only cassette of an agent.
fn cassette(dir: &Path) -> std::path::PathBuf {
    let mut files = std::fs::read_dir(dir.join("evals")).unwrap();
    files.next().unwrap().unwrap().path()
}

fn case(report: &Value) -> &Value {
    &report["cases"][0]
}

#[test]
fn a_recorded_run_is_played_and_what_changed_is_named() {
    let home = Home::new();
    let dir = home.path().join("bot");
    write_agent(&dir, "Look and report.", "hello");
    let input = "/tool look {}";
    home.rune(&["test", "bot", "--record", input]).ok();
    let recorded = std::fs::read_to_string(cassette(&dir)).unwrap();
    assert!(recorded.contains("cassette: 1"), "{recorded}");

    let report = home.rune(&["test", "bot", "-o", "json"]).json();
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&1.into(), &0.into()),
        "{report}"
    );
    // Whatever the tool says now, it is answered from the cassette…
    write_agent(&dir, "Look and report.", "goodbye");
    home.rune(&["test", "bot"]).ok();
    // …unless it is to run.
    let report = home
        .rune(&["test", "bot", "--live-tools", "-o", "json"])
        .ends(1);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let divergence = &case(&report)["divergence"];
    assert_eq!(divergence["kind"], "tool_result", "{report}");
    assert_eq!(divergence["journal"]["output"]["said"], "hello");
    assert_eq!(divergence["replay"]["output"]["said"], "goodbye");

    write_agent(&dir, "Look, and be brief.", "hello");
    let report = home.rune(&["test", "bot", "-o", "json"]).ends(1);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let divergence = &case(&report)["divergence"];
    assert_eq!(
        (&divergence["kind"], &divergence["field"]),
        (&"model_request".into(), &"/instructions".into()),
        "{report}"
    );

    // The policy denies the call: the first step that differs is the verdict.
    write_agent(&dir, "Look and report.", "hello");
    let runefile = std::fs::read_to_string(dir.join("Runefile")).unwrap();
    std::fs::write(dir.join("Runefile"), runefile + "policy: {deny: [look]}\n").unwrap();
    let ran = home.rune(&["test", "bot", "--junit", "report.xml"]).ends(1);
    assert!(
        ran.stdout.contains("policy_verdict") && ran.stdout.contains("/verdict"),
        "{}",
        ran.stdout
    );
    let xml = std::fs::read_to_string(home.path().join("report.xml")).unwrap();
    assert!(
        xml.contains("failures=\"1\"") && xml.contains("<failure message="),
        "{xml}"
    );
}

#[test]
fn a_cassette_may_ask_for_less_than_everything() {
    let home = Home::new();
    let dir = home.path().join("bot");
    write_agent(&dir, "Look and report.", "hello");
    home.rune(&["test", "bot", "--record", "/tool look {}"])
        .ok();
    let path = cassette(&dir);
    let recorded = std::fs::read_to_string(&path).unwrap();
    let with = |expect: &str| std::fs::write(&path, format!("{recorded}\n{expect}")).unwrap();
    with(
        "expect: {status: completed, output: {contains: hello, matches: '^look answered'}, tools: [look], verdicts: {look: allowed}}\n",
    );
    // Instructions and tools do not matter any more.
    write_agent(&dir, "Say anything.", "goodbye");
    home.rune(&["test", "bot"]).ok();
    with("expect: {output: {contains: goodbye}, tools: []}\n");
    let report = home.rune(&["test", "bot", "-o", "json"]).ends(1);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let unmet = case(&report)["unmet"].as_array().unwrap();
    let fields: Vec<_> = unmet.iter().map(|unmet| &unmet["field"]).collect();
    assert_eq!(fields, ["/output", "/tools"], "{report}");
}

#[test]
fn a_broken_cassette_is_an_error_with_its_place() {
    let home = Home::new();
    let dir = home.path().join("bot");
    write_agent(&dir, "Look.", "hello");
    home.rune(&["test", "bot"]).ends(2);
    std::fs::create_dir_all(dir.join("evals")).unwrap();
    let text = "cassette: 1\nagent: bot\ninput: hi\njournal:\n  - kind: started\n  - kind: model_reply\n    step: one\n";
    std::fs::write(dir.join("evals/broken.yaml"), text).unwrap();
    let ran = home.rune(&["test", "bot"]).ends(2);
    assert!(ran.stderr.contains("evals/broken.yaml:6"), "{}", ran.stderr);
    std::fs::write(dir.join("evals/broken.yaml"), "cassette: 1\nagent: [").unwrap();
    let ran = home.rune(&["test", "bot"]).ends(2);
    assert!(ran.stderr.contains("evals/broken.yaml:2"), "{}", ran.stderr);
}

#[tokio::test]
async fn requests_of_the_daemon_become_cassettes() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let body = |input: &str| serde_json::json!({"input": input, "session_id": "s"});
    let long = format!("one {}", "word ".repeat(1000));
    api.ask("plain", &body(&long)).await;
    let (_, second) = api.ask("plain", &body("/tool rune@system-time {}")).await;
    let cancelled = api.start("plain", "/tool wait {}").await;
    served.rune(&["requests", "cancel", &cancelled]).ok();

    let args = [
        "test",
        "plain",
        "--from-requests",
        "agent=plain",
        "since=1h",
        "limit=10",
        "-o",
        "json",
    ];
    let report = served.rune(&args).json();
    assert_eq!(
        (&report["passed"], &report["skipped"]),
        (&2.into(), &1.into()),
        "{report}"
    );
    let skipped = &report["not_played"][0];
    assert_eq!(skipped["request"], cancelled.as_str());
    assert!(
        skipped["reason"]
            .as_str()
            .unwrap()
            .contains("was cancelled"),
        "{report}"
    );

    let id = second["request_id"].as_str().unwrap();
    served
        .rune(&["test", "plain", "--from-requests", id, "--write"])
        .ok();
    // The file needs neither the daemon nor what it has stored.
    let home = Home::new();
    let copy = std::process::Command::new("cp")
        .arg("-r")
        .arg(served.0.home().join("plain"))
        .arg(home.path())
        .status();
    assert!(copy.unwrap().success());
    drop(served);
    let text = std::fs::read_to_string(cassette(&home.path().join("plain"))).unwrap();
    assert!(
        text.contains("Echo: one"),
        "what the model was shown is in it: {text}"
    );
    assert!(
        text.contains("measured:"),
        "by what that fitted, too: {text}"
    );
    let report = home.rune(&["test", "plain", "-o", "json"]).json();
    assert_eq!(report["passed"], 1, "{report}");
}

#[test]
fn the_cassettes_of_the_examples_pass() {
    let home = Home::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python-tool");
    let ran = home
        .rune(&["test", examples.to_str().unwrap(), "-o", "json"])
        .json();
    assert!(ran["passed"].as_u64() > Some(0), "{ran}");
}
