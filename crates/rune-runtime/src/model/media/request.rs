//! What is asked of a model, and roughly how much it is.

use std::time::Duration;

use rune_tools::{
    MediaFile, MediaKind, MediaQuestion, MediaType, NewImage, NewSpeech, NewTranscript,
};

/// Output tokens of a description at the most.
pub(super) const MAX_DESCRIPTION_TOKENS: u64 = 4096;
/// Output tokens of the longest transcript.
const MAX_TRANSCRIPT_TOKENS: u64 = 65_536;

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
                (
                    heard.saturating_add(text(hint)),
                    transcript_tokens(&wanted.file),
                )
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

/// Output tokens of a transcript at the most: nobody says more words in a second than there are tokens of its sound. Where a
/// model thinks before it writes, that counts, too.
pub(super) fn transcript_tokens(file: &MediaFile) -> u64 {
    of_file(file.media_type, &file.bytes).clamp(MAX_DESCRIPTION_TOKENS, MAX_TRANSCRIPT_TOKENS)
}

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
