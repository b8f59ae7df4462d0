//! OpenAI's endpoints for pictures and sound, and the servers that copy them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use rune_store_runtime::Usage;
use rune_tools::{MediaQuestion, MediaSegment, MediaType, NewImage, NewSpeech, NewTranscript};
use serde_json::{Map, Value, json};

use super::answer::{Decoded, declined, refused};
use super::multipart::{Form, FormFile};
use super::request::MAX_DESCRIPTION_TOKENS;
use super::{ABOUT_A_FILE, FIRST_BYTE, Fault, MediaOutput, MediaRequest, WholeRequest};

/// The voice where none is named.
const VOICE: &str = "alloy";

pub(super) fn encode(model: &str, request: &MediaRequest) -> WholeRequest {
    match request {
        MediaRequest::Describe(question) => {
            as_json("/chat/completions", &listen(model, question).into())
        }
        MediaRequest::Transcribe(wanted) => transcribe(model, wanted),
        MediaRequest::Draw(wanted) => as_json("/images/generations", &draw(model, wanted).into()),
        MediaRequest::Speak(wanted) => as_json("/audio/speech", &speak(model, wanted).into()),
    }
}

fn as_json(path: &str, body: &Value) -> WholeRequest {
    WholeRequest {
        path: path.to_owned(),
        content_type: "application/json".to_owned(),
        body: Bytes::from(body.to_string()),
        first_byte: FIRST_BYTE,
    }
}

fn object(fields: Value) -> Map<String, Value> {
    match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn listen(model: &str, question: &MediaQuestion) -> Map<String, Value> {
    let format = match question.file.media_type {
        MediaType::Mp3 => "mp3",
        _ => "wav",
    };
    let data = BASE64_STANDARD.encode(&question.file.bytes);
    object(json!({
        "model": model,
        "modalities": ["text"],
        "max_completion_tokens": MAX_DESCRIPTION_TOKENS,
        "messages": [{"role": "system", "content": ABOUT_A_FILE}, {"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": data, "format": format}},
            {"type": "text", "text": question.question},
        ]}],
    }))
}

fn draw(model: &str, wanted: &NewImage) -> Map<String, Value> {
    let mut body = object(json!({"model": model, "prompt": wanted.prompt, "n": 1}));
    let size = match wanted.shape {
        Some((width, height)) if width > height => Some("1536x1024"),
        Some((width, height)) if width < height => Some("1024x1536"),
        Some(_) => Some("1024x1024"),
        None => None,
    };
    if let Some(size) = size {
        body.insert("size".to_owned(), size.into());
    }
    // The vendor's models answer base64 and refuse to be told so; others answer an address unless they are told.
    if !model.contains("gpt-image") {
        body.insert("response_format".to_owned(), "b64_json".into());
    }
    body
}

fn speak(model: &str, wanted: &NewSpeech) -> Map<String, Value> {
    let format = match wanted.format {
        Some(MediaType::Wav) => "wav",
        Some(MediaType::Flac) => "flac",
        Some(MediaType::Ogg) => "opus",
        Some(MediaType::Aac) => "aac",
        _ => "mp3",
    };
    let mut body = object(json!({
        "model": model,
        "input": wanted.text,
        "voice": wanted.voice.as_deref().unwrap_or(VOICE),
        "response_format": format,
    }));
    if let Some(instructions) = &wanted.instructions {
        body.insert("instructions".to_owned(), instructions.as_str().into());
    }
    body
}

fn transcribe(model: &str, wanted: &NewTranscript) -> WholeRequest {
    let mut form = Form::default().field("model", model);
    if let Some(language) = &wanted.language {
        form = form.field("language", language);
    }
    if let Some(hint) = &wanted.hint {
        form = form.field("prompt", hint);
    }
    form = if wanted.timestamps {
        form.field("response_format", "verbose_json")
            .field("timestamp_granularities[]", "segment")
    } else {
        form.field("response_format", "json")
    };
    let media_type = wanted.file.media_type;
    let (content_type, body) = form.with(&FormFile {
        field: "file",
        name: &format!("recording.{}", media_type.extension()),
        content_type: media_type.mime(),
        bytes: &wanted.file.bytes,
    });
    WholeRequest {
        path: "/audio/transcriptions".to_owned(),
        content_type,
        body,
        first_byte: FIRST_BYTE,
    }
}

