//! Models that see, hear, draw and speak: one call of one of them, in the vendor's way.
//!
//! [`MediaCandidate`]s are the models of an agent that can do what is asked, in order; [`MediaCandidate::ask`] asks one of them. A
//! call is paid for, so it is made again only where the provider has said that it did not do it.

mod chat;
mod gemini;
mod multipart;
mod offline;
mod openai;
mod select;

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::Usage;
use rune_tools::{
    MediaFile, MediaKind, MediaQuestion, MediaSegment, MediaType, NewImage, NewSpeech,
    NewTranscript,
};

use super::guarded::Attempts;
use super::wire::{WholeRequest, WireClient};
use super::{GuardedClient, ModelError, ModelErrorKind, Price, ProviderGuard, RetryPolicy};

pub(crate) use select::{MediaCandidate, candidates};

/// The longest that a provider may take for the first byte of an answer; the tool's own limit ends it before.
const FIRST_BYTE: Duration = Duration::from_secs(600);
/// Output tokens of a description at the most.
pub(crate) const MAX_DESCRIPTION_TOKENS: u64 = 4096;

/// What is asked of a model.
#[derive(Debug, Clone)]
pub(crate) enum MediaRequest {
    /// Something about a file.
    Describe(MediaQuestion),
    /// A transcript.
    Transcribe(NewTranscript),
    /// A picture.
    Draw(NewImage),
    /// A text that is spoken.
    Speak(NewSpeech),
}

/// What a model has to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaTask {
    Vision,
    Audio,
    Video,
    Image,
    Speech,
    Transcription,
    TimedTranscription,
}

impl MediaRequest {
    pub(crate) const fn task(&self) -> MediaTask {
        match self {
            Self::Describe(question) => match question.file.media_type.kind() {
                MediaKind::Image => MediaTask::Vision,
                MediaKind::Audio => MediaTask::Audio,
                MediaKind::Video => MediaTask::Video,
            },
            Self::Transcribe(wanted) if wanted.timestamps => MediaTask::TimedTranscription,
            Self::Transcribe(_) => MediaTask::Transcription,
            Self::Draw(_) => MediaTask::Image,
            Self::Speak(_) => MediaTask::Speech,
        }
    }

    /// Roughly the tokens of a call: of what is sent and of what comes. Most providers say only afterwards what they are.
    pub(crate) fn estimate(&self) -> (u64, u64) {
        let text = |text: &str| crate::tokens::tokens_of(text.len());
        match self {
            Self::Describe(question) => {
                let file = of_file(question.file.media_type, &question.file.bytes);
                (
                    text(&question.question).saturating_add(file),
                    MAX_DESCRIPTION_TOKENS,
                )
            }
            Self::Transcribe(wanted) => {
                let heard = of_file(wanted.file.media_type, &wanted.file.bytes);
                let hint = wanted.hint.as_deref().unwrap_or_default();
                // Nobody says more words in a second than there are tokens of its sound.
                (heard.saturating_add(text(hint)), heard)
            }
            Self::Draw(wanted) => (text(&wanted.prompt), DRAWN_TOKENS),
            Self::Speak(wanted) => {
                let said = text(&wanted.text);
                (said, said.saturating_mul(SPOKEN_TOKENS))
            }
        }
    }
}

/// Tokens of a picture that is made, of the usual size and quality.
const DRAWN_TOKENS: u64 = 8192;
/// Tokens of sound for a token of text.
const SPOKEN_TOKENS: u64 = 10;
/// Tokens of a picture that is looked at, as prompts count them.
const SEEN_TOKENS: u64 = 1600;
/// Tokens of a second of sound; of a film there are ten times as many.
const HEARD_TOKENS: u64 = 32;
/// Bytes of a second of sound or film where the file does not say how long it is.
const SECOND_BYTES: u64 = 8000;

fn of_file(media_type: MediaType, bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    match media_type.kind() {
        MediaKind::Image => SEEN_TOKENS,
        MediaKind::Audio => {
            let seconds = media_type.seconds(bytes);
            let seconds = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
            let seconds = seconds.map_or(length / SECOND_BYTES, |it| it.as_secs());
            seconds.saturating_add(1).saturating_mul(HEARD_TOKENS)
        }
        MediaKind::Video => (length / SECOND_BYTES / 4)
            .saturating_add(1)
            .saturating_mul(10 * HEARD_TOKENS),
    }
}

/// What came of a call that was answered.
pub(crate) struct MediaDone {
    /// Tokens, where the provider has counted some.
    pub(crate) usage: Option<Usage>,
    /// What it has made, or that it declined.
    pub(crate) output: Result<MediaOutput, ModelError>,
}

/// What a model has made.
#[derive(Debug, PartialEq)]
pub(crate) enum MediaOutput {
    /// A text.
    Text(String),
    /// A transcript.
    Transcript {
        text: String,
        language: Option<String>,
        segments: Vec<MediaSegment>,
    },
    /// A file and what was said of it.
    File {
        bytes: Vec<u8>,
        text: Option<String>,
    },
}

