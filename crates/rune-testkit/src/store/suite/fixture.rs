//! Short ways to make commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rune_store_runtime::{
    AcceptRequest, Accepted, AppendEntries, Appended, Block, CheckpointPolicy, Clock, Command,
    Cost, DeploymentId, EntryBody, ModelReply, Operation, PromptParts, PublishVersion, Reject,
    RequestId, RequestStatus, ScaleBounds, SessionId, StopReason, Store, StoreError, Timestamp,
    ToolIntent, ToolOutcome, Usage, VersionId, VersionRow,
};
use serde_json::{Value, json};

use crate::store::TestStore;

/// A clock that a test moves.
#[derive(Debug)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A store and a clock that ticks one millisecond with each command.
pub(super) struct Fixture {
    pub(super) store: Store,
    clock: Arc<ManualClock>,
    _guard: TestStore,
}

impl Fixture {
    pub(super) fn new(test: TestStore) -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(1_795_000_000_000)));
        let store = Store::new(
            Arc::clone(&test.store),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        Self {
            store,
            clock,
            _guard: test,
        }
    }

    pub(super) fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.clock.0.fetch_add(millis, Ordering::Relaxed);
    }

    pub(super) async fn write<O: Operation>(&self, op: O) -> O::Reply {
        self.store.write(op).await.unwrap()
    }

    pub(super) async fn rejected<O: Operation<Reply: std::fmt::Debug>>(&self, op: O) -> Reject {
        match self.store.write(op).await {
            Err(StoreError::Rejected(reject)) => reject,
            other => unreachable!("expected a rejection, got {other:?}"),
        }
    }

    pub(super) fn command(&self, op: impl Operation) -> Command {
        Command::new(self.store.now(), op)
    }

    pub(super) async fn accept(&self, session: &str) -> Accepted {
        self.write(accept(session)).await
    }

    pub(super) async fn append(&self, id: RequestId, entries: Vec<EntryBody>) -> Appended {
        self.write(AppendEntries {
            request_id: id,
            entries,
        })
        .await
    }

    pub(super) async fn append_rejected(&self, id: RequestId, entries: Vec<EntryBody>) -> Reject {
        self.rejected(AppendEntries {
            request_id: id,
            entries,
        })
        .await
    }

    pub(super) async fn publish(&self, digest: &str) -> VersionRow {
        self.publish_signed(digest, None).await
    }

    pub(super) async fn publish_signed(&self, digest: &str, signature: Option<&str>) -> VersionRow {
        self.publish_with(digest, signature, ScaleBounds::default())
            .await
    }

    pub(super) async fn publish_with(
        &self,
        digest: &str,
        signature: Option<&str>,
        scaling: ScaleBounds,
    ) -> VersionRow {
        self.write(PublishVersion {
            version_id: VersionId::generate(),
            agent: "echo".to_owned(),
            version: "1.0.0".to_owned(),
            description: "answers".to_owned(),
            digest: digest.to_owned(),
            size: 3,
            image: None,
            scaling,
            signature: signature.map(str::to_owned),
        })
        .await
    }
}

pub(super) fn session(id: &str) -> SessionId {
    id.parse().unwrap()
}

pub(super) fn accept(session_id: &str) -> AcceptRequest {
    AcceptRequest {
        request_id: RequestId::generate(),
        session_id: session(session_id),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        deployment_id: DeploymentId::generate(),
        version_id: VersionId::generate(),
        input: json!("hello"),
        metadata: [("ticket".to_owned(), json!(42))].into(),
        caller: "anonymous".to_owned(),
        checkpoint: CheckpointPolicy::EachStep,
        idempotency: None,
        follows: None,
        parent: None,
        fork: None,
        budgets: Vec::new(),
    }
}

pub(super) fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        ..Usage::default()
    }
}

pub(super) fn reply(blocks: Vec<Block>) -> EntryBody {
    EntryBody::ModelReply(ModelReply {
        step: 1,
        provider: "offline".to_owned(),
        model: "offline".to_owned(),
        blocks,
        stop: StopReason::EndTurn,
        usage: usage(10, 2),
        prompt: PromptParts {
            own: 8,
            ..PromptParts::default()
        },
        cost_micro_usd: Some(7),
        duration_ms: 5,
    })
}

pub(super) fn call(id: &str) -> Block {
    Block::ToolCall {
        id: id.to_owned(),
        name: "rune__file-read".to_owned(),
        input: json!({"path": "a"}),
        native: None,
    }
}

pub(super) fn intent(id: &str) -> EntryBody {
    EntryBody::ToolIntent(ToolIntent {
        step: 1,
        call_id: id.to_owned(),
        tool: "rune@file-read".to_owned(),
        input: json!({"path": "a"}),
        idempotent: true,
        idempotency_key: "k".to_owned(),
    })
}

pub(super) fn result(id: &str) -> ToolOutcome {
    ToolOutcome {
        step: 1,
        call_id: id.to_owned(),
        tool: "rune@file-read".to_owned(),
        output: Some(json!("content")),
        failure: None,
        content: "content".to_owned(),
        spilled: None,
        images: Vec::new(),
        duration_ms: 7,
        attempts: 1,
    }
}

pub(super) fn finished(output: Value) -> EntryBody {
    EntryBody::Finished {
        status: RequestStatus::Completed,
        output: Some(output),
        failure: None,
        usage: usage(10, 2),
        cost: Cost::default(),
    }
}
