//! A task as a client of its stream puts it together.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::ClientError;
use super::limits::{ARTIFACT_BYTES, MAX_TASK_BYTES, PART_BYTES, VALUE_BYTES};
use super::wire::malformed;
use crate::{Artifact, ArtifactUpdate, Content, Part, StreamEvent, Task, TaskState, TaskStatus};

/// A task, from the events of its stream.
pub(super) struct TaskView {
    task: Option<Task>,
    /// Of each artifact by its id: where it is, and what it weighs.
    artifacts: HashMap<String, (usize, usize)>,
    /// What all of them weigh.
    bytes: usize,
}

impl TaskView {
    pub(super) fn new() -> Self {
        Self {
            task: None,
            artifacts: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes an event. One without a task is not for it.
    pub(super) fn apply(&mut self, event: StreamEvent) -> Result<(), ClientError> {
        match event {
            StreamEvent::Task(mut task) => {
                merge(&mut task);
                self.artifacts.clear();
                self.bytes = 0;
                for (at, artifact) in task.artifacts.iter().enumerate() {
                    let weight = weight(artifact);
                    self.bytes += weight;
                    self.artifacts
                        .insert(artifact.artifact_id.clone(), (at, weight));
                }
                self.task = Some(task);
            }
            StreamEvent::Status(update) => {
                let task = self.task_of(&update.task_id, update.context_id)?;
                task.status = update.status;
            }
            StreamEvent::Artifact(update) => {
                self.task_of(&update.task_id, update.context_id.clone())?;
                self.add(update);
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

    fn add(&mut self, update: ArtifactUpdate) {
        let Some(task) = &mut self.task else { return };
        let artifact = update.artifact;
        let Some((at, known)) = self.artifacts.get_mut(&artifact.artifact_id) else {
            let weight = weight(&artifact);
            let place = (task.artifacts.len(), weight);
            self.artifacts.insert(artifact.artifact_id.clone(), place);
            self.bytes += weight;
            task.artifacts.push(artifact);
            return;
        };
        let Some(there) = task.artifacts.get_mut(*at) else {
            return;
        };
        self.bytes -= *known;
        if update.append {
            for part in artifact.parts {
                *known += append(&mut there.parts, part);
            }
        } else {
            *known = weight(&artifact);
            *there = artifact;
        }
        self.bytes += *known;
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

/// Adds a part; text goes on where the text before it ends. Answers how much there is more now.
fn append(parts: &mut Vec<Part>, part: Part) -> usize {
    let is_plain = |part: &Part| part.filename.is_none() && part.metadata.is_empty();
    if let (Some(last), Content::Text(more)) = (parts.last_mut(), &part.content)
        && is_plain(last)
        && is_plain(&part)
        && let Content::Text(text) = &mut last.content
    {
        text.push_str(more);
        return more.len();
    }
    let weight = part_weight(&part);
    parts.push(part);
    weight
}

/// About what an artifact takes in memory.
fn weight(artifact: &Artifact) -> usize {
    let texts = [&artifact.name, &artifact.description]
        .into_iter()
        .flatten();
    let extensions = artifact.extensions.iter();
    let texts = texts.chain(extensions).chain([&artifact.artifact_id]);
    let texts: usize = texts.map(|text| PART_BYTES + text.len()).sum();
    let parts: usize = artifact.parts.iter().map(part_weight).sum();
    ARTIFACT_BYTES + texts + parts + map_weight(&artifact.metadata)
}

fn part_weight(part: &Part) -> usize {
    let content = match &part.content {
        Content::Text(text) | Content::Url(text) => text.len(),
        Content::Raw(bytes) => bytes.len(),
        Content::Data(data) => value_weight(data),
    };
    let said = [&part.media_type, &part.filename].into_iter().flatten();
    let said: usize = said.map(String::len).sum();
    PART_BYTES + content + said + map_weight(&part.metadata)
}

fn map_weight(map: &Map<String, Value>) -> usize {
    let fields = map.iter();
    fields
        .map(|(name, value)| VALUE_BYTES + name.len() + value_weight(value))
        .sum()
}

/// It nests no deeper than JSON that is read may.
fn value_weight(value: &Value) -> usize {
    VALUE_BYTES
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(value_weight).sum(),
            Value::Object(fields) => map_weight(fields),
        }
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
        // What takes its place is not there beside it.
        assert!(view.apply(piece(&text, false)).is_ok());
        assert!(matches!(
            view.apply(piece(&text, true)),
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

    /// How many updates of one kind a view takes.
    fn taken(update: impl Fn(usize) -> Artifact) -> usize {
        let mut view = TaskView::new();
        let most = MAX_TASK_BYTES / 128;
        let taken = (0..most).take_while(|n| {
            let mut event = piece("", true);
            if let StreamEvent::Artifact(event) = &mut event {
                event.artifact = update(*n);
            }
            view.apply(event).is_ok()
        });
        let taken = taken.count();
        assert!(taken < most, "there is no end of it");
        taken
    }

    #[test]
    fn an_answer_of_nothing_but_small_things_has_an_end_too() {
        let many = taken(|n| Artifact::new(n.to_string(), vec![Part::text("")]));
        assert!(many <= MAX_TASK_BYTES / ARTIFACT_BYTES, "{many}");
        let said = taken(|n| Artifact {
            metadata: Map::from_iter([("x".repeat(1 << 16), Value::Null)]),
            ..Artifact::new(n.to_string(), Vec::new())
        });
        assert!(said <= MAX_TASK_BYTES >> 16, "{said}");
        let data = Value::Array(vec![Value::Null; 1 << 10]);
        let parts = taken(|_| Artifact::new("a", vec![Part::new(Content::Data(data.clone()))]));
        assert!(parts <= MAX_TASK_BYTES / (VALUE_BYTES << 10), "{parts}");
    }
}
