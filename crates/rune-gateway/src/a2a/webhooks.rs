//! The operations on the webhooks of a task.

use rune_a2a::{
    A2aError, ErrorKind, ListPushConfigs, Operation, ProtocolVersion, PushConfig, PushConfigRef,
};
use rune_store_runtime::{PageRequest, PushRow, RemovePush, RequestId, StoreError};
use serde_json::{Value, json};

use super::answer::failure;
use super::find::find;
use super::operations::Asking;
use super::push::Pushes;
use crate::narration::digits;

/// A webhook of 0.3 that its client gave no id.
const DEFAULT_ID: &str = "default";

/// The webhooks, where there are some.
///
/// # Errors
/// `PushNotificationNotSupported`.
pub(super) fn pushes<'a>(asking: &Asking<'a>) -> Result<&'a Pushes, A2aError> {
    asking.shared.pushes.as_deref().ok_or_else(|| {
        A2aError::new(
            ErrorKind::PushNotificationNotSupported,
            "push notifications are not supported here; SubscribeToTask follows a task",
        )
    })
}

/// Does what is asked for; what is no operation on webhooks is none here.
pub(super) async fn perform(
    asking: &Asking<'_>,
    version: ProtocolVersion,
    operation: Operation,
) -> Result<Value, A2aError> {
    let pushes = pushes(asking)?;
    match operation {
        Operation::CreatePushConfig(push) => {
            let row = find(asking, &push.task_id).await?;
            let push = add(asking, version, row.id, push).await?;
            Ok(push.encode(version))
        }
        Operation::GetPushConfig(push) => {
            let row = one(asking, &push).await?;
            Ok(pushes.config(&row).await?.encode(version))
        }
        Operation::ListPushConfigs(list) => all(asking, pushes, version, list).await,
        Operation::DeletePushConfig(push) => {
            let row = find(asking, &push.task_id).await?;
            let remove = RemovePush {
                request_id: row.id,
                push_id: push.id.unwrap_or_default(),
            };
            let removed = asking.shared.engine.store().write(remove).await;
            removed.map_err(|error| failure(&error.into()))?;
            Ok(Value::Null)
        }
        _ => Err(A2aError::new(
            ErrorKind::UnsupportedOperation,
            "that is no operation on webhooks",
        )),
    }
}

/// Adds a webhook to a request.
pub(super) async fn add(
    asking: &Asking<'_>,
    version: ProtocolVersion,
    request_id: RequestId,
    push: PushConfig,
) -> Result<PushConfig, A2aError> {
    let id = match (push.id.is_empty(), version) {
        (false, _) => push.id,
        (true, ProtocolVersion::V1) => format!("push_{}", digits(RequestId::generate())),
        // What is set again takes its place, as the servers of 0.3 have it.
        (true, ProtocolVersion::V03) => DEFAULT_ID.to_owned(),
    };
    let push = PushConfig {
        id,
        task_id: request_id.to_string(),
        ..push
    };
    pushes(asking)?
        .put(version, &asking.base, request_id, &push)
        .await?;
    Ok(push)
}

async fn one(asking: &Asking<'_>, push: &PushConfigRef) -> Result<PushRow, A2aError> {
    let row = find(asking, &push.task_id).await?;
    let store = asking.shared.engine.store();
    let failed = |error: StoreError| failure(&error.into());
    let found = match &push.id {
        Some(id) => store.push(row.id, id).await.map_err(failed)?,
        None => {
            let first = store.pushes(row.id, &PageRequest::first(1)).await;
            first.map_err(failed)?.items.into_iter().next()
        }
    };
    found.ok_or_else(|| {
        let message = format!("task `{}` has no such webhook", push.task_id);
        A2aError::new(ErrorKind::TaskNotFound, message).about("taskId", &push.task_id)
    })
}

async fn all(
    asking: &Asking<'_>,
    pushes: &Pushes,
    version: ProtocolVersion,
    list: ListPushConfigs,
) -> Result<Value, A2aError> {
    let row = find(asking, &list.task_id).await?;
    let page = PageRequest {
        limit: list.page_size,
        cursor: list.page_token,
    };
    let found = asking.shared.engine.store().pushes(row.id, &page).await;
    let found = found.map_err(|error| match error {
        StoreError::Cursor(_) => A2aError::invalid("pageToken", "is none of this list"),
        error => failure(&error.into()),
    })?;
    let mut configs = Vec::with_capacity(found.items.len());
    for row in &found.items {
        configs.push(pushes.config(row).await?.encode(version));
    }
    Ok(match version {
        ProtocolVersion::V1 => {
            json!({"configs": configs, "nextPageToken": found.next.unwrap_or_default()})
        }
        ProtocolVersion::V03 => Value::Array(configs),
    })
}
