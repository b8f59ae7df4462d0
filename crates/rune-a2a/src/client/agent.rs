//! One agent, and the operations that it is asked for.

use std::sync::Arc;

use super::events::{Events, events};
use super::view::merge;
use super::wire::{Ask, answer, malformed};
use super::{ClientError, RemoteCard, Transport};
use crate::{AgentInterface, SendMessage, StreamEvent, Task};

/// An agent that somebody else serves. Cheap to clone.
#[derive(Clone)]
pub struct RemoteAgent {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) card: Arc<RemoteCard>,
    pub(super) interface: Arc<AgentInterface>,
}

impl RemoteAgent {
    /// How it describes itself.
    #[must_use]
    pub fn card(&self) -> &RemoteCard {
        &self.card
    }

    /// Where and how it is called.
    #[must_use]
    pub fn interface(&self) -> &AgentInterface {
        &self.interface
    }

    /// Sends a message; answers what the agent answers: a task or a message.
    ///
    /// # Errors
    /// A [`ClientError`]; [`ClientError::Lost`] where it may have arrived.
    pub async fn send(&self, send: &SendMessage) -> Result<StreamEvent, ClientError> {
        let ask = Ask::Send {
            send,
            streams: false,
            key: self.key(send),
        };
        let response = self.ask(ask).await;
        let result = match response {
            Ok(response) => answer(&self.interface, response).await,
            Err(error) => Err(error),
        };
        let result = result.map_err(lost)?;
        let event = StreamEvent::decode(self.interface.version, &result);
        event.map_err(|error| malformed(error.message()))
    }

    /// Sends a message; answers the stream of what comes of it.
    ///
    /// # Errors
    /// As [`RemoteAgent::send`].
    pub async fn stream(&self, send: &SendMessage) -> Result<Events, ClientError> {
        let ask = Ask::Send {
            send,
            streams: true,
            key: self.key(send),
        };
        let response = self.ask(ask).await.map_err(lost)?;
        events(&self.interface, response).await.map_err(lost)
    }

    /// Looks at a task, without its history.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn task(&self, id: &str) -> Result<Task, ClientError> {
        let response = self.ask(Ask::Get(id)).await?;
        let result = answer(&self.interface, response).await?;
        self.read_task(id, &result)
    }

    /// Calls a task off.
    ///
    /// # Errors
    /// A [`ClientError`], also where the task has ended.
    pub async fn cancel(&self, id: &str) -> Result<Task, ClientError> {
        let response = self.ask(Ask::Cancel(id)).await?;
        let result = answer(&self.interface, response).await?;
        self.read_task(id, &result)
    }

    /// Follows a task.
    ///
    /// # Errors
    /// A [`ClientError`], also where the task has ended.
    pub async fn subscribe(&self, id: &str) -> Result<Events, ClientError> {
        let response = self.ask(Ask::Subscribe(id)).await?;
        events(&self.interface, response).await
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<super::HttpResponse, ClientError> {
        let request = ask.request(&self.interface);
        Ok(self.transport.send(request).await?)
    }

    fn read_task(&self, id: &str, result: &serde_json::Value) -> Result<Task, ClientError> {
        let task = Task::decode(self.interface.version, result);
        let mut task = task.map_err(|error| malformed(error.message()))?;
        merge(&mut task);
        match task.id == id {
            true => Ok(task),
            false => Err(malformed("it is about another task")),
        }
    }

    /// What makes a message safe to send twice, where the agent knows such a thing.
    pub(super) fn key<'a>(&self, send: &'a SendMessage) -> Option<&'a str> {
        let id = send.message.message_id.as_str();
        let fits = id.len() <= 255 && id.bytes().all(|b| b.is_ascii_graphic());
        // A message about a task that exists begins none.
        let begins = send.message.task_id.is_none();
        (fits && begins && self.card.keeps_keys()).then_some(id)
    }
}

/// An exchange that broke behind its sending: the message may have arrived.
fn lost(error: ClientError) -> ClientError {
    match error {
        ClientError::Transport(error) if !error.is_unsent => ClientError::Lost(error.message),
        // A server in front of the agent may have given up on it.
        ClientError::Remote(error)
            if error.kind.is_none()
                && matches!(
                    error.code,
                    rune_store_runtime::ErrorCode::Unavailable
                        | rune_store_runtime::ErrorCode::Timeout
                ) =>
        {
            ClientError::Lost(error.message)
        }
        other => other,
    }
}
