//! What a tool can have the models of its agent do that are not for conversation.

use async_trait::async_trait;

use super::MediaType;
use crate::ToolError;

/// The models of an agent that see, hear, draw and speak, as its tools see them. Each call is paid for and made once: where
/// nobody knows what came of it, it is not made again. Every error is a refusal for the model and says what to do.
///
/// Dropping a call ends it; where it [is under way](MediaAccess::is_under_way), what the provider charges for it is not known then.
#[async_trait]
pub trait MediaAccess: Send + Sync {
    /// Asks something about a picture, a sound or a film.
    async fn describe(&self, question: MediaQuestion) -> Result<MediaDescription, ToolError>;

    /// Writes down what is said in a sound or a film.
    async fn transcribe(&self, wanted: NewTranscript) -> Result<MediaTranscript, ToolError>;

    /// Makes a picture.
    async fn draw(&self, wanted: NewImage) -> Result<MadeMedia, ToolError>;

    /// Says a text.
    async fn speak(&self, wanted: NewSpeech) -> Result<MadeMedia, ToolError>;

    /// Whether a model was sent something of which it is not known yet what comes of it.
    fn is_under_way(&self) -> bool;
}

/// A file that is shown to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFile {
    /// What its bytes are.
    pub media_type: MediaType,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Which model has done something, and whether it has finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaModel {
    /// Whether it came to its end by itself. Where it did not, because it reached a limit or its provider stopped it, there is
    /// less than was asked for.
    pub complete: bool,
    /// The provider, as named in the Runefile.
    pub provider: String,
    /// The provider's id of the model.
    pub model: String,
    /// What is to be known of it: that there is none.
    pub notice: Option<&'static str>,
}

/// A question about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaQuestion {
    /// The file.
    pub file: MediaFile,
    /// The question.
    pub question: String,
}

/// What a model says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaDescription {
    /// Who says so.
    pub by: MediaModel,
    /// What it says.
    pub text: String,
}

/// A transcript to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTranscript {
    /// The sound or the film.
    pub file: MediaFile,
    /// The language that is spoken, such as `en`; found out where absent.
    pub language: Option<String>,
    /// Names and words that occur.
    pub hint: Option<String>,
    /// Whether each part is to have its times.
    pub timestamps: bool,
}

/// What is said in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaTranscript {
    /// Who wrote it down.
    pub by: MediaModel,
    /// All of it.
    pub text: String,
    /// The language, as the provider names it.
    pub language: Option<String>,
    /// Its parts with their times, where these were asked for.
    pub segments: Vec<MediaSegment>,
}

/// A part of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaSegment {
    /// Where it begins, in seconds.
    pub start: f64,
    /// Where it ends, in seconds.
    pub end: f64,
    /// What is said.
    pub text: String,
}

/// A picture to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// What it shows.
    pub prompt: String,
    /// Its width and height as a ratio: `1:1`, `3:2` or `2:3`; left to the model where absent.
    pub shape: Option<(u32, u32)>,
}

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSpeech {
    /// The text.
    pub text: String,
    /// The provider's name of the voice; its usual one where absent.
    pub voice: Option<String>,
    /// How to say it.
    pub instructions: Option<String>,
    /// The format; the provider's usual one where absent.
    pub format: Option<MediaType>,
}

/// A file that a model has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeMedia {
    /// Who made it.
    pub by: MediaModel,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the model says beside it, such as the prompt as it understood it.
    pub text: Option<String>,
}