/// How a model is asked.
#[derive(Clone)]
enum MediaClient {
    /// As in a conversation.
    Chat(GuardedClient),
    /// By OpenAI's endpoints for pictures and sound.
    OpenAi(Wired),
    /// By Gemini's one endpoint.
    Gemini(Wired),
    /// Not at all.
    Offline,
}

/// A provider on the wire.
#[derive(Clone)]
struct Wired {
    wire: WireClient,
    guard: Arc<ProviderGuard>,
}

impl MediaCandidate {
    /// Asks the model.
    ///
    /// # Errors
    /// A [`ModelError`]; [`outcome_is_unknown`] says whether it may have been done all the same.
    pub(crate) async fn ask(&self, request: &MediaRequest) -> Result<MediaDone, ModelError> {
        let (prompt, output) = request.estimate();
        let tokens = prompt.saturating_add(output);
        match &self.client {
            MediaClient::Chat(client) => chat::ask(client, &self.model, request).await,
            MediaClient::OpenAi(wired) => {
                let call = openai::encode(&self.model, request);
                wired
                    .call(call, tokens, |bytes| openai::decode(request, bytes))
                    .await
            }
            MediaClient::Gemini(wired) => {
                let call = gemini::encode(&self.model, request);
                wired
                    .call(call, tokens, |bytes| gemini::decode(request, bytes))
                    .await
            }
            MediaClient::Offline => Ok(offline::answer(request)),
        }
    }
}

impl Wired {
    async fn call(
        &self,
        call: WholeRequest,
        tokens: u64,
        decode: impl Fn(&[u8]) -> Result<(Option<Usage>, Result<MediaOutput, Failed>), Failed>,
    ) -> Result<MediaDone, ModelError> {
        let retry = RetryPolicy::default();
        let attempts = Attempts {
            guard: &self.guard,
            retry: &retry,
            is_final: &outcome_is_unknown,
            on_step: &|_| (),
        };
        let sent = attempts.make(|| tokens, || self.wire.exchange(call.clone()));
        let (bytes, ticket) = sent.await?;
        let provider = self.wire.provider();
        match decode(&bytes) {
            Ok((usage, output)) => {
                ticket.succeeded(&usage.unwrap_or_default());
                let output = output.map_err(|failed| failed.of(provider));
                Ok(MediaDone { usage, output })
            }
            Err(failed) => {
                let error = failed.of(provider);
                ticket.failed(&error);
                Err(error)
            }
        }
    }
}

/// Reads bytes as every answer that a provider can give to something that is no conversation, and says how many of these they
/// are; for fuzzers.
#[must_use]
pub fn read_media_answers(bytes: &[u8]) -> usize {
    let file = MediaFile {
        media_type: MediaType::Wav,
        bytes: Vec::new(),
    };
    let requests = [
        MediaRequest::Describe(MediaQuestion {
            file: file.clone(),
            question: String::new(),
        }),
        MediaRequest::Transcribe(NewTranscript {
            file,
            language: None,
            hint: None,
            timestamps: true,
        }),
        MediaRequest::Draw(NewImage {
            prompt: String::new(),
            shape: None,
        }),
        MediaRequest::Speak(NewSpeech {
            text: String::new(),
            voice: None,
            instructions: None,
            format: None,
        }),
    ];
    let decoded = requests.iter().flat_map(|request| {
        [
            openai::decode(request, bytes),
            gemini::decode(request, bytes),
        ]
    });
    decoded
        .filter(|answer| matches!(answer, Ok((_, Ok(_)))))
        .count()
}

/// A failure before it has a provider's name.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    kind: ModelErrorKind,
    message: String,
}

impl Failed {
    /// The answer is not what the protocol says.
    fn malformed(message: impl Into<String>) -> Self {
        Self {
            kind: ModelErrorKind::Malformed,
            message: message.into(),
        }
    }

    /// The provider does not want to do it.
    fn declined(message: impl Into<String>) -> Self {
        Self {
            kind: ModelErrorKind::InvalidRequest,
            message: message.into(),
        }
    }

    fn of(self, provider: &str) -> ModelError {
        ModelError::new(self.kind, provider, self.message)
    }
}

/// Whether a call that failed may have been done, and be charged, all the same: the answer did not come, or came from somebody in
/// between who does not know.
pub(crate) fn outcome_is_unknown(error: &ModelError) -> bool {
    error.may_be_charged() || matches!(error.status, Some(408 | 502 | 504))
}

/// What a candidate costs, where its provider says how many tokens it has used.
const fn price_of(is_counted: bool, price: Option<Price>) -> Option<Price> {
    if is_counted { price } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_in_between_says_is_no_outcome() {
        let failed = |status| {
            let mut error = ModelError::new(ModelErrorKind::Overloaded, "p", "m");
            error.status = status;
            outcome_is_unknown(&error)
        };
        for status in [408, 502, 504] {
            assert!(failed(Some(status)), "{status}");
        }
        for status in [400, 401, 429, 500, 503, 529] {
            assert!(!failed(Some(status)), "{status}");
        }
        let mut cut = ModelError::new(ModelErrorKind::Truncated, "p", "m");
        assert!(outcome_is_unknown(&cut));
        cut.unsent = true;
        assert!(!outcome_is_unknown(&cut));
    }
}
