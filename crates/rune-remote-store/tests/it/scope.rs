//! A replica touches what is its deployment's, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use reqwest::{Client, StatusCode};
use rune_http::ErrorBody;
use rune_remote_store::{Read, Scope, StoreServer};
use rune_runtime::{Engine, ReplicaRouter, Tasks};
use rune_storage::ObjectStore;
use rune_store_runtime::{
    AcceptRequest, AppendEntries, AuditFilter, AuditReader as _, BudgetCap, BudgetScope, CachePut,
    Canvas, Command, EntryBody, Op, PageRequest, RecordAudit, Reply, RequestFilter, RequestId,
    RequestStatus, RuntimeStore, SessionFilter, Store, StoreError, SystemClock, TaskFilter,
    Timestamp, UsageFilter,
};
use rune_testkit::store::snapshot;
use serde_json::json;
use tempfile::TempDir;

use crate::faults::accept;
use crate::served::{Listening, Served};
use crate::tenant::Tenant;

/// The changes that a replica may make, of what is its own. Written twice, so that none is allowed by one word.
const OWN_OPS: &[&str] = &[
    "AppendEntries",
    "CachePut",
    "ClaimTask",
    "CompleteTask",
    "DeleteSchedule",
    "MemoryForget",
    "MemoryPut",
    "PostTask",
    "PutEntity",
    "PutRelation",
    "QueueMessage",
    "RequestCancel",
    "ReserveBudget",
    "SettleBudget",
];

/// What a replica may read, of what is its own.
const OWN_READS: &[&str] = &[
    "Approval",
    "Approvals",
    "Cached",
    "Entities",
    "Entity",
    "FindEntities",
    "Grant",
    "Journal",
    "Memories",
    "Memory",
    "Messages",
    "RecentMessages",
    "Relations",
    "Replica",
    "Replicas",
    "Request",
    "RequestCount",
    "Requests",
    "Reservation",
    "Schedule",
    "Schedules",
    "Session",
    "Sessions",
    "SpilledOutput",
    "Task",
    "Tasks",
    "ToolInvocations",
    "Usage",
    "UsageTotals",
    "Version",
];

/// How many there are of each. A new one has to be tried here, too.
const OPS: usize = 43;
const READS: usize = 47;

struct Rig {
    own: Tenant,
    others: Vec<Tenant>,
    served: Served,
    client: Client,
    directory: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let served = Served::open(directory.path());
        let local = Arc::clone(&served.local) as Arc<dyn RuntimeStore>;
        let store = Store::new(local, Arc::new(SystemClock));
        let own = Tenant::create(&store, "dev", "echo").await;
        let others = vec![
            // Of the same namespace, and of the same name in another one.
            Tenant::create(&store, "dev", "other").await,
            Tenant::create(&store, "prod", "echo").await,
        ];
        drop(store);
        let served = served
            .scoped(Scope::Deployment(Box::new(own.scope())))
            .await;
        Self {
            own,
            others,
            served,
            client: Client::new(),
            directory,
        }
    }

    /// The status of an answer, and the message of an error.
    async fn call(&self, path: &str, body: String) -> (StatusCode, String) {
        let url = format!("{}/internal/v1/store/{path}", self.served.listening.url());
        let response = self.client.post(url).body(body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        if status == StatusCode::OK {
            return (status, text);
        }
        let body: ErrorBody = serde_json::from_str(&text).unwrap();
        if status == StatusCode::FORBIDDEN {
            assert_eq!(body.error.code, "denied");
        }
        (status, body.error.message)
    }

    async fn op(&self, op: Op) -> (StatusCode, String) {
        self.command(Command::new(Timestamp::from_millis(2_000_000_000_000), op))
            .await
    }

    async fn command(&self, command: Command) -> (StatusCode, String) {
        let body = serde_json::to_string(&[command]).unwrap();
        self.call("commands", body).await
    }

    async fn read(&self, read: &Read) -> (StatusCode, String) {
        self.call("read", serde_json::to_string(read).unwrap())
            .await
    }

    async fn assert_denied(&self, op: impl Into<Op>) {
        let op = op.into();
        let shown = format!("{op:?}");
        let (status, answer) = self.op(op).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{shown}: {answer}");
    }

    async fn assert_unreadable(&self, read: Read) {
        let (status, answer) = self.read(&read).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{read:?}: {answer}");
    }
}

