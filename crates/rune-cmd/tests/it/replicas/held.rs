//! A request is with one replica, and another one does nothing for it.

use rune_store_runtime::{
    Command, MessageId, Op, QueueMessage, RequestCancel, RequestId, SettleBudget, Settlement,
    Timestamp,
};
use serde_json::{Value, json};

use super::{Process, Rig, builder};
use crate::home::write_plain;
use crate::wire::{LIMIT, POLL, Tool, answer, lines_of};

/// Waits until the test says that it may end.
const SLOW: Tool<'static> = Tool {
    name: "slow",
    script: "echo up >> started\nuntil [ -e go ]; do sleep 0.05; done\necho '\"slept\"'\n",
    yaml: "timeout_ms: 60000\n",
};

/// What came of a call of the internal API by the replica that this process is.
async fn call(rig: &Rig, replica: &Process, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/internal/v1/{path}", rig.served.0.control_plane());
    let call = reqwest::Client::new().post(url).json(body);
    answer(call.bearer_auth(&replica.env["RUNE_REPLICA_TOKEN"]))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_told_of_what_it_was_made_from_and_nothing_else() {
    let rig = Rig::start(builder()).await;
    write_plain(&rig.served.0.home().join("plain"));
    rig.served.rune(&["run", "plain"]).ok();
    let process = rig.process();
    let own = &process.env["RUNE_REPLICA_FINGERPRINT"];
    let (status, boot) = call(&rig, &process, "replica", &json!({"fingerprint": own})).await;
    assert_eq!(status, 200, "{boot}");
    let other = json!({"fingerprint": format!("{}.0", "0".repeat(64))});
    let (status, refused) = call(&rig, &process, "replica", &other).await;
    assert_eq!(status, 409, "{refused}");
    let id = &boot["deployment"]["id"];
    let read = json!({"read": "deployment", "args": {"id": id}});
    let (status, refused) = call(&rig, &process, "store/read", &read).await;
    assert_eq!(status, 403, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_for_a_request_that_another_replica_runs() {
    let rig = Rig::start(builder()).await;
    let dir = rig.served.0.home().join("worker");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: worker\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: m\ntoolset: [slow]\n\
                    models: {providers: [offline], model_mapping: {m: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let yaml = format!(
        "name: slow\ndescription: A tool.\nmodule: tools/slow.sh\ncapabilities: [filesystem]\n{}",
        SLOW.yaml
    );
    std::fs::write(dir.join("tools/slow.yaml"), yaml).unwrap();
    std::fs::write(dir.join("tools/slow.sh"), SLOW.script).unwrap();
    rig.served.rune(&["run", "worker", "--replicas", "2"]).ok();
    let id = rig.api.start("worker", "/tool slow {}").await;
    let begun = async {
        while lines_of(&rig.served, "worker", "started").is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, begun).await.unwrap();

    let processes = rig.processes();
    assert_eq!(processes.len(), 2);
    let asked = json!({"request_id": id, "op": {"op": "agents"}});
    let mut running = Vec::new();
    for (replica, process) in &processes {
        let (status, body) = call(&rig, process, "engine", &asked).await;
        match status {
            200 => running.push(replica),
            403 => assert!(body.to_string().contains("was taken from"), "{body}"),
            _ => panic!("{status}: {body}"),
        }
    }
    assert_eq!(running.len(), 1, "one of two runs it");

    let request_id: RequestId = id.parse().unwrap();
    let settle = SettleBudget {
        request_id,
        used: Settlement::Nothing,
        ends: false,
    };
    let cancel = RequestCancel {
        request_id,
        reason: "none".to_owned(),
    };
    let message = QueueMessage {
        message_id: MessageId::generate(),
        namespace: "dev".to_owned(),
        agent: "worker".to_owned(),
        channel: "c".to_owned(),
        recipient: "r".to_owned(),
        text: "t".to_owned(),
        request_id,
    };
    let mut others = processes.iter().filter(|(id, _)| *id != running[0]);
    let (_, other) = others.next().unwrap();
    for op in [Op::from(settle), cancel.into(), message.into()] {
        let name = op.name();
        let command = Command::new(Timestamp::from_millis(2_000_000_000_000), op);
        let (status, body) = call(&rig, other, "store/commands", &json!([command])).await;
        assert_eq!(status, 403, "{name}: {body}");
        assert!(
            body.to_string().contains("was taken from"),
            "{name}: {body}"
        );
    }
    let go = rig.served.0.data_dir().join("workspaces/dev/worker/go");
    std::fs::write(go, "").unwrap();
    assert_eq!(rig.api.ended(&id).await["status"], "completed");
}
