//! `rune@media-transcribe`: writes a transcript of a sound or a film into a file.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::media::{MAX_QUESTION_BYTES, add, check_length, sign, until_stopped};
use super::parse;
use crate::media::{MediaKind, NewFile, Sources, write_new};
use crate::{
    BuiltinTool, MediaSegment, MediaTranscript, NewTranscript, ToolContext, ToolError, text,
};

/// Bytes of JSON that the answer shows of the text; the file has all of it.
const SHOWN_BYTES: usize = 8 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    source: String,
    #[serde(default)]
    format: Format,
    path: Option<String>,
    language: Option<String>,
    hint: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// The text alone.
    #[default]
    Text,
    /// Subtitles as SubRip.
    Srt,
    /// Subtitles as WebVTT.
    Vtt,
    /// The parts with their times in seconds.
    Json,
}

impl Format {
    const fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Json => "json",
        }
    }

    const fn has_times(self) -> bool {
        !matches!(self, Self::Text)
    }
}

/// Writes a transcript into the workspace, as a text or with times.
pub(crate) struct MediaTranscribe(pub(crate) Arc<Sources>);

#[async_trait]
impl BuiltinTool for MediaTranscribe {
    fn name(&self) -> &'static str {
        "media-transcribe"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let hint = input.hint.as_deref().unwrap_or_default();
        check_length("hint", hint, MAX_QUESTION_BYTES)?;
        until_stopped(context, self.write_down(context, input)).await
    }
}

impl MediaTranscribe {
    async fn write_down(&self, context: &ToolContext, input: Input) -> Result<Value, ToolError> {
        let new = NewFile::new(context, input.path, "transcript").await?;
        let kinds = [MediaKind::Audio, MediaKind::Video];
        let file = self.0.read(context, &input.source, &kinds).await?;
        let facts = file.facts();
        let wanted = NewTranscript {
            file,
            language: input.language,
            hint: input.hint,
            timestamps: input.format.has_times(),
        };
        let said = context.media()?.transcribe(wanted).await?;
        let written = write(&said, input.format);
        let path = new.path_for(input.format.extension());
        let size = written.len();
        write_new(context, &path, written.into_bytes()).await?;
        let shown = text::prefix(&said.text, SHOWN_BYTES);
        let mut answer = json!({
            "path": path,
            "size": size,
            "text": shown,
            "truncated": shown.len() < said.text.len(),
        });
        if input.format.has_times() {
            answer["segments"] = said.segments.len().into();
        }
        if let Some(language) = &said.language {
            answer["language"] = language.as_str().into();
        }
        add(&mut answer, &facts);
        sign(&mut answer, &said.by);
        Ok(answer)
    }
}

/// The content of the file.
fn write(said: &MediaTranscript, format: Format) -> String {
    let mut written = String::new();
    let cue = |written: &mut String, segment: &MediaSegment, mark: char| {
        let (start, end) = (clock(segment.start, mark), clock(segment.end, mark));
        // Writing to a string cannot fail. A cue ends with an empty line, so it has none.
        let lines = segment
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let lines: Vec<&str> = lines.collect();
        let _ = write!(written, "{start} --> {end}\n{}\n\n", lines.join("\n"));
    };
    match format {
        Format::Text => {
            written.push_str(said.text.trim());
            written.push('\n');
        }
        Format::Srt => {
            for (number, segment) in (1..).zip(&said.segments) {
                let _: u32 = number;
                let _ = writeln!(written, "{number}");
                cue(&mut written, segment, ',');
            }
        }
        Format::Vtt => {
            written.push_str("WEBVTT\n\n");
            for segment in &said.segments {
                cue(&mut written, segment, '.');
            }
        }
        Format::Json => {
            let segments = said.segments.iter().map(|segment| {
                json!({ "start": segment.start, "end": segment.end, "text": segment.text })
            });
            let segments: Vec<Value> = segments.collect();
            let whole = json!({
                "text": said.text,
                "language": said.language,
                "segments": segments,
            });
            written = format!("{whole:#}\n");
        }
    }
    written
}

/// `HH:MM:SS` with milliseconds behind `mark`.
fn clock(seconds: f64, mark: char) -> String {
    // What is no time is the beginning; a conversion of a float saturates.
    let whole = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let (millis, seconds) = (whole.subsec_millis(), whole.as_secs());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}{mark}{millis:03}",
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaModel;

    #[test]
    fn subtitles_have_their_times() {
        let segment = |start, end, text: &str| MediaSegment {
            start,
            end,
            text: text.to_owned(),
        };
        let said = MediaTranscript {
            by: MediaModel {
                complete: true,
                provider: "p".to_owned(),
                model: "m".to_owned(),
                notice: None,
            },
            text: " One. Two. ".to_owned(),
            language: None,
            segments: vec![
                segment(0.0, 1.25, " One."),
                segment(3601.5, f64::NAN, "Two\n\nlines."),
            ],
        };
        assert_eq!(write(&said, Format::Text), "One. Two.\n");
        assert_eq!(
            write(&said, Format::Srt),
            "1\n00:00:00,000 --> 00:00:01,250\nOne.\n\n2\n01:00:01,500 --> 00:00:00,000\nTwo\nlines.\n\n"
        );
        let vtt = write(&said, Format::Vtt);
        assert!(
            vtt.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nOne.\n\n"),
            "{vtt}"
        );
        let parsed: Value = serde_json::from_str(&write(&said, Format::Json)).unwrap();
        assert_eq!(parsed["segments"][0]["end"], 1.25);
    }
}