/// What an answer says: how much was used, and what was made or why not.
pub(super) fn decode(request: &MediaRequest, bytes: &[u8]) -> Result<Decoded, Fault> {
    if matches!(request, MediaRequest::Speak(_)) {
        return Ok(Decoded {
            usage: None,
            complete: true,
            output: Ok(spoken(bytes)?),
        });
    }
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
        return Err(Fault::malformed("the answer is not JSON"));
    };
    refused(&body)?;
    let finish = body.pointer("/choices/0/finish_reason");
    Ok(Decoded {
        usage: usage(&body),
        complete: matches!(finish.and_then(Value::as_str), None | Some("stop")),
        output: match request {
            MediaRequest::Draw(_) => drawn(&body),
            MediaRequest::Transcribe(wanted) => transcribed(&body, wanted.timestamps),
            MediaRequest::Describe(_) | MediaRequest::Speak(_) => said(&body),
        },
    })
}

/// Tokens, where they are what was counted: some calls are by seconds.
fn usage(body: &Value) -> Option<Usage> {
    let usage = body.get("usage")?;
    let count = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| usage.get(*name).and_then(Value::as_u64))
    };
    let input = count(["input_tokens", "prompt_tokens"]);
    let output = count(["output_tokens", "completion_tokens"]);
    if input.is_none() && output.is_none() {
        return None;
    }
    let cached = usage.pointer("/prompt_tokens_details/cached_tokens");
    Some(Usage {
        input_tokens: input.unwrap_or_default(),
        output_tokens: output.unwrap_or_default(),
        cached_tokens: cached.and_then(Value::as_u64).unwrap_or_default(),
        ..Usage::default()
    })
}

fn drawn(body: &Value) -> Result<MediaOutput, Fault> {
    let picture = body.pointer("/data/0").unwrap_or(&Value::Null);
    let Some(data) = picture.get("b64_json").and_then(Value::as_str) else {
        let message = if picture.get("url").is_some_and(Value::is_string) {
            "the answer is the address of a picture and not the picture: the server has to answer `b64_json`"
        } else {
            "the answer has no picture"
        };
        return Err(Fault::malformed(message));
    };
    let bytes = BASE64_STANDARD.decode(data);
    let bytes = bytes.map_err(|_| Fault::malformed("the picture is not base64"))?;
    let text = picture.get("revised_prompt").and_then(Value::as_str);
    Ok(MediaOutput::File {
        bytes,
        text: text.filter(|text| !text.is_empty()).map(str::to_owned),
    })
}

fn spoken(bytes: &[u8]) -> Result<MediaOutput, Fault> {
    if let Ok(body) = serde_json::from_slice::<Value>(bytes) {
        refused(&body)?;
    }
    Ok(MediaOutput::File {
        bytes: bytes.to_vec(),
        text: None,
    })
}

fn transcribed(body: &Value, timestamps: bool) -> Result<MediaOutput, Fault> {
    let Some(text) = body.get("text").and_then(Value::as_str) else {
        return Err(Fault::malformed("the answer has no transcript"));
    };
    let segments = match body.get("segments").and_then(Value::as_array) {
        _ if !timestamps => Vec::new(),
        Some(parts) => parts.iter().map(segment).collect::<Result<_, _>>()?,
        None => {
            return Err(Fault::malformed(
                "the transcript has no times; name a model for `transcription` that tells them",
            ));
        }
    };
    let language = body.get("language").and_then(Value::as_str);
    Ok(MediaOutput::Transcript {
        text: text.trim().to_owned(),
        language: language.filter(|it| !it.is_empty()).map(str::to_owned),
        segments,
    })
}

fn segment(part: &Value) -> Result<MediaSegment, Fault> {
    let seconds = |name| part.get(name).and_then(Value::as_f64);
    let text = part.get("text").and_then(Value::as_str);
    match (seconds("start"), seconds("end"), text) {
        (Some(start), Some(end), Some(text)) => Ok(MediaSegment {
            start,
            end,
            text: text.trim().to_owned(),
        }),
        _ => Err(Fault::malformed(
            "a part of the transcript lacks its `start`, `end` or `text`",
        )),
    }
}

