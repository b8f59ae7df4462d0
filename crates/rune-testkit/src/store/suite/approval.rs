//! Policy verdicts, approvals, grants, and the tree of requests.

use rune_store_runtime::{
    AcceptRequest, ApprovalDecision, ApprovalFilter, ApprovalId, ApprovalQuestion, ApprovalState,
    AuditFilter, AuditId, AuditVerdict, DecideApproval, DeploymentId, EntryBody, GrantQuery,
    PageRequest, ParentCall, PolicyVerdict, Reject, Remember, ReplicaId, RequestFilter, RequestId,
    RequestStatus, Timestamp,
};
use serde_json::json;

use super::fixture::{Fixture, accept, call, finished, intent, reply, session};
use crate::store::TestStore;

fn question(call_id: &str, policies: &[&str]) -> ApprovalQuestion {
    ApprovalQuestion {
        approval_id: ApprovalId::generate(),
        step: 1,
        call_id: call_id.to_owned(),
        tool: "rune@file-write".to_owned(),
        input: json!({"path": "a"}),
        reason: "writes".to_owned(),
        policies: policies.iter().map(|p| (*p).to_owned()).collect(),
        deadline: Some(Timestamp::from_millis(1_800_000_000_000)),
        default: ApprovalDecision::Deny,
    }
}

fn decide(question: &ApprovalQuestion, remember: Option<Remember>) -> DecideApproval {
    DecideApproval {
        approval_id: question.approval_id,
        decision: ApprovalDecision::Approve,
        by: "alice".to_owned(),
        remember,
        note: Some("fine".to_owned()),
    }
}

fn started() -> EntryBody {
    EntryBody::Started {
        replica_id: ReplicaId::generate(),
        deployment_id: DeploymentId::generate(),
        attempt: 1,
    }
}

/// A request that asks these questions.
async fn asking(f: &Fixture, session: &str, questions: &[&ApprovalQuestion]) -> RequestId {
    let id = f.accept(session).await.request_id;
    let calls = questions.iter().map(|q| call(&q.call_id)).collect();
    let mut entries = vec![started(), reply(calls)];
    entries.extend(
        questions
            .iter()
            .map(|q| EntryBody::ApprovalAsked((*q).clone())),
    );
    f.append(id, entries).await;
    id
}

pub async fn an_approval_parks_its_request_and_is_decided_once(test: TestStore) {
    let f = Fixture::new(test);
    let (first, second) = (question("c1", &["p"]), question("c2", &["p"]));
    let id = asking(&f, "s", &[&first, &second]).await;
    let status = async || f.store.request(id).await.unwrap().unwrap().status;
    assert_eq!(status().await, RequestStatus::InputRequired);
    let waiting = ApprovalFilter {
        state: Some(ApprovalState::Waiting),
        due_by: Some(Timestamp::from_millis(1_800_000_000_000)),
        ..ApprovalFilter::default()
    };
    let page = PageRequest::first(10);
    let rows = f.store.approvals(&waiting, &page).await.unwrap().items;
    let asked: Vec<_> = rows.iter().map(|row| row.question.clone()).collect();
    assert_eq!(asked, [first.clone(), second.clone()]);
    let reject = f.append_rejected(id, vec![started()]).await;
    assert!(matches!(reject, Reject::Invalid { .. }), "{reject}");

    let row = f.write(decide(&first, None)).await;
    assert_eq!(row.state, ApprovalState::Approved);
    assert_eq!(status().await, RequestStatus::InputRequired);
    let reject = f.rejected(decide(&first, None)).await;
    assert!(matches!(reject, Reject::Conflict { .. }), "{reject}");
    f.write(decide(&second, None)).await;
    assert_eq!(status().await, RequestStatus::Accepted);
    let stored = f.store.approval(first.approval_id).await.unwrap().unwrap();
    assert_eq!(stored, row);
    assert_eq!(stored.answer.unwrap().by, "alice");
    let journal = f.store.journal(id, 0, 100).await.unwrap();
    let kinds: Vec<_> = journal.iter().map(|entry| entry.body.kind()).collect();
    let asked = ["approval_asked", "approval_asked"];
    let given = ["approval_given", "approval_given"];
    assert_eq!(kinds[3..], [asked, given].concat());
    f.append(id, vec![started(), intent("c1")]).await;
    let reject = f.rejected(decide(&question("c1", &[]), None)).await;
    assert!(matches!(reject, Reject::NotFound { .. }), "{reject}");
}

