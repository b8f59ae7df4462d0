//! Pictures, sound and film: what they are, where they come from, what models do with them.

mod access;
mod kind;
mod source;
mod written;

pub use access::{
    MadeMedia, MediaAccess, MediaDescription, MediaFile, MediaModel, MediaQuestion, MediaSegment,
    MediaTranscript, NewImage, NewSpeech, NewTranscript,
};
pub use kind::{MediaKind, MediaType};
pub(crate) use source::Sources;
pub(crate) use written::{NewFile, made, write_new};
