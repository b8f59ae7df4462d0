//! Webhooks that are told what happens to a request.

use serde::{Deserialize, Serialize};

use crate::{RequestId, SealedSecret, Timestamp};

/// Adds a webhook to a request; one of the same id is replaced and is told anew. Reply: unit. Rejected with
/// `not_found` where the request is not stored, with `conflict` where it has too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutPush {
    /// The request.
    pub request_id: RequestId,
    /// The webhook, unique within the request: 1 to [`crate::limits::MAX_PUSH_ID_BYTES`] bytes.
    pub push_id: String,
    /// Where and how it is told, encrypted by whoever made the command.
    pub sealed: SealedSecret,
}

/// Removes a webhook. Reply: unit. Removing one that is gone is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovePush {
    /// The request.
    pub request_id: RequestId,
    /// The webhook.
    pub push_id: String,
}

/// Says what came of telling a webhook. Reply: unit. One that is gone, or was replaced meanwhile, stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettlePush {
    /// The request.
    pub request_id: RequestId,
    /// The webhook.
    pub push_id: String,
    /// When the webhook was added that was told.
    pub created_at: Timestamp,
    /// The last entry of the journal that it was told of, or should have been.
    pub seq: u64,
    /// When it is tried again; absent where it was told, or is given up.
    pub again_at: Option<Timestamp>,
}

/// A webhook as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRow {
    /// The request.
    pub request_id: RequestId,
    /// The webhook.
    pub push_id: String,
    /// Where and how it is told.
    pub sealed: SealedSecret,
    /// The last entry of the journal that it was told of; 0 for none.
    pub told: u64,
    /// How often it was tried since then.
    pub attempts: u32,
    /// Not tried before.
    pub next_at: Timestamp,
    /// When it was added.
    pub created_at: Timestamp,
}