pub async fn an_approval_is_withdrawn_with_its_request(test: TestStore) {
    let f = Fixture::new(test);
    let asked = question("c1", &[]);
    let id = asking(&f, "s", &[&asked]).await;
    f.append(id, vec![finished(json!("bye"))]).await;
    let row = f.store.approval(asked.approval_id).await.unwrap().unwrap();
    assert_eq!(row.state, ApprovalState::Withdrawn);
    let reject = f.rejected(decide(&asked, None)).await;
    assert!(matches!(reject, Reject::Conflict { .. }), "{reject}");
}

pub async fn a_remembered_decision_is_found_by_its_scope(test: TestStore) {
    let f = Fixture::new(test);
    let of = async |agent: &str, in_session: &str, policies: &[&str]| {
        let query = GrantQuery {
            namespace: "dev".to_owned(),
            agent: agent.to_owned(),
            session_id: session(in_session),
            tool: "rune@file-write".to_owned(),
            policies: policies.iter().map(|p| (*p).to_owned()).collect(),
        };
        let found = f.store.grant(&query).await;
        found.unwrap().map(|row| row.decision)
    };
    let grant = async |in_session: &str, policies: &[&str]| of("echo", in_session, policies).await;
    let here = question("c1", &["p"]);
    asking(&f, "s", &[&here]).await;
    f.write(decide(&here, Some(Remember::Session))).await;
    f.accept("t").await;
    assert_eq!(grant("s", &["p"]).await, Some(ApprovalDecision::Approve));
    assert_eq!(grant("s", &["p", "q"]).await, None);
    assert_eq!(grant("t", &["p"]).await, None);
    assert_eq!(grant("unknown", &["p"]).await, None);

    let everywhere = question("c2", &["p"]);
    asking(&f, "u", &[&everywhere]).await;
    let deny = DecideApproval {
        decision: ApprovalDecision::Deny,
        ..decide(&everywhere, Some(Remember::Agent))
    };
    f.write(deny).await;
    assert_eq!(grant("t", &["p"]).await, Some(ApprovalDecision::Deny));
    // A session that is not stored yet is one of the agent's.
    assert_eq!(grant("unknown", &["p"]).await, Some(ApprovalDecision::Deny));
    assert_eq!(of("other", "unknown", &["p"]).await, None);
    // What was said for the session counts more.
    assert_eq!(grant("s", &["p"]).await, Some(ApprovalDecision::Approve));
}

pub async fn a_verdict_is_an_audit_row(test: TestStore) {
    let f = Fixture::new(test);
    let id = f.accept("s").await.request_id;
    let verdict = PolicyVerdict {
        audit_id: AuditId::generate(),
        step: 1,
        call_id: None,
        action: "tool".to_owned(),
        resource: "rune@shell-exec".to_owned(),
        attributes: serde_json::Value::Null,
        verdict: AuditVerdict::Denied,
        by_policy: None,
        reason: "not here".to_owned(),
        policies: vec!["p1".to_owned(), "p2".to_owned()],
    };
    f.append(id, vec![EntryBody::PolicyVerdict(verdict.clone())])
        .await;
    let filter = AuditFilter {
        request_id: Some(id),
        ..AuditFilter::default()
    };
    let rows = f.store.audit(&filter, &PageRequest::first(10)).await;
    let row = rows.unwrap().items.pop().unwrap();
    assert_eq!((row.id, row.verdict), (verdict.audit_id, verdict.verdict));
    assert_eq!(row.reason, "not here [p1, p2]");
    assert_eq!(row.caller, "anonymous");
    let again = vec![EntryBody::PolicyVerdict(verdict)];
    let reject = f.append_rejected(id, again).await;
    assert!(matches!(reject, Reject::Conflict { .. }), "{reject}");
}

pub async fn a_request_knows_its_parent(test: TestStore) {
    let f = Fixture::new(test);
    let root = f.accept("s").await.request_id;
    let parent = ParentCall {
        request_id: root,
        call_id: "c1".to_owned(),
        root_id: root,
        depth: 1,
    };
    let child = AcceptRequest {
        parent: Some(parent.clone()),
        ..accept("t")
    };
    let id = child.request_id;
    f.write(child).await;
    let filter = RequestFilter {
        root_id: Some(root),
        ..RequestFilter::default()
    };
    let rows = f.store.requests(&filter, &PageRequest::first(10)).await;
    let rows = rows.unwrap().items;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, rows[0].parent.as_ref()), (id, Some(&parent)));
    let root = f.store.request(root).await.unwrap().unwrap();
    assert_eq!(root.parent, None);
}
