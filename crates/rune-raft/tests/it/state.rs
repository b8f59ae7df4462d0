//! The database of a node.

use openraft::storage::RaftStateMachine as _;
use rune_raft::{LogEntry, Payload, Proposal};
use rune_storage::{Ordered, Replica};
use rune_store_runtime::limits::MAX_JSON_DEPTH;
use rune_store_runtime::{
    AcceptRequest, AppendEntries, ApplyDeployment, BudgetCap, BudgetClaim, BudgetScope,
    CheckpointPolicy, ClaimTask, Command, CommandId, DeleteSession, DeploymentId, EntryBody,
    ErrorCode, Failure, Leadership, PostTask, PublishVersion, Quota, Reject, Reply, RequestId,
    ReserveBudget, ScaleBounds, SessionId, TaskHolder, TaskId, Timestamp, VersionId,
};
use rune_testkit::store::random_commands;

use crate::support::{
    apply, apply_entries, at, digest, entry, membership, open_state, ordered, put, reader, simulate,
};

pub(crate) fn accept(request_id: RequestId) -> AcceptRequest {
    AcceptRequest {
        request_id,
        session_id: "s".parse::<SessionId>().unwrap(),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        deployment_id: DeploymentId::from_bytes([1; 16]),
        version_id: VersionId::from_bytes([2; 16]),
        input: "hello".into(),
        metadata: Default::default(),
        caller: "anonymous".to_owned(),
        checkpoint: CheckpointPolicy::EachStep,
        idempotency: None,
        follows: None,
        parent: None,
        fork: None,
        budgets: Vec::new(),
    }
}

/// An entry that can be appended any number of times, with a word to find it again.
pub(crate) fn mark(request_id: RequestId, word: &str) -> AppendEntries {
    AppendEntries {
        request_id,
        entries: vec![EntryBody::ModelFailed {
            step: 1,
            provider: "p".to_owned(),
            model: word.to_owned(),
            failure: Failure::new(ErrorCode::Internal, "failed"),
            next_provider: None,
        }],
    }
}

pub(crate) fn command(number: u8, op: impl Into<rune_store_runtime::Op>) -> Command {
    Command {
        id: CommandId::from_bytes([number; 16]),
        ..Command::new(Timestamp::from_millis(1_795_000_000_000), op)
    }
}

/// The marks in the journals, in their order.
pub(crate) fn marks(db: &rusqlite::Connection) -> Vec<String> {
    let mut select = db.prepare("SELECT body FROM journal ORDER BY id").unwrap();
    let bodies = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let bodies = bodies.map(|body| serde_json::from_str(&body.unwrap()).unwrap());
    bodies
        .filter(|body: &serde_json::Value| body["kind"] == "model_failed")
        .map(|body| body["model"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_same_log_makes_the_same_rows_however_it_comes() {
    for seed in 1..6 {
        let commands = random_commands(seed, 300);
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let rows = directories.each_ref().map(|directory| {
            simulate(seed, async {
                let mut state = open_state(directory.path());
                let part = if directory.path() == directories[0].path() {
                    7
                } else {
                    300
                };
                for (number, commands) in commands.chunks(part).enumerate() {
                    apply(&mut state, (number * part) as u64, commands).await;
                }
                digest(&directory.path().join("rune.db"))
            })
        });
        assert_eq!(rows[0], rows[1], "seed {seed}");
    }
}

#[test]
fn what_the_state_forbids_is_an_answer_and_kept_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(&directory.path().join("rune.db")).unwrap();
    let request = RequestId::from_bytes([9; 16]);
    // The journal that it names does not exist yet.
    let early = command(1, mark(request, "early"));
    let forbidden = command(
        2,
        DeleteSession {
            session_id: "nobody".parse().unwrap(),
        },
    );
    let accepted = command(3, accept(request));
    let batch = [early.clone(), forbidden, accepted, put(4, "k", 1)];
    let answers = replica.apply(&ordered(&batch), "\"p\"").unwrap();
    assert!(matches!(answers[0], Err(Reject::NotFound { .. })));
    assert!(
        matches!(answers[1], Err(Reject::NotFound { .. })),
        "{:?}",
        answers[1]
    );
    assert!(answers[2].is_ok() && answers[3].is_ok());
    assert_eq!(replica.position().unwrap().as_deref(), Some("\"p\""));
    // It was answered, so it is not applied later because it happens to be in the log again.
    let again = replica.apply(&ordered(&[early]), "\"q\"").unwrap();
    assert_eq!(again[0], answers[0]);
    assert!(marks(&reader(&directory.path().join("rune.db"))).is_empty());
}

/// The receipt of a plain request knows its last command only, and a log may hold an older one
/// again behind that.
#[test]
fn a_command_that_is_in_the_log_again_is_not_applied_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(&directory.path().join("rune.db")).unwrap();
    let request = RequestId::from_bytes([9; 16]);
    let accepted = command(1, accept(request));
    let first = command(2, mark(request, "first"));
    let second = command(3, mark(request, "second"));
    let log = [
        accepted.clone(),
        first.clone(),
        second.clone(),
        first,
        accepted,
        second,
    ];
    let answers: Vec<Reply> = replica
        .apply(&ordered(&log), "\"p\"")
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers[1], answers[3]);
    assert_eq!(answers[0], answers[4]);
    assert_eq!(answers[2], answers[5]);
    let db = reader(&directory.path().join("rune.db"));
    assert_eq!(marks(&db), ["first", "second"]);
}

