//! The side that calls.

mod blobs;
mod commands;
mod connection;
mod patience;
mod renewal;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rune_runtime::Tasks;
use rune_store_runtime::{Command, CommandLog, Reply, StoreError};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::call::{READ, Read};
use commands::Commands;
use connection::{CallError, Connection};
use patience::Patience;

/// Where a [`RemoteStore`] finds its store, and how long it tries.
#[derive(Debug, Clone)]
pub struct RemoteStoreConfig {
    /// Base URL of a control plane, such as `http://127.0.0.1:8081`, or `unix:PATH`, the socket where it listens.
    pub url: String,
    /// What says who calls.
    pub token: SecretString,
    /// How long a call is tried before it fails: longer than a restart of the other side takes. A
    /// command is known again for [`rune_store_runtime::limits::RECEIPT_WINDOW`], which bounds it.
    pub patience: Duration,
    /// Longest time for one attempt of a call.
    pub attempt: Duration,
}

impl RemoteStoreConfig {
    /// With a minute of patience.
    pub fn new(url: impl Into<String>, token: SecretString) -> Self {
        Self {
            url: url.into(),
            token,
            patience: Duration::from_secs(60),
            attempt: Duration::from_secs(20),
        }
    }
}

/// A [`RemoteStore`] that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RemoteStoreError {
    /// The address is none.
    #[error("`{0}` is not the URL of a control plane, expected `http://HOST:PORT` or `unix:PATH`")]
    Url(String),
    /// The directory of its socket cannot be opened.
    #[error("the control plane cannot be reached at `unix:{0}`")]
    Socket(String, #[source] std::io::Error),
    /// The token cannot stand in a header.
    #[error("the token has characters that no token has")]
    Token,
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A store that is reached over HTTP. Cheap to clone.
///
/// Commands that wait at the same time are sent together; the next ones go out when these are
/// answered. What is under way when the process is asked to end is finished by the task that
/// sends it.
#[derive(Clone)]
pub struct RemoteStore {
    connection: Arc<Connection>,
    commands: Arc<Commands>,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore")
            .field("url", &self.connection.url())
            .finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// A store that has connected to nothing yet. `tasks` start the ones that send.
    ///
    /// # Errors
    /// A [`RemoteStoreError`] where the configuration is none.
    pub fn new(config: &RemoteStoreConfig, tasks: Tasks) -> Result<Self, RemoteStoreError> {
        let connection = Arc::new(Connection::new(config)?);
        let commands = Arc::new(Commands::new(Arc::clone(&connection), tasks));
        Ok(Self {
            connection,
            commands,
        })
    }

    /// Asks another internal route of the same daemon, JSON for JSON, until it is answered or
    /// patience ends: what is asked must be the same when it is asked again.
    ///
    /// # Errors
    /// A [`StoreError`] where it is refused or not answered.
    pub async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, StoreError> {
        let body = serde_json::to_vec(body)
            .map(Bytes::from)
            .map_err(|error| StoreError::Unavailable(format!("a call has no JSON: {error}")))?;
        self.patiently(async || {
            let answer = self.connection.post(path, body.clone()).await?;
            serde_json::from_slice(&answer)
                .map(Ok)
                .map_err(|error| CallError::Final(unreadable(&error)))
        })
        .await
    }

    /// What a read answers.
    pub(crate) async fn read<T: DeserializeOwned>(&self, read: &Read) -> Result<T, StoreError> {
        let body = serde_json::to_vec(read)
            .map(Bytes::from)
            .map_err(|error| StoreError::Unavailable(format!("a read has no JSON: {error}")))?;
        self.patiently(|| async {
            let answer = self.connection.post(READ, body.clone()).await?;
            serde_json::from_slice::<Result<T, StoreError>>(&answer)
                .map_err(|error| CallError::Final(unreadable(&error)))
        })
        .await
    }

    /// Makes a call that may be made again, until it has an answer or patience ends.
    async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Result<T, StoreError>, CallError>>,
    {
        let mut patience = self.connection.patience_since(Instant::now());
        loop {
            let reason = match attempt().await {
                Ok(Err(StoreError::Unavailable(reason))) | Err(CallError::Again(reason)) => reason,
                Ok(answer) => return answer,
                Err(CallError::Denied(message)) => return Err(StoreError::Denied(message)),
                Err(CallError::Final(error)) => return Err(error),
            };
            if !patience.wait().await {
                return Err(StoreError::Unavailable(reason));
            }
        }
    }
}

#[async_trait]
impl CommandLog for RemoteStore {
    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.commands.submit(&command).await
    }
}

fn unreadable(error: &serde_json::Error) -> StoreError {
    StoreError::Unavailable(format!(
        "the control plane's answer cannot be read, it may be of another version: {error}"
    ))
}
