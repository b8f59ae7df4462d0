//! A task: what the events of a request amount to.

use std::collections::BTreeMap;

use rune_a2a::{
    Artifact, ArtifactUpdate, Message, Part, Role, StatusUpdate, StreamEvent, Task, TaskState,
    TaskStatus,
};
use rune_runtime::{RequestEvent, SequencedEvent};
use rune_store_runtime::{
    ApprovalDecision, ApprovalId, RequestId, RequestRow, RequestStatus, SessionId, Timestamp,
};
use serde_json::{Map, Value, json};

use super::notes::{NOTES, Notes};
use super::parts::{TEXT, parts_of_output};
use super::question::{self, Question};

/// The artifact with what the agent answers.
const ANSWER: &str = "answer";

/// A task as far as the events of its request are known.
#[derive(Debug)]
pub(crate) struct TaskView {
    request_id: RequestId,
    context_id: SessionId,
    /// Where the gateway is, for what is fetched from it.
    base: String,
    accepted: Vec<String>,
    /// Whether the answer is text, and told as it is said.
    is_text: bool,
    /// The last entry that is known.
    at: u64,
    /// When that was committed.
    time: Timestamp,
    status: TaskStatus,
    artifacts: Vec<Artifact>,
    history: Vec<Message>,
    metadata: Map<String, Value>,
    /// The reply that is being said.
    open: Option<String>,
    /// A reply that is whole, until it shows whether it is the answer.
    said: Option<String>,
    messages: u32,
    questions: BTreeMap<ApprovalId, Question>,
}

