//! A task as a client of its stream puts it together.

use serde_json::Map;

use super::ClientError;
use super::limits::MAX_TASK_BYTES;
use super::wire::malformed;
use crate::{Artifact, ArtifactUpdate, Content, Part, StreamEvent, Task, TaskState, TaskStatus};

/// A task, from the events of its stream.
pub(super) struct TaskView {
    task: Option<Task>,
    bytes: usize,
}

impl TaskView {
    pub(super) const fn new() -> Self {
        Self {
            task: None,
            bytes: 0,
        }
    }

    /// Takes an event. One without a task is not for it.
    pub(super) fn apply(&mut self, event: StreamEvent) -> Result<(), ClientError> {
        match event {
            StreamEvent::Task(mut task) => {
                merge(&mut task);
                self.bytes = task.artifacts.iter().map(|one| weight(&one.parts)).sum();
                self.task = Some(task);
            }
            StreamEvent::Status(update) => {
                let task = self.task_of(&update.task_id, update.context_id)?;
                task.status = update.status;
            }
            StreamEvent::Artifact(update) => {
                self.bytes += weight(&update.artifact.parts);
                let task = self.task_of(&update.task_id, update.context_id.clone())?;
                add(&mut task.artifacts, update);
            }
            StreamEvent::Message(_) => {}
        }
        match self.bytes > MAX_TASK_BYTES {
            true => Err(ClientError::TooLarge {
                what: "task",
                limit: MAX_TASK_BYTES,
            }),
            false => Ok(()),
        }
    }

    pub(super) const fn task(&self) -> Option<&Task> {
        self.task.as_ref()
    }

    pub(super) fn into_task(self) -> Option<Task> {
        self.task
    }

    fn task_of(&mut self, id: &str, context_id: String) -> Result<&mut Task, ClientError> {
        let task = self.task.get_or_insert_with(|| Task {
            id: id.to_owned(),
            context_id,
            status: TaskStatus {
                state: TaskState::Working,
                message: None,
                timestamp: None,
            },
            artifacts: Vec::new(),
            history: Vec::new(),
            metadata: Map::new(),
        });
        match task.id == id {
            true => Ok(task),
            false => Err(malformed("a stream tells of two tasks")),
        }
    }
}

/// Makes one of text parts of an artifact that follow each other: they are the pieces in which it came.
pub(super) fn merge(task: &mut Task) {
    for artifact in &mut task.artifacts {
        for part in std::mem::take(&mut artifact.parts) {
            append(&mut artifact.parts, part);
        }
    }
}

/// Whether the task has ended or waits for the client.
pub(super) const fn is_settled(task: &Task) -> bool {
    task.status.state.is_terminal() || task.status.state.is_interrupted()
}

fn add(artifacts: &mut Vec<Artifact>, update: ArtifactUpdate) {
    let artifact = update.artifact;
    let known = artifacts
        .iter_mut()
        .find(|known| known.artifact_id == artifact.artifact_id);
    match known {
        Some(known) if update.append => {
            for part in artifact.parts {
                append(&mut known.parts, part);
            }
        }
        Some(known) => *known = artifact,
        None => artifacts.push(artifact),
    }
}

/// Adds a part; text goes on where the text before it ends.
fn append(parts: &mut Vec<Part>, part: Part) {
    let is_plain = |part: &Part| part.filename.is_none() && part.metadata.is_empty();
    if let (Some(last), Content::Text(more)) = (parts.last_mut(), &part.content)
        && is_plain(last)
        && is_plain(&part)
        && let Content::Text(text) = &mut last.content
    {
        text.push_str(more);
        return;
    }
    parts.push(part);
}

fn weight(parts: &[Part]) -> usize {
    let weights = parts.iter().map(|part| match &part.content {
        Content::Text(text) | Content::Url(text) => text.len(),
        Content::Raw(bytes) => bytes.len(),
        // Roughly: it is not written out for that.
        Content::Data(data) => std::mem::size_of_val(data) + data.to_string().len(),
    });
    weights.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, append: bool) -> StreamEvent {
        StreamEvent::Artifact(ArtifactUpdate {
            task_id: "t".to_owned(),
            context_id: "c".to_owned(),
            artifact: Artifact::new("answer", vec![Part::text(text)]),
            append,
            last_chunk: false,
            metadata: Map::new(),
        })
    }

    #[test]
    fn pieces_of_text_become_one() {
        let mut view = TaskView::new();
        for (text, append) in [("old", false), ("a", false), ("b", true), ("c", true)] {
            view.apply(piece(text, append)).unwrap();
        }
        let task = view.into_task().unwrap();
        assert_eq!(
            task.artifacts,
            [Artifact::new("answer", vec![Part::text("abc")])]
        );
    }

    #[test]
    fn a_task_has_an_end_and_is_one() {
        let mut view = TaskView::new();
        let text = "x".repeat(MAX_TASK_BYTES / 2);
        assert!(view.apply(piece(&text, true)).is_ok());
        assert!(view.apply(piece(&text, true)).is_ok());
        assert!(matches!(
            view.apply(piece("x", true)),
            Err(ClientError::TooLarge { .. })
        ));
        let mut view = TaskView::new();
        view.apply(piece("a", false)).unwrap();
        let mut other = piece("b", false);
        if let StreamEvent::Artifact(update) = &mut other {
            update.task_id = "u".to_owned();
        }
        assert!(view.apply(other).is_err());
    }
}
