//! What is answered where there is no model: the same for the same question, and never something that looks like the work of one.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use rune_store_runtime::Usage;
use rune_tools::{MediaFile, MediaSegment};
use sha2::{Digest, Sha256};

use super::wav::wav;
use super::{MediaDone, MediaOutput, MediaRequest};
use crate::model::OFFLINE_NOTICE;

/// Pixels of a side of a picture, and of a side of one of its squares.
const SIDE: usize = 128;
const SQUARE: usize = 16;
/// Samples in a second of sound.
const RATE: u32 = 8000;
/// Samples of a word, and of the silence behind it.
const WORD: usize = 1200;
const GAP: usize = 400;
/// Words that are beeped at the most.
const MAX_WORDS: usize = 500;

pub(super) fn answer(request: &MediaRequest) -> MediaDone {
    let output = match request {
        MediaRequest::Describe(question) => {
            let known = known(&question.file);
            MediaOutput::Text(format!(
                "{OFFLINE_NOTICE}. Known without one: {known}. Nothing has looked at it or listened to it."
            ))
        }
        MediaRequest::Transcribe(wanted) => {
            let known = known(&wanted.file);
            let text =
                format!("[{OFFLINE_NOTICE}: nothing has listened to this recording, {known}]");
            let seconds = wanted.file.media_type.seconds(&wanted.file.bytes);
            let segment = MediaSegment {
                start: 0.0,
                end: seconds.unwrap_or_default(),
                text: text.clone(),
            };
            MediaOutput::Transcript {
                text,
                language: None,
                segments: wanted.timestamps.then_some(segment).into_iter().collect(),
            }
        }
        MediaRequest::Draw(wanted) => MediaOutput::File {
            bytes: squares(&wanted.prompt),
            text: Some(format!(
                "{OFFLINE_NOTICE}: the picture is a pattern that is made of the prompt's digest"
            )),
        },
        MediaRequest::Speak(wanted) => MediaOutput::File {
            bytes: beeps(&wanted.text),
            text: None,
        },
    };
    MediaDone {
        usage: Some(Usage::default()),
        complete: true,
        output: Ok(output),
    }
}

fn known(file: &MediaFile) -> String {
    let mut known = file.media_type.mime().to_owned();
    // Writing to a string cannot fail.
    if let Some((width, height)) = file.media_type.pixels(&file.bytes) {
        let _ = write!(known, ", {width} x {height} pixels");
    }
    if let Some(seconds) = file.media_type.seconds(&file.bytes) {
        let _ = write!(known, ", {seconds:.1} seconds");
    }
    let _ = write!(known, ", {} bytes", file.bytes.len());
    known
}

/// A picture of squares, each dark or light by a bit of the digest, in two colours of it.
fn squares(prompt: &str) -> Vec<u8> {
    let digest: [u8; 32] = Sha256::digest(prompt).into();
    let (dark, light) = (&digest[0..3], &digest[3..6]);
    let mut rows = Vec::with_capacity(SIDE * (SIDE * 3 + 1));
    for y in 0..SIDE {
        // No filter.
        rows.push(0);
        for x in 0..SIDE {
            let bit = (y / SQUARE) * (SIDE / SQUARE) + x / SQUARE;
            let is_light = digest[8 + bit / 8] >> (bit % 8) & 1 == 1;
            let colour = if is_light { light } else { dark };
            rows.extend(
                colour
                    .iter()
                    .map(|part| if is_light { part | 0x80 } else { part & 0x7f }),
            );
        }
    }
    png(SIDE, &rows)
}

/// A picture with eight bits of red, green and blue for each pixel.
fn png(side: usize, rows: &[u8]) -> Vec<u8> {
    let side = u32::try_from(side).unwrap_or_default().to_be_bytes();
    let mut head = [side, side].concat();
    head.extend([8, 2, 0, 0, 0]);
    // Writing to memory cannot fail.
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    let _ = packed.write_all(rows);
    let packed = packed.finish().unwrap_or_default();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, body) in [
        (b"IHDR", head.as_slice()),
        (b"IDAT", packed.as_slice()),
        (b"IEND", &[]),
    ] {
        let mut sum = Crc::new();
        sum.update(name);
        sum.update(body);
        file.extend(u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
        file.extend(name);
        file.extend(body);
        file.extend(sum.sum().to_be_bytes());
    }
    file
}

/// A beep for each word, higher or lower by its digest. Nobody takes it for a voice.
fn beeps(text: &str) -> Vec<u8> {
    let mut samples = Vec::new();
    for word in text.split_whitespace().take(MAX_WORDS) {
        let digest: [u8; 32] = Sha256::digest(word).into();
        // Half a period of a square wave, in samples: 200 to 500 Hz.
        let half = 8 + usize::from(digest[0] % 13);
        for n in 0..WORD {
            let sample: i16 = if n / half % 2 == 0 { 3000 } else { -3000 };
            samples.extend(sample.to_le_bytes());
        }
        samples.extend([0; 2 * GAP]);
    }
    wav(RATE, &samples)
}

#[cfg(test)]
mod tests {
    use rune_tools::MediaType;

    use super::*;

    #[test]
    fn a_picture_is_one_and_follows_its_prompt() {
        let picture = squares("a cat");
        assert_eq!(MediaType::of(&picture), Some(MediaType::Png));
        assert_eq!(MediaType::Png.pixels(&picture), Some((128, 128)));
        assert_eq!(picture, squares("a cat"));
        assert_ne!(picture, squares("a dog"));
    }

    #[test]
    fn words_are_beeps() {
        let sound = beeps("one two");
        assert_eq!(MediaType::of(&sound), Some(MediaType::Wav));
        assert_eq!(MediaType::Wav.seconds(&sound), Some(0.4));
        assert_eq!(MediaType::Wav.seconds(&beeps(" ")), Some(0.0));
    }
}