impl TaskView {
    /// The task of a request that nothing is known of but its row and its input.
    pub(crate) fn of_row(
        row: &RequestRow,
        input: Option<&Value>,
        is_text: bool,
        base: String,
    ) -> Self {
        let notes = Notes::of_row(row);
        let accepted = notes.accepted_output_modes.clone();
        let asked = input.map(|input| notes.message(row, input));
        let metadata = row.metadata.iter().filter(|(key, _)| *key != NOTES);
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone()));
        let metadata = metadata.collect();
        let mut view = Self::new(row.id, row.session_id.clone(), is_text, base);
        view.accepted = accepted;
        view.metadata = metadata;
        view.history
            .extend(asked.map(|message| view.about(message)));
        view
    }

    /// The task of a message that was just accepted.
    pub(crate) fn of_message(
        (request_id, context_id): (RequestId, SessionId),
        message: Message,
        (metadata, accepted): (Map<String, Value>, Vec<String>),
        is_text: bool,
        base: String,
    ) -> Self {
        let mut view = Self::new(request_id, context_id, is_text, base);
        view.metadata = metadata;
        view.accepted = accepted;
        let message = view.about(message);
        view.history.push(message);
        view
    }

    fn new(request_id: RequestId, context_id: SessionId, is_text: bool, base: String) -> Self {
        Self {
            request_id,
            context_id,
            base,
            accepted: Vec::new(),
            is_text,
            at: 0,
            time: Timestamp::default(),
            status: TaskStatus::new(TaskState::Submitted, Timestamp::default()),
            artifacts: Vec::new(),
            history: Vec::new(),
            metadata: Map::new(),
            open: None,
            said: None,
            messages: 0,
            questions: BTreeMap::new(),
        }
    }

    /// The same for a reader that is told of an answer when it is whole.
    pub(crate) fn untold(self) -> Self {
        Self {
            is_text: false,
            ..self
        }
    }

    /// The last entry that is known.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// The task as it is known, with the newest messages of its history; all where their number
    /// is absent.
    pub(crate) fn task(&self, history_length: Option<u32>) -> Task {
        let wanted = history_length.map_or(usize::MAX, |wanted| wanted as usize);
        let left_out = self.history.len().saturating_sub(wanted);
        Task {
            id: self.request_id.to_string(),
            context_id: self.context_id.to_string(),
            status: self.status.clone(),
            artifacts: self.artifacts.clone(),
            history: self.history[left_out..].to_vec(),
            metadata: self.metadata.clone(),
        }
    }

    /// Takes the state from the row, which knows what a request waits for and how it ended.
    pub(crate) fn settle(&mut self, row: &RequestRow) {
        self.time = row.updated_at;
        match row.status {
            RequestStatus::InputRequired => drop(self.park()),
            // Behind a decision it is accepted again, and the journal knows more.
            RequestStatus::Accepted => {}
            RequestStatus::Running => drop(self.works()),
            status if !self.status.state.is_terminal() => {
                let failure = row.failure.as_ref();
                self.end(state_of(status), failure.map(|it| it.message.as_str()));
            }
            _ => {}
        }
        self.status.timestamp = Some(self.time);
    }

    /// The request waits for a person.
    pub(crate) fn park(&mut self) -> StreamEvent {
        let id = self.questions.keys().next().map(ToString::to_string);
        let id = id.unwrap_or_else(|| format!("{}-question", self.request_id));
        let parts = question::ask(self.questions.iter().map(|(id, question)| (*id, question)));
        let message = self.about(Message::new(id, Role::Agent, parts));
        self.becomes(TaskState::InputRequired, Some(message))
    }

    /// A replica is at it. Answers what a client is told of it.
    pub(crate) fn works(&mut self) -> Vec<StreamEvent> {
        match self.status.state {
            TaskState::Working => Vec::new(),
            _ => vec![self.becomes(TaskState::Working, None)],
        }
    }

    /// Takes an event in. Answers what a client is told of it.
    pub(crate) fn apply(&mut self, event: &SequencedEvent) -> Vec<StreamEvent> {
        self.at = event.seq.unwrap_or(self.at);
        self.time = event.at.unwrap_or(self.time);
        match &event.event {
            RequestEvent::Accepted { .. } => {
                self.status.timestamp = Some(self.time);
                Vec::new()
            }
            RequestEvent::Started { .. } => {
                let is_first = self.status.state == TaskState::Submitted;
                let mut events = self.works();
                events.extend(is_first.then(|| self.tell_early()).flatten());
                events
            }
            RequestEvent::Token { text } => self.say(text),
            RequestEvent::Usage { .. } | RequestEvent::ComponentTurn { .. } => {
                self.said = self.open.take().or(self.said.take());
                Vec::new()
            }
            RequestEvent::ModelFailed { .. } => {
                self.open = None;
                Vec::new()
            }
            RequestEvent::ToolStart { .. } => self.goes_on(),
            RequestEvent::ToolDone { images, .. } => {
                let made = images.iter().map(|image| {
                    let handle = image.handle();
                    let url = format!(
                        "{}/v1/sessions/{}/outputs/{handle}",
                        self.base, self.context_id
                    );
                    let part = Part::new(rune_a2a::Content::Url(url)).of_type(&image.media_type);
                    Artifact::new(handle, vec![part])
                });
                let made: Vec<Artifact> = made.collect();
                made.into_iter()
                    .map(|artifact| self.put(artifact, false, true))
                    .collect()
            }
            RequestEvent::ApprovalRequired {
                approval_id,
                tool,
                input,
                reason,
                deadline,
                ..
            } => {
                let question = Question {
                    tool: tool.clone(),
                    input: input.clone(),
                    reason: reason.clone(),
                    deadline: *deadline,
                };
                self.questions.insert(*approval_id, question);
                self.goes_on()
            }
            RequestEvent::ApprovalGiven {
                approval_id,
                decision,
                note,
                ..
            } => self.decided(*approval_id, *decision, note.as_deref()),
            RequestEvent::Done { output, .. } => self.done(output),
            RequestEvent::Error {
                status, message, ..
            } => {
                let state = state_of(*status);
                self.artifacts
                    .retain(|artifact| artifact.artifact_id != ANSWER);
                vec![self.end(state, Some(message))]
            }
            _ => Vec::new(),
        }
    }

    /// More of a reply, which may be the answer. What is said before it is committed that the agent is at it waits for that.
    fn say(&mut self, text: &str) -> Vec<StreamEvent> {
        if text.is_empty() {
            return Vec::new();
        }
        let begins = self.open.is_none();
        self.open.get_or_insert_default().push_str(text);
        if begins {
            self.said = None;
        }
        if !self.is_text || self.status.state == TaskState::Submitted {
            return Vec::new();
        }
        vec![self.put(answer_text(text), !begins, false)]
    }

    /// What was said too early.
    fn tell_early(&mut self) -> Option<StreamEvent> {
        let early = self.open.as_deref().filter(|_| self.is_text)?;
        Some(self.put(answer_text(early), false, false))
    }

    /// The agent goes on behind a reply, so that was not the answer.
    fn goes_on(&mut self) -> Vec<StreamEvent> {
        let Some(said) = self.said.take() else {
            return Vec::new();
        };
        self.artifacts
            .retain(|artifact| artifact.artifact_id != ANSWER);
        let message = self.agent_says(vec![Part::text(said)]);
        self.history.push(message.clone());
        vec![self.becomes(TaskState::Working, Some(message))]
    }

    fn decided(
        &mut self,
        id: ApprovalId,
        decision: ApprovalDecision,
        note: Option<&str>,
    ) -> Vec<StreamEvent> {
        if let Some(question) = self.questions.remove(&id) {
            let asked = Message::new(
                format!("{id}-question"),
                Role::Agent,
                vec![Part::data(question.data(id))],
            );
            let answer = json!({"approvalId": id, "decision": decision.as_str()});
            let parts = note.map(Part::text).into_iter();
            let parts = parts.chain([Part::data(answer)]).collect();
            let given = Message::new(format!("{id}-answer"), Role::User, parts);
            let both = [self.about(asked), self.about(given)];
            self.history.extend(both);
        }
        match self.questions.is_empty() {
            true => vec![self.becomes(TaskState::Working, None)],
            false => Vec::new(),
        }
    }

    fn done(&mut self, output: &Value) -> Vec<StreamEvent> {
        let said = self.open.take().or(self.said.take());
        let is_said = |text: &str| said.as_deref().is_some_and(|it| it.trim() == text.trim());
        let told = |artifact: &Artifact| artifact.artifact_id == ANSWER;
        let is_told = self.artifacts.iter().any(told) && output.as_str().is_some_and(is_said);
        let parts = parts_of_output(output, &self.accepted);
        let mut events = Vec::new();
        if is_told {
            // It only remains to say that this was all.
            events.push(self.artifact_update(answer_text(""), true, true));
        } else if !parts.is_empty() {
            let whole = Artifact::new(ANSWER, parts.clone());
            events.push(self.artifact_update(whole, false, true));
        }
        self.artifacts
            .retain(|artifact| artifact.artifact_id != ANSWER);
        if !parts.is_empty() {
            self.artifacts.push(Artifact::new(ANSWER, parts));
        }
        events.push(self.becomes(TaskState::Completed, None));
        events
    }

    fn end(&mut self, state: TaskState, why: Option<&str>) -> StreamEvent {
        let message = why.map(|why| {
            let id = format!("{}-end", self.request_id);
            self.about(Message::new(id, Role::Agent, vec![Part::text(why)]))
        });
        self.becomes(state, message)
    }

    /// It is in a state since the last entry that is known.
    fn becomes(&mut self, state: TaskState, message: Option<Message>) -> StreamEvent {
        self.status = TaskStatus {
            message,
            ..TaskStatus::new(state, self.time)
        };
        StreamEvent::Status(StatusUpdate {
            task_id: self.request_id.to_string(),
            context_id: self.context_id.to_string(),
            status: self.status.clone(),
            metadata: Map::new(),
        })
    }

    /// Adds an artifact, or to one.
    fn put(&mut self, artifact: Artifact, append: bool, last_chunk: bool) -> StreamEvent {
        let update = self.artifact_update(artifact.clone(), append, last_chunk);
        let known = self.artifacts.iter_mut();
        let mut known = known.filter(|it| it.artifact_id == artifact.artifact_id);
        match known.next() {
            Some(known) if append => extend(&mut known.parts, artifact.parts),
            Some(known) => *known = artifact,
            None => self.artifacts.push(artifact),
        }
        update
    }

    fn artifact_update(&self, artifact: Artifact, append: bool, last_chunk: bool) -> StreamEvent {
        StreamEvent::Artifact(ArtifactUpdate {
            task_id: self.request_id.to_string(),
            context_id: self.context_id.to_string(),
            artifact,
            append,
            last_chunk,
            metadata: Map::new(),
        })
    }

    fn agent_says(&mut self, parts: Vec<Part>) -> Message {
        self.messages += 1;
        let id = format!("{}-{}", self.request_id, self.messages);
        self.about(Message::new(id, Role::Agent, parts))
    }

    fn about(&self, message: Message) -> Message {
        message.of_task(self.request_id.to_string(), self.context_id.to_string())
    }
}