#[test]
fn a_command_of_a_newer_version_stops_the_node_and_is_not_skipped() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut state = open_state(directory.path());
        apply(&mut state, 0, &[put(1, "k", 1)]).await;
        let mut newer = put(2, "k", 2);
        newer.v += 1;
        let of_version = Proposal::of(&newer).unwrap();
        let unknown = Proposal::of(&put(3, "k", 3))
            .unwrap()
            .text()
            .replace("cache_put", "cache_melt");
        for proposal in [of_version, Proposal::from(unknown)] {
            let entry = LogEntry {
                log_id: at(1, 1),
                payload: Payload::Normal(proposal),
            };
            let error = apply_entries(&mut state, vec![entry]).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("is not known") || text.contains("does not know"),
                "{text}"
            );
            assert_eq!(state.applied_state().await.unwrap().0, Some(at(1, 0)));
        }
        let garbage = apply_entries(&mut state, vec![entry(1, 1, "garbage")]).await;
        assert!(garbage.is_err());
    });
}

#[test]
fn place_and_membership_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    simulate(1, async {
        let mut state = open_state(directory.path());
        let mut entries = vec![membership(1, 0, &[1, 2, 3])];
        entries.push(LogEntry {
            log_id: at(2, 1),
            payload: Payload::Normal(Proposal::of(&put(1, "k", 1)).unwrap()),
        });
        apply_entries(&mut state, entries).await.unwrap();
        let before = state.applied_state().await.unwrap();
        assert_eq!(before.0, Some(at(2, 1)));
        assert_eq!(*before.1.log_id(), Some(at(1, 0)));
        drop(state);
        let mut state = open_state(directory.path());
        assert_eq!(state.applied_state().await.unwrap(), before);
    });
}

/// A command that one of the nodes stamped, whose clocks are not the same.
fn stamped(number: u8, minute: i64, op: impl Into<rune_store_runtime::Op>) -> Command {
    Command {
        id: CommandId::from_bytes([number; 16]),
        ..Command::new(
            Timestamp::from_millis(1_795_000_000_000 + minute * 60_000),
            op,
        )
    }
}

fn post(payload: serde_json::Value) -> PostTask {
    PostTask {
        task_id: TaskId::from_bytes([4; 16]),
        namespace: "dev".to_owned(),
        queue: "q".to_owned(),
        title: "t".to_owned(),
        payload,
        priority: 0,
        max_attempts: 3,
        posted_by: "anonymous".to_owned(),
    }
}

fn claim(agent: &str) -> ClaimTask {
    ClaimTask {
        namespace: "dev".to_owned(),
        queue: "q".to_owned(),
        task_id: None,
        holder: TaskHolder {
            agent: agent.to_owned(),
            session_id: "s".parse::<SessionId>().unwrap(),
        },
        lease_ms: 60_000,
    }
}

#[test]
fn a_node_whose_clock_is_slow_keeps_its_receipts_and_leases() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rune.db");
    let request = RequestId::from_bytes([9; 16]);
    let first = stamped(2, 0, mark(request, "first"));
    let mut replica = Replica::open(&path).unwrap();
    let mut apply = |command: Command| replica.apply(&ordered(&[command]), "1").unwrap().remove(0);
    // Another node is twenty minutes ahead.
    apply(stamped(1, 20, accept(request))).unwrap();
    let answer = apply(first.clone());
    apply(stamped(3, 0, mark(request, "second"))).unwrap();
    apply(stamped(4, 20, post("work".into()))).unwrap();
    assert!(matches!(
        apply(stamped(5, 0, claim("slow"))),
        Ok(Reply::Task(Some(_)))
    ));
    assert_eq!(apply(stamped(6, 20, claim("fast"))), Ok(Reply::Task(None)));
    assert_eq!(apply(first), answer);
    assert_eq!(marks(&reader(&path)), ["first", "second"]);
    // The lease is over once the state is a minute older.
    assert!(matches!(
        apply(stamped(7, 22, claim("fast"))),
        Ok(Reply::Task(Some(_)))
    ));
}