#[tokio::test]
async fn no_change_of_what_is_anothers_is_made() {
    let rig = Rig::start().await;
    let store: &dyn RuntimeStore = &*rig.served.local;
    let without_audit = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("[AuditRow"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // So that there is a row of the trail before and after.
    rig.assert_denied(rig.others[0].post_task()).await;
    let before = without_audit(snapshot(store, &[], &[]).await.unwrap());
    let mut tried = BTreeSet::new();
    for other in &rig.others {
        for op in other.ops() {
            // Within one namespace agents see each other's tasks, but not in each other's name.
            tried.insert(op.name());
            rig.assert_denied(op).await;
        }
    }
    assert_eq!(tried.len(), OPS, "{tried:?}");
    let after = without_audit(snapshot(store, &[], &[]).await.unwrap());
    assert_eq!(before, after);
}

#[tokio::test]
async fn nothing_that_is_anothers_is_read() {
    let rig = Rig::start().await;
    let mut tried = BTreeSet::new();
    for other in &rig.others {
        for read in other.reads() {
            tried.insert(read.name());
            let is_shared = matches!(read, Read::Task { .. } | Read::Tasks { .. });
            if is_shared && other.namespace == rig.own.namespace {
                assert_eq!(rig.read(&read).await.0, StatusCode::OK, "{read:?}");
                continue;
            }
            rig.assert_unreadable(read).await;
        }
    }
    assert_eq!(tried.len(), READS, "{tried:?}");
}

#[tokio::test]
async fn what_is_its_own_is_there_but_for_what_the_daemon_does() {
    let rig = Rig::start().await;
    let mut allowed = BTreeSet::new();
    for op in rig.own.ops() {
        let name = op.name();
        if name == "DeleteDeployment" || !OWN_OPS.contains(&name) {
            rig.assert_denied(op).await;
            continue;
        }
        let (status, answer) = rig.op(op).await;
        assert_eq!(status, StatusCode::OK, "{name}: {answer}");
        allowed.insert(name);
    }
    assert_eq!(allowed.into_iter().collect::<Vec<_>>(), OWN_OPS);
    let mut allowed = BTreeSet::new();
    for read in rig.own.reads() {
        if !OWN_READS.contains(&read.name()) {
            rig.assert_unreadable(read).await;
            continue;
        }
        // Its schedule is deleted by now, and so is nobody's.
        if matches!(read, Read::Schedule { .. }) {
            rig.assert_unreadable(read.clone()).await;
        } else {
            let (status, answer) = rig.read(&read).await;
            assert_eq!(status, StatusCode::OK, "{read:?}: {answer}");
        }
        allowed.insert(read.name());
    }
    assert_eq!(allowed.into_iter().collect::<Vec<_>>(), OWN_READS);
}

/// What cannot be decided yet holds up nothing else of a batch, and what has ended is nobody's.
#[tokio::test]
async fn a_command_that_nobody_knows_the_owner_of_holds_up_no_other() {
    let mut rig = Rig::start().await;
    let local = Arc::clone(&rig.served.local) as Arc<dyn RuntimeStore>;
    let store = Store::new(local, Arc::new(SystemClock));
    let unowned = AcceptRequest {
        deployment_id: rig.own.deployment,
        version_id: rig.own.version,
        ..accept()
    };
    let id = unowned.request_id;
    store.write(unowned).await.unwrap();
    let engine = Engine::new(store.clone(), ReplicaRouter::new(), Tasks::new());
    let objects = ObjectStore::open_directory(&rig.directory.path().join("objects")).unwrap();
    let server = StoreServer::new(store.clone(), Arc::new(objects)).guarded_by(engine);
    let scope = Scope::Deployment(Box::new(rig.own.scope()));
    rig.served.listening = Listening::start(server.router().layer(Extension(scope)));

    let notice = |request_id| AppendEntries {
        request_id,
        entries: vec![EntryBody::Notice {
            code: "test".to_owned(),
            message: String::new(),
        }],
    };
    let command = |op: AppendEntries| Command::new(store.now(), op);
    let batch = [command(notice(id)), command(notice(rig.own.request))];
    let batch = serde_json::to_string(&batch).unwrap();
    let (status, answer) = rig.call("commands", batch).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let outcomes: Vec<Result<Reply, StoreError>> = serde_json::from_str(&answer).unwrap();
    assert!(
        matches!(
            &outcomes[..],
            [Err(StoreError::Unavailable(_)), Ok(Reply::Appended(_))]
        ),
        "{outcomes:?}"
    );

    let ends = AppendEntries {
        request_id: id,
        entries: vec![EntryBody::Finished {
            status: RequestStatus::Cancelled,
            output: None,
            failure: None,
            usage: Default::default(),
            cost: Default::default(),
        }],
    };
    store.write(ends).await.unwrap();
    rig.assert_denied(notice(id)).await;
}

/// Calls that name its own agent, and rows of another one.
#[tokio::test]
async fn what_a_caller_claims_does_not_count() {
    let rig = Rig::start().await;
    let own = &rig.own;
    for other in &rig.others {
        let mut message = own.message();
        message.request_id = other.request;
        rig.assert_denied(message).await;
        let mut claim = own.claim();
        claim.holder.session_id = other.session.clone();
        rig.assert_denied(claim).await;
        let mut complete = own.complete();
        complete.holder.session_id = other.session.clone();
        rig.assert_denied(complete).await;
        let mut started = own.started();
        started.request_id = other.request;
        rig.assert_denied(started).await;
        let mut posted = own.post_task();
        posted.posted_by = "somebody".to_owned();
        rig.assert_denied(posted).await;
        let mut grant = own.grant();
        grant.session_id = other.session.clone();
        rig.assert_unreadable(Read::Grant { query: grant }).await;

        let mut started = own.started();
        started.entries = other.started().entries;
        rig.assert_denied(started).await;
        let mut reserve = own.reserve();
        for claim in &mut reserve.claims {
            claim.cap = other.budget.clone();
        }
        rig.assert_denied(reserve).await;
    }
    let mut reserve = own.reserve();
    for claim in &mut reserve.claims {
        // Its own budget, but larger.
        claim.cap.tokens = Some(u64::MAX);
    }
    rig.assert_denied(reserve).await;
    let mut reserve = own.reserve();
    reserve.stored = false;
    rig.assert_denied(reserve).await;
    let nowhere = AppendEntries {
        request_id: RequestId::generate(),
        ..own.started()
    };
    rig.assert_denied(nowhere).await;
    for key in ["canvas:x", "route:dev/echo", "process:x", ""] {
        let put = CachePut {
            key: key.to_owned(),
            value: json!(1),
            expires_at: Timestamp::from_millis(i64::MAX),
        };
        rig.assert_denied(put).await;
    }
}

/// The answer to a command may be lost; it is sent again under its id when it is done already.
#[tokio::test]
async fn what_is_sent_again_is_not_denied_for_what_it_has_done() {
    let rig = Rig::start().await;
    let at = Timestamp::from_millis(2_000_000_000_000);
    let canvas = CachePut {
        key: Canvas::key(&"a".repeat(32)),
        value: json!({"title": "mine"}),
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    let ops = rig.own.ops().into_iter();
    let deletes = ops.filter(|op| op.name() == "DeleteSchedule");
    let ops: Vec<Op> = deletes.chain([canvas.clone().into()]).collect();
    assert_eq!(ops.len(), 2);
    for op in ops {
        let name = op.name();
        let command = Command::new(at, op);
        let first = rig.command(command.clone()).await;
        assert!(!first.1.contains("Err"), "{name}: {first:?}");
        assert_eq!(rig.command(command).await, first, "{name}");
        assert_eq!(first.0, StatusCode::OK, "{name}: {first:?}");
    }
    let other = CachePut {
        value: json!({"title": "another"}),
        ..canvas
    };
    rig.assert_denied(other).await;
}

#[tokio::test]
async fn lists_without_an_owner_are_not_answered() {
    let rig = Rig::start().await;
    let page = PageRequest::default();
    for read in [
        Read::Requests {
            filter: RequestFilter::default(),
            page: page.clone(),
        },
        Read::RequestCount {
            filter: RequestFilter {
                namespace: Some("dev".to_owned()),
                agent: Some("echo".to_owned()),
                ..RequestFilter::default()
            },
        },
        Read::Sessions {
            filter: SessionFilter::default(),
            page: page.clone(),
        },
        Read::Usage {
            filter: UsageFilter::default(),
            page: page.clone(),
        },
        Read::Tasks {
            filter: TaskFilter::default(),
            page,
        },
    ] {
        rig.assert_unreadable(read).await;
    }
}

#[tokio::test]
async fn a_canvas_is_shown_once_under_a_name_that_nobody_guesses() {
    let rig = Rig::start().await;
    let put = CachePut {
        key: format!("canvas:{}", "ab".repeat(16)),
        value: json!({"title": "t", "format": "html", "digest": "sha256:0"}),
        expires_at: Timestamp::from_millis(i64::MAX),
    };
    assert_eq!(rig.op(put.clone().into()).await.0, StatusCode::OK);
    let other = CachePut {
        value: json!({"title": "t", "format": "html", "digest": "sha256:1"}),
        ..put
    };
    rig.assert_denied(other).await;
}

#[tokio::test]
async fn no_audit_rows_ride_along() {
    let rig = Rig::start().await;
    let row = RecordAudit {
        audit_id: rune_store_runtime::AuditId::generate(),
        kind: "deployment".to_owned(),
        resource: "x".to_owned(),
        verdict: rune_store_runtime::AuditVerdict::Allowed,
        reason: "x".to_owned(),
        caller: "alice".to_owned(),
        request_id: None,
    };
    let command = Command::new(Timestamp::from_millis(1), rig.own.post_task());
    let (status, _) = rig.command(command.audited(vec![row])).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

/// One command that may not be made does not take along those that wait with it, and leaves a trace.
#[tokio::test]
async fn a_denied_command_is_refused_alone_and_audited_once() {
    let rig = Rig::start().await;
    let url = rig.served.listening.url();
    let remote = crate::served::remote(url, std::time::Duration::from_secs(10));
    let store = Store::new(Arc::new(remote), Arc::new(SystemClock));
    let bad = || store.write(rig.others[0].post_task());
    let good = || store.write(rig.own.message());
    let (first, denied, second, again) = tokio::join!(good(), bad(), good(), bad());
    first.unwrap();
    second.unwrap();
    for denied in [denied, again] {
        let Err(StoreError::Denied(reason)) = denied else {
            unreachable!("{denied:?}")
        };
        assert!(reason.contains("PostTask"), "{reason}");
    }
    let filter = AuditFilter {
        kind: Some("replica".to_owned()),
        ..AuditFilter::default()
    };
    let page = PageRequest::default();
    let trail = rig.served.local.audit(&filter, &page).await.unwrap().items;
    assert_eq!(trail.len(), 1, "{trail:?}");
    let row = &trail[0];
    assert_eq!(row.caller, format!("replica:{}", rig.own.replica));
    assert_eq!(row.resource, "dev/echo: PostTask");
}

/// A budget that nobody has given the request.
#[tokio::test]
async fn a_callers_budget_is_not_a_replicas_to_spend() {
    let rig = Rig::start().await;
    let mut reserve = rig.own.reserve();
    for claim in &mut reserve.claims {
        claim.cap = BudgetCap {
            scope: BudgetScope::Caller("bob".to_owned()),
            tokens: Some(10),
            micro_usd: None,
        };
    }
    rig.assert_denied(reserve).await;
}
