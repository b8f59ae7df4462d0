//! Any value.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use rune_a2a::{
    Artifact, ArtifactUpdate, Content, Message, Part, PushAuthentication, PushConfig, Role,
    StatusUpdate, StreamEvent, Task, TaskState, TaskStatus,
};
use rune_store_runtime::Timestamp;
use serde_json::{Map, Value, json};

fn text() -> impl Strategy<Value = String> {
    "[ -~äß\n\"]{0,12}"
}

fn id() -> impl Strategy<Value = String> {
    "[a-z0-9-]{1,12}"
}

/// Numbers are small whole ones: Protocol Buffers have no others that survive.
fn data() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(|n| json!(n)),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map(id(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn map() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(id(), data(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        text().prop_map(Content::Text),
        vec(any::<u8>(), 0..20).prop_map(Content::Raw),
        id().prop_map(|id| Content::Url(format!("https://example.org/{id}"))),
        data().prop_map(Content::Data),
    ]
}

pub(crate) fn part() -> impl Strategy<Value = Part> {
    let named = (option::of(id()), option::of(id()));
    (content(), named, map()).prop_map(|(content, (media_type, filename), metadata)| Part {
        content,
        media_type,
        filename,
        metadata,
    })
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let role = prop_oneof![Just(Role::User), Just(Role::Agent)];
    let ids = (id(), option::of(id()), option::of(id()));
    let lists = (vec(id(), 0..3), vec(id(), 0..3));
    (ids, role, vec(part(), 1..4), map(), lists).prop_map(
        |((message_id, context_id, task_id), role, parts, metadata, lists)| Message {
            message_id,
            context_id,
            task_id,
            role,
            parts,
            metadata,
            extensions: lists.0,
            reference_task_ids: lists.1,
        },
    )
}

fn status() -> impl Strategy<Value = TaskStatus> {
    let state = proptest::sample::select(TaskState::ALL.to_vec());
    let at = option::of(0..4_000_000_000_000_i64);
    (state, option::of(message()), at).prop_map(|(state, message, at)| TaskStatus {
        state,
        message,
        timestamp: at.map(Timestamp::from_millis),
    })
}

fn artifact() -> impl Strategy<Value = Artifact> {
    let texts = (option::of(id()), option::of(id()));
    (id(), texts, vec(part(), 1..3), map(), vec(id(), 0..2)).prop_map(
        |(artifact_id, (name, description), parts, metadata, extensions)| Artifact {
            artifact_id,
            name,
            description,
            parts,
            metadata,
            extensions,
        },
    )
}

pub(crate) fn task() -> impl Strategy<Value = Task> {
    let lists = (vec(artifact(), 0..3), vec(message(), 0..3));
    (id(), id(), status(), lists, map()).prop_map(
        |(id, context_id, status, (artifacts, history), metadata)| Task {
            id,
            context_id,
            status,
            artifacts,
            history,
            metadata,
        },
    )
}

pub(crate) fn event() -> impl Strategy<Value = StreamEvent> {
    let status = (id(), id(), status(), map());
    let status = status.prop_map(|(task_id, context_id, status, metadata)| {
        StreamEvent::Status(StatusUpdate {
            task_id,
            context_id,
            status,
            metadata,
        })
    });
    let artifact = (id(), id(), artifact(), any::<(bool, bool)>(), map());
    let artifact = artifact.prop_map(|(task_id, context_id, artifact, flags, metadata)| {
        StreamEvent::Artifact(ArtifactUpdate {
            task_id,
            context_id,
            artifact,
            append: flags.0,
            last_chunk: flags.1,
            metadata,
        })
    });
    prop_oneof![
        task().prop_map(StreamEvent::Task),
        message().prop_map(StreamEvent::Message),
        status,
        artifact,
    ]
}

pub(crate) fn push() -> impl Strategy<Value = PushConfig> {
    let authentication =
        (id(), option::of(id())).prop_map(|(scheme, credentials)| PushAuthentication {
            scheme,
            credentials,
        });
    (id(), id(), option::of(id()), option::of(authentication)).prop_map(
        |(id, task_id, token, authentication)| PushConfig {
            url: format!("https://example.org/{id}"),
            id,
            task_id,
            token,
            authentication,
        },
    )
}