fn said(body: &Value) -> Result<MediaOutput, Fault> {
    let message = body.pointer("/choices/0/message").unwrap_or(&Value::Null);
    let field = |name| message.get(name).and_then(Value::as_str);
    let text = field("content").map(str::trim).unwrap_or_default();
    if !text.is_empty() {
        return Ok(MediaOutput::Text(text.to_owned()));
    }
    Err(match field("refusal") {
        Some(refusal) => declined(format!("the model declined: {refusal}")),
        None => Fault::malformed("the answer has no text"),
    })
}

#[cfg(test)]
mod tests {
    use rune_tools::MediaFile;

    use super::*;

    fn recording(timestamps: bool) -> MediaRequest {
        MediaRequest::Transcribe(NewTranscript {
            file: MediaFile {
                media_type: MediaType::Mp3,
                bytes: b"ID3\r\n--x\r\n".to_vec(),
            },
            language: Some("en".to_owned()),
            hint: None,
            timestamps,
        })
    }

    #[test]
    fn a_form_is_what_rfc_7578_says() {
        let request = encode("m", &recording(true));
        let boundary = request
            .content_type
            .strip_prefix("multipart/form-data; boundary=")
            .unwrap();
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
        assert_eq!(
            parts,
            [
                "",
                "\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n",
                "\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nen\r\n",
                "\r\nContent-Disposition: form-data; name=\"response_format\"\r\n\r\nverbose_json\r\n",
                "\r\nContent-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\nsegment\r\n",
                "\r\nContent-Disposition: form-data; name=\"file\"; filename=\"recording.mp3\"\r\n\
                 Content-Type: audio/mpeg\r\n\r\nID3\r\n--x\r\n\r\n",
                "--\r\n",
            ]
        );
    }

    #[test]
    fn answers_that_are_none_are_failures() {
        let draw = MediaRequest::Draw(NewImage {
            prompt: "x".to_owned(),
            shape: None,
        });
        let failed = |request: &MediaRequest, body: &str| {
            let decoded = decode(request, body.as_bytes());
            match decoded.and_then(|decoded| decoded.output) {
                Err(failed) => failed.message,
                Ok(output) => format!("{output:?}"),
            }
        };
        assert_eq!(failed(&draw, "<html>"), "the answer is not JSON");
        assert_eq!(failed(&draw, "{}"), "the answer has no picture");
        let address = r#"{"data": [{"url": "https://x"}]}"#;
        assert!(failed(&draw, address).contains("b64_json"));
        let error = r#"{"error": {"message": "no", "code": "server_error"}}"#;
        assert!(failed(&draw, error).contains("no"));
        let untimed = r#"{"text": "Hi"}"#;
        assert!(failed(&recording(true), untimed).contains("has no times"));
        assert!(failed(&recording(false), untimed).contains("Hi"));
        let parts =
            r#"{"text": "Hi", "segments": [{"start": 0, "end": 1, "text": "Hi"}, {"start": 1}]}"#;
        assert!(failed(&recording(true), parts).contains("lacks its `start`, `end` or `text`"));
    }

    #[test]
    fn an_answer_that_was_cut_says_so() {
        let request = MediaRequest::Describe(MediaQuestion {
            file: MediaFile {
                media_type: MediaType::Wav,
                bytes: Vec::new(),
            },
            question: "What?".to_owned(),
        });
        for (reason, complete) in [("stop", true), ("length", false), ("content_filter", false)] {
            let body = json!({"choices": [{"message": {"content": "A"}, "finish_reason": reason}]});
            let decoded = decode(&request, body.to_string().as_bytes()).unwrap();
            assert_eq!(decoded.complete, complete, "{reason}");
            assert_eq!(decoded.output, Ok(MediaOutput::Text("A".to_owned())));
        }
    }

    #[test]
    fn seconds_are_no_tokens() {
        let tokens = json!({"usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 4}});
        assert_eq!(usage(&tokens).map(|usage| usage.total()), Some(7));
        let seconds = json!({"usage": {"type": "duration", "seconds": 3.5}});
        assert_eq!(usage(&seconds), None);
        assert_eq!(usage(&json!({})), None);
    }
}
