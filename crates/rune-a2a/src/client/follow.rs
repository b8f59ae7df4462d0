//! A message, and what has come of it in the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::limits::{FIRST_PAUSE, MAX_FAILURES, MAX_PAUSE, MAX_SENDS};
use super::view::{TaskView, is_settled, merge};
use super::wire::malformed;
use super::{ClientError, Events, RemoteAgent};
use crate::{ErrorKind, Message, SendMessage, StreamEvent, Task};

/// What has come of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A task that has ended, or that waits for the client.
    Task(Box<Task>),
    /// An answer without a task.
    Message(Box<Message>),
}

/// Is told the task and the context of a message as soon as they are known.
pub type TaskSink = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Wakes who waits to look at a task again; its agent may say that there is something to see.
pub type Wakeup = Arc<Notify>;

/// What has come of sending a message.
enum Sent {
    /// What there is to know.
    Settled(Outcome),
    /// A task that goes on, by its id. From here on the message is never sent again.
    Begun(String),
}

impl Sent {
    fn task(task: Task) -> Self {
        match is_settled(&task) {
            true => Self::Settled(Outcome::Task(Box::new(task))),
            false => Self::Begun(task.id),
        }
    }
}

impl RemoteAgent {
    /// Sends a message and follows what comes of it until that has ended or waits for the client. A stream that breaks
    /// is taken up again, and where that is not to be had the task is looked at again and again. A message of which
    /// nobody knows whether it has arrived is sent again only where that is safe; one whose task is known never is.
    ///
    /// It takes as long as it takes: who calls it bounds that.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn run(
        &self,
        send: SendMessage,
        told: &TaskSink,
        wakeup: &Wakeup,
    ) -> Result<Outcome, ClientError> {
        match self.begin(send, told).await? {
            Sent::Settled(outcome) => Ok(outcome),
            Sent::Begun(id) => {
                let task = self.resume(&id, wakeup).await?;
                Ok(Outcome::Task(Box::new(task)))
            }
        }
    }

    /// Follows a task that is known until it has ended or waits for the client.
    ///
    /// # Errors
    /// As [`RemoteAgent::run`].
    pub async fn resume(&self, task: &str, wakeup: &Wakeup) -> Result<Task, ClientError> {
        let mut streams = self.card.streaming;
        let mut failures = 0;
        let mut pause = FIRST_PAUSE;
        let mut was_said = false;
        loop {
            match self.task(task).await {
                Ok(task) if is_settled(&task) => return Ok(task),
                Ok(_) => failures = 0,
                Err(error) if error.is_passing() && failures < MAX_FAILURES => failures += 1,
                Err(error) => return Err(error),
            }
            if streams && failures == 0 {
                match self.subscribe(task).await {
                    Ok(events) => {
                        // Its end is to be seen at once; where the task then says otherwise, the stream is not believed again.
                        if told_of_an_end(events).await && !was_said {
                            was_said = true;
                            pause = FIRST_PAUSE;
                            continue;
                        }
                    }
                    Err(error) => streams = !error.is_unsupported(),
                }
            }
            wait(pause, wakeup).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Sends a message until it is known what has come of it.
    async fn begin(&self, mut send: SendMessage, told: &TaskSink) -> Result<Sent, ClientError> {
        let mut pause = FIRST_PAUSE;
        let mut sends = 1;
        loop {
            let error = match self.attempt(&send, told).await {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            if refuses_push(&error) && send.push.take().is_some() {
                continue;
            }
            let begins_context =
                send.message.context_id.is_some() && send.message.task_id.is_none();
            if error.kind() == Some(ErrorKind::InvalidParams) && begins_context {
                // An agent may insist on naming contexts by itself.
                send.message.context_id = None;
                continue;
            }
            let again = match &error {
                ClientError::Lost(_) => self.key(&send).is_some(),
                error => error.is_unsent() && error.is_passing(),
            };
            if !again || sends >= MAX_SENDS {
                return Err(error);
            }
            sends += 1;
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn attempt(&self, send: &SendMessage, told: &TaskSink) -> Result<Sent, ClientError> {
        if self.card.streaming {
            match self.stream(send).await {
                Ok(events) => match follow(events, told).await {
                    Err(error) if error.is_unsupported() => {}
                    other => return other,
                },
                Err(error) if error.is_unsupported() => {}
                Err(error) => return Err(error),
            }
        }
        let send = SendMessage {
            return_immediately: true,
            ..send.clone()
        };
        match self.send(&send).await? {
            StreamEvent::Message(message) => Ok(Sent::Settled(Outcome::Message(Box::new(message)))),
            StreamEvent::Task(mut task) => {
                merge(&mut task);
                told(&task.id, &task.context_id);
                Ok(Sent::task(task))
            }
            StreamEvent::Status(_) | StreamEvent::Artifact(_) => {
                Err(malformed("it is neither a task nor a message"))
            }
        }
    }
}

/// Follows the stream of a message that was sent. Where a task is known, an error is none of sending: none that is an
/// invitation to send again.
async fn follow(mut events: Events, told: &TaskSink) -> Result<Sent, ClientError> {
    let mut view = TaskView::new();
    while let Some(event) = events.next().await {
        let known = view.task().map(|task| task.id.clone());
        match (event, known) {
            (Ok(StreamEvent::Message(message)), None) => {
                return Ok(Sent::Settled(Outcome::Message(Box::new(message))));
            }
            (Ok(event), known) => {
                view.apply(event)?;
                let Some(task) = view.task() else { continue };
                if known.is_none() {
                    told(&task.id, &task.context_id);
                }
                if is_settled(task) {
                    break;
                }
            }
            (Err(ClientError::Transport(error)), None) => {
                return Err(ClientError::Lost(error.message));
            }
            (Err(error), None) => return Err(error),
            (Err(error @ ClientError::TooLarge { .. }), Some(_)) => return Err(error),
            // What is there to know is at the agent.
            (Err(_), Some(_)) => break,
        }
    }
    drop(events);
    let Some(task) = view.into_task() else {
        let message = "the stream ended before its first event";
        return Err(ClientError::Lost(message.to_owned()));
    };
    Ok(Sent::task(task))
}

/// Whether an agent may have refused a message for the webhook that came with it: not every agent says so in these words.
fn refuses_push(error: &ClientError) -> bool {
    matches!(
        error.kind(),
        Some(ErrorKind::PushNotificationNotSupported | ErrorKind::InvalidParams)
    )
}

/// Whether a stream says that its task has ended or waits; else it broke.
async fn told_of_an_end(mut events: Events) -> bool {
    while let Some(Ok(event)) = events.next().await {
        let state = match event {
            StreamEvent::Task(task) => task.status.state,
            StreamEvent::Status(update) => update.status.state,
            StreamEvent::Message(_) | StreamEvent::Artifact(_) => continue,
        };
        if state.is_terminal() || state.is_interrupted() {
            return true;
        }
    }
    false
}

async fn wait(pause: Duration, wakeup: &Wakeup) {
    tokio::select! {
        () = wakeup.notified() => {}
        () = sleep(pause) => {}
    }
}
