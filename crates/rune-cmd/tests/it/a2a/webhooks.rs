//! Webhooks: kept, told, tried again, and where they may be.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{SLOW, daemon, deploy, id, message, message_v03, refused, result};
use crate::home::Served;
use crate::openai::deploy_asking;
use crate::wire::{Api, LIMIT, answer, spawn};

/// What a webhook was sent: the head of the request, and the body.
#[derive(Debug, Clone)]
struct Sent {
    head: String,
    body: Value,
}

/// A webhook that answers with these statuses, then 200.
struct Hook {
    url: String,
    sent: Arc<Mutex<Vec<Sent>>>,
    count: watch::Receiver<usize>,
    server: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hook {
    async fn start(statuses: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let (counted, count) = watch::channel(0);
        let (kept, mut statuses) = (Arc::clone(&sent), statuses.into_iter());
        let server = spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(one) = read(&mut stream).await {
                    let status = statuses.next().unwrap_or(200);
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let mut kept = kept.lock().unwrap();
                    kept.push(one);
                    counted.send_replace(kept.len());
                }
            }
        });
        Self {
            url,
            sent,
            count,
            server,
        }
    }

    /// All that was sent, once it is so much.
    async fn sent(&self, n: usize) -> Vec<Sent> {
        let mut count = self.count.clone();
        let waiting = count.wait_for(|count| *count >= n);
        tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
        self.sent.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Sent> {
    let mut read = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.ok()?;
        if n == 0 {
            return None;
        }
        read.extend(&part[..n]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length?.trim().parse::<usize>().unwrap() {
            return Some(Sent {
                body: serde_json::from_str(body).unwrap(),
                head,
            });
        }
    }
}

/// What a webhook of 1.0 was told: the states, and the other updates.
fn states(sent: &[Sent]) -> Vec<String> {
    let states = sent.iter().map(|sent| {
        let state = sent.body["statusUpdate"]["status"]["state"].as_str();
        match state {
            Some(state) => state.trim_start_matches("TASK_STATE_").to_owned(),
            None => sent
                .body
                .as_object()
                .unwrap()
                .keys()
                .next()
                .unwrap()
                .clone(),
        }
    });
    states.collect()
}

/// A daemon that may tell webhooks on this machine.
async fn hooked(script: &str) -> Served {
    let served = daemon(&[("RUNE_A2A_PUSH_ALLOW_PRIVATE", "127.0.0.1")]).await;
    deploy(&served, "hello", script, "", &[]);
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_each_change_in_the_form_of_its_version() {
    let served = hooked("").await;
    let api = Api::of(&served.0);
    let hook = Hook::start(Vec::new()).await;
    let config = json!({
        "url": hook.url, "token": "tok", "authentication": {"scheme": "Bearer", "credentials": "secret-c"},
    });
    let params =
        json!({"message": message("hi"), "configuration": {"taskPushNotificationConfig": config}});
    let task = result(&api, "hello", "SendMessage", &params).await["task"].clone();
    let told = hook.sent(3).await;
    assert_eq!(states(&told), ["WORKING", "artifactUpdate", "COMPLETED"]);
    let update = |n: usize| told[n].body.as_object().unwrap().values().next().unwrap();
    for n in 0..3 {
        assert_eq!(
            (&update(n)["taskId"], &update(n)["contextId"]),
            (&task["id"], &task["contextId"])
        );
    }
    assert_eq!(update(1)["artifact"], task["artifacts"][0]);
    assert_eq!(update(1)["lastChunk"], true);
    assert_eq!(update(2)["status"], task["status"]);
    let sent = &told[2];
    for header in [
        "authorization: bearer secret-c",
        "x-a2a-notification-token: tok",
        "content-type: application/json",
    ] {
        assert!(sent.head.contains(header), "{}", sent.head);
    }

    let old = Hook::start(Vec::new()).await;
    let config =
        json!({"url": old.url, "authentication": {"schemes": ["Basic"], "credentials": "b"}});
    let params =
        json!({"message": message_v03("hi"), "configuration": {"pushNotificationConfig": config}});
    let task = result(&api, "hello", "message/send", &params).await;
    let told = old.sent(2).await;
    for (sent, state) in told.iter().zip(["working", "completed"]) {
        assert_eq!(
            (
                &sent.body["kind"],
                &sent.body["id"],
                &sent.body["status"]["state"]
            ),
            (&json!("task"), &task["id"], &json!(state))
        );
    }
    let sent = &told[1];
    assert_eq!(sent.body["artifacts"], task["artifacts"]);
    assert!(
        sent.head.contains("authorization: basic b"),
        "{}",
        sent.head
    );
    // Neither the log nor the database has what the webhook is asked with.
    assert!(!served.0.log().contains("secret-c"));
    let rows = std::fs::read(served.0.data_dir().join("rune.db")).unwrap();
    let wal = std::fs::read(served.0.data_dir().join("rune.db-wal")).unwrap_or_default();
    for file in [rows, wal] {
        assert!(!file.windows(8).any(|part| part == b"secret-c"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_told_again_also_behind_a_restart() {
    let mut served = hooked(SLOW).await;
    let hook = Hook::start(vec![200, 500, 503]).await;
    let api = Api::of(&served.0);
    let now = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let task = result(&api, "hello", "SendMessage", &now).await["task"].clone();
    let create = json!({"taskId": task["id"], "url": hook.url});
    result(&api, "hello", "CreateTaskPushNotificationConfig", &create).await;
    hook.sent(1).await;
    result(&api, "hello", "CancelTask", &json!({"id": task["id"]})).await;
    hook.sent(2).await;
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    // What it took it is not told again.
    let sent = hook.sent(4).await;
    assert_eq!(
        states(&sent),
        ["WORKING", "CANCELED", "CANCELED", "CANCELED"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_does_not_answer_keeps_no_other_waiting() {
    let served = hooked("").await;
    let api = Api::of(&served.0);
    // It takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let send = async |url: &str| {
        let params = json!({"message": message("hi"), "configuration": {"taskPushNotificationConfig": {"url": url}}});
        result(&api, "hello", "SendMessage", &params).await
    };
    send(&url).await;
    let _held = silent.accept().await.unwrap();
    let hook = Hook::start(Vec::new()).await;
    let began = std::time::Instant::now();
    send(&hook.url).await;
    hook.sent(3).await;
    // The other one has 15 s.
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_what_a_task_waits_for_and_then_of_its_end() {
    let served = daemon(&[("RUNE_A2A_PUSH_ALLOW_PRIVATE", "127.0.0.0/8")]).await;
    deploy_asking(&served);
    let api = Api::of(&served.0);
    let hook = Hook::start(Vec::new()).await;
    let params = json!({"message": message("go"), "configuration": {"taskPushNotificationConfig": {"url": hook.url}}});
    let task = result(&api, "ask", "SendMessage", &params).await["task"].clone();
    let sent = hook.sent(2).await;
    assert_eq!(states(&sent), ["WORKING", "INPUT_REQUIRED"]);
    let asked = &sent[1].body["statusUpdate"]["status"];
    assert_eq!(asked, &task["status"]);
    // Whoever decides, and wherever.
    let approval =
        task["status"]["message"]["parts"][1]["data"]["approvals"][0]["approvalId"].clone();
    let path = format!(
        "/v1/requests/{}/approvals/{}",
        id(&task["id"]),
        id(&approval)
    );
    answer(api.post(&path, &json!({"decision": "approve"})))
        .await
        .unwrap();
    let sent = hook.sent(5).await;
    assert_eq!(
        states(&sent)[2..],
        ["WORKING", "artifactUpdate", "COMPLETED"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_looked_at_listed_and_removed_in_both_versions() {
    let served = hooked(SLOW).await;
    let api = Api::of(&served.0);
    let now = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let task = result(&api, "hello", "SendMessage", &now).await["task"]["id"].clone();
    let create = json!({"taskId": task, "id": "mine", "url": "https://example.org/a", "token": "t", "authentication": {"scheme": "Bearer", "credentials": "c"}});
    let made = result(&api, "hello", "CreateTaskPushNotificationConfig", &create).await;
    assert_eq!(made, create);
    let other = json!({"taskId": task, "url": "https://example.org/b"});
    let other = result(&api, "hello", "CreateTaskPushNotificationConfig", &other).await;
    assert!(!id(&other["id"]).is_empty());
    let mine = json!({"taskId": task, "id": "mine"});
    let got = result(&api, "hello", "GetTaskPushNotificationConfig", &mine).await;
    assert_eq!(got, create);
    let list = json!({"taskId": task, "pageSize": 1});
    let first = result(&api, "hello", "ListTaskPushNotificationConfigs", &list).await;
    assert_eq!(first["configs"], json!([create]));
    let list = json!({"taskId": task, "pageToken": first["nextPageToken"]});
    let rest = result(&api, "hello", "ListTaskPushNotificationConfigs", &list).await;
    assert_eq!(
        (&rest["configs"], &rest["nextPageToken"]),
        (&json!([other]), &json!(""))
    );

    let old = json!({"id": task, "pushNotificationConfigId": "mine"});
    let old = result(&api, "hello", "tasks/pushNotificationConfig/get", &old).await;
    assert_eq!(
        old["pushNotificationConfig"]["authentication"]["schemes"],
        json!(["Bearer"])
    );
    let unnamed = result(
        &api,
        "hello",
        "tasks/pushNotificationConfig/get",
        &json!({"id": task}),
    )
    .await;
    assert_eq!(unnamed, old);
    let set = json!({"taskId": task, "pushNotificationConfig": {"url": "https://example.org/c"}});
    for _ in 0..2 {
        let set = result(&api, "hello", "tasks/pushNotificationConfig/set", &set).await;
        assert_eq!(set["pushNotificationConfig"]["id"], "default");
    }
    let all = result(
        &api,
        "hello",
        "tasks/pushNotificationConfig/list",
        &json!({"id": task}),
    )
    .await;
    assert_eq!(all.as_array().unwrap().len(), 3);

    let path = format!("/a2a/hello/tasks/{}/pushNotificationConfigs", id(&task));
    let (status, listed) = answer(api.get(&path)).await.unwrap();
    assert_eq!(
        (status, listed["configs"].as_array().unwrap().len()),
        (200, 3)
    );
    let body = json!({"url": "https://example.org/d", "id": "four"});
    let (status, made) = answer(api.post(&path, &body)).await.unwrap();
    assert_eq!((status, &made["id"]), (200, &json!("four")));
    let (status, got) = answer(api.get(&format!("{path}/four"))).await.unwrap();
    assert_eq!(
        (status, &got["url"]),
        (200, &json!("https://example.org/d"))
    );
    for _ in 0..2 {
        let url = format!("{}{path}/four", served.0.gateway());
        let (status, gone) = answer(reqwest::Client::new().delete(url)).await.unwrap();
        assert_eq!((status, gone), (200, json!({})));
        let body = super::call(&api, "hello", "DeleteTaskPushNotificationConfig", &mine).await;
        assert_eq!((body.get("error"), &body["result"]), (None, &Value::Null));
        assert!(body.as_object().unwrap().contains_key("result"));
    }
    assert_eq!(
        refused(&api, "hello", "GetTaskPushNotificationConfig", &mine)
            .await
            .0,
        -32001
    );
    let nobody = json!({"taskId": "nonsense", "url": "https://example.org"});
    let nobody = refused(&api, "hello", "CreateTaskPushNotificationConfig", &nobody).await;
    assert_eq!(nobody.0, -32001);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_may_not_be_on_private_addresses_unless_the_operator_says_so() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    let api = Api::of(&served.0);
    let hook = Hook::start(Vec::new()).await;
    let now = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let task = result(&api, "hello", "SendMessage", &now).await["task"]["id"].clone();
    for url in [
        hook.url.as_str(),
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://user:password@example.org/",
        "file:///etc/passwd",
        "nonsense",
    ] {
        let create = json!({"taskId": task, "url": url});
        let refused = refused(&api, "hello", "CreateTaskPushNotificationConfig", &create).await;
        assert_eq!(refused.0, -32602, "{url}");
        // With a message it is refused before that begins anything.
        let inline = json!({"message": message("never"), "configuration": {"taskPushNotificationConfig": {"url": url}}});
        assert_eq!(
            super::refused(&api, "hello", "SendMessage", &inline)
                .await
                .0,
            -32602,
            "{url}"
        );
    }
    let listed = result(&api, "hello", "ListTasks", &json!({})).await;
    assert_eq!(listed["totalSize"], 1);
    // A name that leads there is found out when it is resolved.
    let port = hook.url.rsplit(':').next().unwrap();
    let by_name = json!({"taskId": task, "url": format!("http://localhost:{port}")});
    result(&api, "hello", "CreateTaskPushNotificationConfig", &by_name).await;
    result(&api, "hello", "CancelTask", &json!({"id": task})).await;
    let refused = async {
        while !served.0.log().contains("a webhook was not told yet") {
            tokio::time::sleep(crate::wire::POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert_eq!(*hook.count.borrow(), 0);
}
