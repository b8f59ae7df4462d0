//! A process that is killed while it writes loses nothing it was told is written.

use std::io::{BufRead, BufReader};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

use rune_storage::{SqliteStore, StorageConfig};
use rune_store_runtime::{
    AcceptRequest, AppendEntries, CheckpointPolicy, Cost, DeploymentId, EntryBody, RequestId,
    RequestStatus, SessionId, Store, SystemClock, Usage, VersionId,
};

/// Acknowledged requests after which the child is killed.
const ACKNOWLEDGED: usize = 60;

const CHILD: &str = "crash::writes_until_it_is_killed";

fn open(directory: &str) -> (Arc<SqliteStore>, Store) {
    let store =
        Arc::new(SqliteStore::open(StorageConfig::new(format!("{directory}/rune.db"))).unwrap());
    let handle = Store::new(Arc::clone(&store) as _, Arc::new(SystemClock));
    (store, handle)
}

/// Not a test of its own: the child of the test below, which gives it the
/// directory on standard input.
#[tokio::test]
#[ignore = "run by acknowledged_writes_survive_a_kill"]
async fn writes_until_it_is_killed() {
    let mut directory = String::new();
    std::io::stdin().read_line(&mut directory).unwrap();
    let (_store, handle) = open(directory.trim());
    let writers = (0..8).map(|_| async {
        loop {
            let request_id = RequestId::generate();
            let accept = AcceptRequest {
                request_id,
                session_id: SessionId::generate(),
                namespace: "dev".to_owned(),
                agent: "echo".to_owned(),
                deployment_id: DeploymentId::generate(),
                version_id: VersionId::generate(),
                input: "hello".into(),
                metadata: Default::default(),
                caller: "anonymous".to_owned(),
                checkpoint: CheckpointPolicy::EachStep,
                idempotency: None,
                follows: None,
                parent: None,
                fork: None,
                budgets: Vec::new(),
            };
            handle.write(accept).await.unwrap();
            let finished = EntryBody::Finished {
                status: RequestStatus::Completed,
                output: Some("hello".into()),
                failure: None,
                usage: Usage::default(),
                cost: Cost::default(),
            };
            let entries = vec![finished];
            handle
                .write(AppendEntries {
                    request_id,
                    entries,
                })
                .await
                .unwrap();
            println!("ack {request_id}");
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for _ in 0..3 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", CHILD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, format!("{path}\n").as_bytes()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged: Vec<RequestId> = Vec::new();
        for line in lines {
            let line = line.unwrap();
            if let Some((_, id)) = line.split_once("ack ") {
                // Killed below in the middle of a line, perhaps.
                acknowledged.extend(id.parse::<RequestId>().ok());
            }
            if acknowledged.len() == ACKNOWLEDGED {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= ACKNOWLEDGED);

        let (store, handle) = open(path);
        store.integrity_check().await.unwrap();
        for id in acknowledged {
            let row = handle.request(id).await.unwrap().unwrap();
            assert_eq!(row.status, RequestStatus::Completed);
            assert_eq!(row.output, Some("hello".into()));
        }
        store.close().await.unwrap();
    }
}