/// The answer nests deeper than what it answers with.
#[test]
fn an_answer_that_nests_deep_is_kept_with_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(&directory.path().join("rune.db")).unwrap();
    let mut payload = serde_json::Value::from(1);
    for _ in 0..MAX_JSON_DEPTH {
        payload = vec![payload].into();
    }
    let batch = [
        command(1, post(payload)),
        command(2, claim("one")),
        command(2, claim("one")),
    ];
    let answers = replica.apply(&ordered(&batch), "1").unwrap();
    assert!(
        matches!(answers[1], Ok(Reply::Task(Some(_)))),
        "{answers:?}"
    );
    assert_eq!(answers[1], answers[2]);
}

/// The same term may have two leaders, the one of the greater number after the other.
#[test]
fn a_command_counts_under_its_own_leadership_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rune.db");
    let mut replica = Replica::open(&path).unwrap();
    let request = RequestId::from_bytes([9; 16]);
    let led = |term, node| Leadership { term, node };
    let entry = |number, word: &str, made, led| {
        let command = command(number, mark(request, word)).fenced(made);
        Ordered { command, led }
    };
    let accepted = ordered(&[command(1, accept(request))]);
    let log = [
        entry(2, "in time", led(5, 2), led(5, 2)),
        entry(3, "late", led(5, 2), led(5, 3)),
        entry(4, "later", led(5, 2), led(6, 2)),
        entry(5, "present", led(6, 2), led(6, 2)),
        // What was applied is, although its leader has gone since.
        entry(2, "in time", led(5, 2), led(6, 2)),
    ];
    replica.apply(&accepted, "1").unwrap();
    let answers = replica.apply(&log, "2").unwrap();
    let made = led(5, 2);
    assert_eq!(answers[1], Err(Reject::Fenced { made }));
    assert_eq!(answers[2], Err(Reject::Fenced { made }));
    assert!(answers[0].is_ok() && answers[3].is_ok());
    assert_eq!(answers[4], answers[0]);
    assert_eq!(marks(&reader(&path)), ["in time", "present"]);
    // A refusal is an answer like any other.
    let again = replica.apply(&[entry(3, "late", made, made)], "3").unwrap();
    assert_eq!(again[0], Err(Reject::Fenced { made }));
}

/// Commands of one batch see what those before them did, which nobody else sees yet.
#[test]
fn what_comes_at_once_keeps_within_a_budget_and_a_quota() {
    let directory = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(&directory.path().join("rune.db")).unwrap();
    let cap = BudgetCap {
        scope: BudgetScope::Caller("a".to_owned()),
        tokens: Some(500),
        micro_usd: None,
    };
    // Each takes 200 tokens.
    let reserve = |number| {
        let reserve = ReserveBudget {
            request_id: RequestId::from_bytes([number; 16]),
            stored: false,
            claims: vec![BudgetClaim {
                cap: cap.clone(),
                prompt_tokens: 100,
            }],
            prompt_tokens: 100,
            output_tokens: 100,
            enough_output_tokens: 100,
            min_output_tokens: 100,
            price: None,
        };
        command(number, reserve)
    };
    let batch = [reserve(1), reserve(2), reserve(3)];
    let answers = replica.apply(&ordered(&batch), "1").unwrap();
    assert!(
        matches!(&answers[..], [Ok(_), Ok(_), Err(Reject::BudgetExceeded(_))]),
        "{answers:?}"
    );

    let version_id = VersionId::from_bytes([2; 16]);
    let publish = PublishVersion {
        version_id,
        agent: "echo".to_owned(),
        version: "1.0.0".to_owned(),
        description: String::new(),
        digest: "sha256:1".to_owned(),
        size: 3,
        image: None,
        scaling: ScaleBounds { min: 1, max: 9 },
        signature: None,
    };
    let published = replica.apply(&ordered(&[command(4, publish)]), "2");
    published.unwrap().remove(0).unwrap();
    let deploy = |number| {
        let deploy = ApplyDeployment {
            deployment_id: DeploymentId::from_bytes([number; 16]),
            namespace: "dev".to_owned(),
            agent: "echo".to_owned(),
            alias: format!("a{number}"),
            version_id,
            replicas: Some(2),
            env: Default::default(),
            project: None,
        };
        let quota = Quota {
            deployments: None,
            replicas: Some(5),
        };
        command(number, deploy).within(quota)
    };
    let batch = [deploy(5), deploy(6), deploy(7)];
    let answers = replica.apply(&ordered(&batch), "3").unwrap();
    assert!(
        matches!(
            &answers[..],
            [Ok(_), Ok(_), Err(Reject::QuotaExceeded { .. })]
        ),
        "{answers:?}"
    );
}
