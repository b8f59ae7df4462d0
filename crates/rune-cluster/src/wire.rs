//! Messages as bytes: the length of their JSON, the JSON, and the bytes of a snapshot's part, which
//! would be four times as many in JSON.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderName;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use rune_raft::{Disk, Message, Reply, Threads};
use serde::de::DeserializeOwned;

/// What a node asks of another one.
pub type PeerMessage = Message<<Threads as Disk>::Runtime>;
/// What it is answered.
pub type PeerReply = Reply<<Threads as Disk>::Runtime>;

/// The path that is asked.
pub(crate) const PATH: &str = "/raft";

/// Says that a request is one of a client, which reached another node, and which of the APIs it asked.
pub const FORWARDED: HeaderName = HeaderName::from_static("x-rune-forwarded");

/// What is sent to another node, and what that answers.
pub type PeerBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that are there already.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> PeerBody {
    let body = Full::new(bytes.into()).map_err(|never| match never {});
    body.boxed_unsync()
}

/// Requests that one connection may have open: what clients ask may take long, and be followed for long.
pub(crate) const MAX_STREAMS: u32 = 10_000;
/// The largest window of HTTP/2.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The headers of a message, counted as HTTP/2 does: more than a socket of clients takes, as one that is larger ends the
/// connection and not the message.
pub(crate) const MAX_HEADER_LIST_BYTES: u32 = 256 << 10;

/// The largest message, and the largest answer: entries of 4 MiB with one command of any size.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// What has no meaning, or is too large.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("the message is cut off")]
    Short,
    /// It is nothing that is known.
    #[error("the message cannot be read, it may be of another version of rune: {0}")]
    Json(#[from] serde_json::Error),
    /// It is too large.
    #[error("the message has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The connection ended before it did.
    #[error("the message did not arrive whole: {0}")]
    Broken(String),
}

/// The bytes of a message.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode(mut message: PeerMessage) -> Result<Bytes, WireError> {
    let part = match &mut message {
        Message::Chunk(_, chunk) => std::mem::take(&mut chunk.bytes),
        _ => Vec::new(),
    };
    let json = serde_json::to_vec(&message)?;
    let length = u32::try_from(json.len()).map_err(|_| WireError::TooLarge)?;
    let mut bytes = BytesMut::with_capacity(size_of::<u32>() + json.len() + part.len());
    bytes.put_u32(length);
    bytes.put_slice(&json);
    bytes.put_slice(&part);
    if bytes.len() > MAX_BYTES {
        return Err(WireError::TooLarge);
    }
    Ok(bytes.freeze())
}

/// The message of these bytes.
///
/// # Errors
/// Where there is none.
pub fn decode(bytes: &[u8]) -> Result<PeerMessage, WireError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(WireError::Short)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (json, part) = rest.split_at_checked(length).ok_or(WireError::Short)?;
    let mut message = serde_json::from_slice(json)?;
    if let Message::Chunk(_, chunk) = &mut message {
        chunk.bytes = part.to_vec();
    }
    Ok(message)
}

/// All of a body.
pub(crate) async fn collect(body: Incoming) -> Result<Bytes, WireError> {
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(WireError::TooLarge),
        Err(error) => Err(WireError::Broken(error.to_string())),
    }
}

/// What an answer holds.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use rune_raft::Proposal;

    use super::*;

    /// Messages as they are sent: with and without bytes behind their JSON.
    fn messages() -> Vec<PeerMessage> {
        let command = r#"{"text":"\"quoted\" and\nin two lines"}"#.to_owned();
        let chunk = r#"{"Chunk":[{"leader_id":{"term":1,"node_id":2},"committed":true},
            {"manifest":{"applied":null,"members":{"log_id":null,"membership":{"configs":[],"nodes":{}}},
             "bytes":5,"digest":"DIGEST"},"offset":0,"bytes":[]}]}"#;
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut chunk = serde_json::from_str(&chunk.replace("DIGEST", &digest)).unwrap();
        if let Message::Chunk(_, chunk) = &mut chunk {
            chunk.bytes = vec![0, 1, 2, 254, 255];
        }
        let write = Message::Write(vec![Proposal::from(command)]);
        vec![Message::ReadIndex, write, chunk]
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        for message in messages() {
            let bytes = encode(message.clone()).unwrap();
            let arrived = decode(&bytes).unwrap();
            assert_eq!(encode(arrived.clone()).unwrap(), bytes);
            match (message, arrived) {
                (Message::Chunk(_, sent), Message::Chunk(_, arrived)) => assert_eq!(sent, arrived),
                (Message::Write(sent), Message::Write(arrived)) => assert!(sent == arrived),
                (Message::ReadIndex, Message::ReadIndex) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_changed_is_an_error_or_a_message() {
        for message in messages() {
            let bytes = encode(message).unwrap();
            for end in 0..bytes.len() {
                drop(decode(&bytes[..end]));
                for value in [0, b'"', b'}', 255] {
                    let mut changed = bytes.to_vec();
                    changed[end] = value;
                    drop(decode(&changed));
                }
            }
            assert!(matches!(decode(&bytes[..3]), Err(WireError::Short)));
            assert!(matches!(decode(&bytes[..5]), Err(WireError::Short)));
        }
    }
}
