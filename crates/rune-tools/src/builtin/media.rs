//! What the media tools share.

use serde_json::{Value, json};

use crate::media::{MediaKind, Sources};
use crate::{MediaModel, MediaQuestion, ToolContext, ToolError};

/// Bytes of the longest question, hint or instruction.
pub(super) const MAX_QUESTION_BYTES: usize = 8 * 1024;

/// What is asked about a file.
pub(super) struct Asked {
    pub(super) source: String,
    pub(super) question: Option<String>,
}

/// Asks a model about a file of one of these kinds.
pub(super) async fn describe(
    context: &ToolContext,
    sources: &Sources,
    asked: Asked,
    kinds: &[MediaKind],
) -> Result<Value, ToolError> {
    let file = sources.read(context, &asked.source, kinds).await?;
    let kind = file.media_type.kind();
    let question = match asked.question {
        Some(question) => question,
        None => match kind {
            MediaKind::Image => "Describe this picture.",
            MediaKind::Audio => "Describe what can be heard, and sum up what is said.",
            MediaKind::Video => "Describe what can be seen and heard, and sum up what is said.",
        }
        .to_owned(),
    };
    let facts = file.facts();
    let said = context.media()?.describe(MediaQuestion { file, question });
    let said = said.await?;
    let mut answer = json!({ "text": said.text, "kind": kind.name() });
    add(&mut answer, &facts);
    sign(&mut answer, &said.by);
    Ok(answer)
}

/// What a call comes to, unless it is stopped before. Where that is because it took too long, the model is told whether somebody
/// is at work on it; a request that is cancelled is told nothing.
pub(super) async fn until_stopped<T>(
    context: &ToolContext,
    work: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => {
            let media = context.media.as_ref();
            let known = if media.is_some_and(|media| media.is_under_way()) {
                "whether the provider goes on with it and charges for it is not known"
            } else {
                "no model was at work on it then"
            };
            let millis = context.timeout.as_millis();
            Err(ToolError::timeout(format!("it took longer than {millis} ms and was stopped; {known}")))
        }
        done = work => done,
    }
}

/// Refuses a text that is longer than a model should be sent.
pub(super) fn check_length(name: &str, text: &str, limit: usize) -> Result<(), ToolError> {
    if text.len() > limit {
        return Err(ToolError::invalid(format!(
            "`{name}` has {} bytes, {limit} are allowed",
            text.len()
        )));
    }
    Ok(())
}

/// Adds the fields of an object to another one.
pub(super) fn add(answer: &mut Value, facts: &Value) {
    for (name, value) in facts.as_object().into_iter().flatten() {
        answer[name] = value.clone();
    }
}

/// Says which model has done it, and whether it has finished.
pub(super) fn sign(answer: &mut Value, by: &MediaModel) {
    answer["complete"] = by.complete.into();
    answer["provider"] = by.provider.as_str().into();
    answer["model"] = by.model.as_str().into();
    if let Some(notice) = by.notice {
        answer["notice"] = notice.into();
    }
}