/// More of the answer, or all of it.
fn answer_text(text: &str) -> Artifact {
    Artifact::new(ANSWER, vec![Part::text(text).of_type(TEXT)])
}

/// A text that comes in pieces is one part.
fn extend(parts: &mut Vec<Part>, more: Vec<Part>) {
    use rune_a2a::Content::Text;
    for part in more {
        match (parts.last_mut().map(|last| &mut last.content), part.content) {
            (Some(Text(text)), Text(more)) => text.push_str(&more),
            (_, content) => parts.push(Part { content, ..part }),
        }
    }
}

/// The state of the task of a request.
pub(crate) const fn state_of(status: RequestStatus) -> TaskState {
    match status {
        RequestStatus::Accepted => TaskState::Submitted,
        RequestStatus::Running => TaskState::Working,
        RequestStatus::InputRequired => TaskState::InputRequired,
        RequestStatus::Completed => TaskState::Completed,
        RequestStatus::Failed => TaskState::Failed,
        RequestStatus::Cancelled => TaskState::Canceled,
    }
}

/// The state of requests whose tasks are in a state; no task is ever in the others.
pub(crate) fn status_of(state: TaskState) -> Option<RequestStatus> {
    let all = RequestStatus::ALL.into_iter();
    all.into_iter().find(|status| state_of(*status) == state)
}
