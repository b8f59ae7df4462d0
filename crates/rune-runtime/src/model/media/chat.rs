//! Questions about pictures, asked as in a conversation: every protocol for conversations takes pictures.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::StreamExt;
use rune_store_runtime::{Block, ImageSource, Message, Role, StopReason};

use super::answer::declined;
use super::request::MAX_DESCRIPTION_TOKENS;
use super::{ABOUT_A_FILE, Fault, MediaDone, MediaFailed, MediaOutput, MediaRequest};
use crate::model::{
    CallStep, GuardedClient, LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput,
    ModelRequest,
};

pub(super) async fn ask(
    client: &GuardedClient,
    model: &str,
    request: &MediaRequest,
    on_step: &(dyn Fn(CallStep) + Send + Sync),
) -> Result<MediaDone, MediaFailed> {
    let provider = client.provider();
    let MediaRequest::Describe(question) = request else {
        let message = "this is no question about a picture";
        return Err(ModelError::new(ModelErrorKind::InvalidRequest, provider, message).into());
    };
    let picture = ImageSource::Data {
        media_type: question.file.media_type.mime().to_owned(),
        data: BASE64_STANDARD.encode(&question.file.bytes),
    };
    let asked = Message {
        role: Role::User,
        blocks: vec![
            Block::Image { source: picture },
            Block::text(question.question.as_str()),
        ],
    };
    let request = ModelRequest {
        model: model.to_owned(),
        system: ABOUT_A_FILE.to_owned(),
        messages: vec![asked],
        tools: Vec::new(),
        max_output_tokens: u32::try_from(MAX_DESCRIPTION_TOKENS).ok(),
        temperature: None,
        reasoning_effort: None,
        output_schema: None,
    };
    let mut reply = client.call(&request, on_step).await?;
    loop {
        let error = match reply.next().await {
            Some(Ok(ModelEvent::Done(output))) => return Ok(done(output, provider)),
            Some(Ok(ModelEvent::Text(_) | ModelEvent::Reasoning(_))) => continue,
            Some(Err(error)) => error,
            None => {
                let message = "the reply ended before it was complete";
                ModelError::new(ModelErrorKind::Truncated, provider, message)
            }
        };
        // What has begun is paid for, whatever broke it.
        let is_unknown = true;
        return Err(MediaFailed { error, is_unknown });
    }
}

fn done(reply: ModelOutput, provider: &str) -> MediaDone {
    let said = Message {
        role: Role::Assistant,
        blocks: reply.blocks,
    };
    let text = said.text();
    let output = match (reply.stop, text.trim().is_empty()) {
        (StopReason::Refusal, _) => Err(declined("the model declined to answer")),
        (_, true) => Err(Fault::malformed("the answer has no text")),
        (_, false) => Ok(MediaOutput::Text(text)),
    };
    MediaDone {
        usage: Some(reply.usage),
        complete: reply.stop == StopReason::EndTurn,
        output: output.map_err(|fault| fault.into_error(provider)),
    }
}
