//! Workflows through the daemon and the command line.

use serde_json::{Value, json};

use crate::home::{Home, RUNE, Ran, Served};
use crate::wire::{Api, assert_no_panic};

fn write(dir: &std::path::Path, files: &[(&str, Value)]) {
    std::fs::create_dir_all(dir).unwrap();
    for (name, value) in files {
        std::fs::write(dir.join(name), value.to_string()).unwrap();
    }
}

fn runefile(name: &str) -> Value {
    json!({
        "name": name, "version": "0.1.0", "instructions": "x", "default_model": "m",
        "models": {"providers": ["offline"], "model_mapping": {"m": "offline"}},
    })
}

fn deploy(served: &Served, name: &str, more: &[(&str, Value)]) {
    let dir = served.0.home().join(name);
    write(&dir, &[("Runefile", runefile(name))]);
    write(&dir, more);
    let mut command = served.0.command();
    command.arg("run").arg(&dir);
    Ran::new(command).ok();
}

/// Twelve steps in four waves of three; those of the third take a while.
fn waves() -> Value {
    let mut steps = Vec::new();
    for wave in 1..=4 {
        for n in 1..=3 {
            let above: Vec<String> = (1..=3).map(|n| format!("s{}-{n}", wave - 1)).collect();
            let depends_on = if wave == 1 { Vec::new() } else { above };
            steps.push(json!({
                "id": format!("s{wave}-{n}"),
                "agent_ref": "local://worker",
                "depends_on": depends_on,
                "input_template": format!("wave {wave} step {n}"),
            }));
        }
    }
    json!({"name": "waves", "version": "1.0.0", "steps": steps})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_third_wave_repeats_none_of_the_first_two() {
    let builder = rune_testkit::TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
    let mut served = Served(builder.start().await.unwrap());
    let script = json!({"rules": [
        {"match": {"contains": "wave 3"}, "delay_ms": 1500, "respond": "done {{ input }}"},
        {"respond": "done {{ input }}"},
    ]});
    deploy(&served, "worker", &[("script.yaml", script)]);
    deploy(&served, "waves", &[("workflow.yaml", waves())]);
    let api = Api::of(&served.0);
    let id = api.start("waves", "go").await;
    let mut events = api.events(&id, 0).await;
    let mut begun = 0;
    while begun < 3 {
        let event = events.next().await.unwrap();
        let step = event.data["step"].as_str().unwrap_or_default();
        begun += u32::from(event.name == "step_started" && step.starts_with("s3"));
    }
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let request = api.ended(&id).await;
    assert_eq!(request["output"], "done wave 4 step 3", "{request}");
    assert_eq!(request["attempts"], 2);
    let events = api.events(&id, 0).await.rest().await;
    let started: Vec<&str> = events
        .iter()
        .filter(|event| event.name == "step_started")
        .map(|event| event.data["step"].as_str().unwrap())
        .collect();
    assert_eq!(started.len(), 12, "{started:?}");
    // Not a request more: what ran was taken up, what had ended was not made again.
    let path = format!("/v1/requests/{id}/calls");
    let (_, tree) = crate::wire::answer(api.get(&path)).await.unwrap();
    let calls = tree["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 12, "{tree}");
    for call in calls {
        let request = api.request(call["request_id"].as_str().unwrap()).await;
        let was_running = call["call_id"].as_str().unwrap().starts_with("s3");
        assert_eq!(request["status"], "completed");
        assert!(was_running || request["attempts"] == 1, "{request}");
    }
    assert_no_panic(&served);
}

#[test]
fn an_invalid_workflow_is_refused_with_its_line() {
    let home = Home::new();
    let text =
        "name: w\nversion: 1.0.0\nsteps:\n  - {id: a, agent_ref: local://x, depends_on: [b]}\n";
    std::fs::write(home.path().join("w.yaml"), text).unwrap();
    let ran = home.rune(&["workflow", "validate", "w.yaml"]).ends(2);
    assert!(ran.stderr.contains("w.yaml:4"), "{}", ran.stderr);
    assert!(ran.stderr.contains("unknown step `b`"), "{}", ran.stderr);
}

#[test]
fn a_graph_for_programs() {
    let home = Home::new();
    std::fs::write(home.path().join("w.yaml"), waves().to_string()).unwrap();
    let text = home
        .rune(&["workflow", "graph", "w.yaml", "-o", "json"])
        .ok();
    let graph: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(graph["waves"].as_array().unwrap().len(), 4);
    assert_eq!(graph["waves"][3], json!(["s4-1", "s4-2", "s4-3"]));
}
