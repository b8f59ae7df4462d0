//! OpenAI's endpoints for pictures and sound. Requests are checked as the vendor documents them; a form is recorded as JSON, its
//! file by name, type, length and first bytes.

use axum::http::HeaderMap;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};

use super::{
    answer::Answer,
    check::{Incoming, Rejection},
    conversation::{Conversation, Step},
    protocol::MediaRoute,
    reply::Reply,
};

/// Bytes of a file that are recorded.
const SHOWN: usize = 16;
/// What a transcription takes (its file is named).
const EXTENSIONS: [&str; 9] = [
    "flac", "mp3", "mp4", "mpeg", "mpga", "m4a", "ogg", "wav", "webm",
];

/// The fields of a form; nothing where the body is none.
pub(crate) fn form(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let kind = headers.get("content-type")?.to_str().ok()?;
    let boundary = kind
        .strip_prefix("multipart/form-data")?
        .split_once("boundary=")?
        .1
        .trim_matches('"');
    let mark = format!("--{boundary}");
    let mut fields = Map::new();
    let mut rest = body.strip_prefix(mark.as_bytes())?;
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = find(part, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&part[..head_end]).ok()?;
        let content = &part[head_end + 4..];
        let end = find(content, format!("\r\n{mark}").as_bytes())?;
        let value = &content[..end];
        let name = quoted(head, "name")?;
        let value = match quoted(head, "filename") {
            Some(file) => json!({
                "filename": file,
                "content_type": head.lines().find_map(|line| line.strip_prefix("Content-Type: ")),
                "bytes": value.len(),
                "head": BASE64_STANDARD.encode(&value[..value.len().min(SHOWN)]),
            }),
            None => String::from_utf8_lossy(value).into_owned().into(),
        };
        fields.insert(name, value);
        rest = &content[end + 2 + mark.len()..];
    }
    rest.starts_with(b"--").then_some(Value::Object(fields))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn quoted(head: &str, name: &str) -> Option<String> {
    let start = head.find(&format!("; {name}=\""))? + name.len() + 4;
    let value = &head[start..];
    Some(value[..value.find('"')?].to_owned())
}

/// Checks a request and reduces it to what a script matches: its prompt, its text, or the name of its file.
pub(crate) fn check(route: MediaRoute, incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    super::check::openai_key(incoming)?;
    let body = incoming.body;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let need = |name: &str| match text(name) {
        "" => Err(Rejection::bad(format!("Missing required parameter: '{name}'.")).param(name)),
        value => Ok(value.to_owned()),
    };
    let model = need("model")?;
    let said = match route {
        MediaRoute::Images => {
            if model.contains("gpt-image") && body.get("response_format").is_some() {
                let message = "Unknown parameter: 'response_format'.";
                return Err(Rejection::bad(message).param("response_format"));
            }
            need("prompt")?
        }
        MediaRoute::Speech => {
            need("voice")?;
            need("input")?
        }
        MediaRoute::Transcriptions => {
            let name = body.pointer("/file/filename").and_then(Value::as_str);
            let Some(name) = name else {
                let message = "Missing required parameter: 'file'.";
                return Err(Rejection::bad(message).param("file"));
            };
            let extension = name.rsplit('.').next().unwrap_or_default();
            if !EXTENSIONS.contains(&extension) {
                let message = format!("Invalid file format. Supported formats: {EXTENSIONS:?}");
                return Err(Rejection::bad(message).param("file"));
            }
            if model == "gpt-transcribe" && text("response_format") == "verbose_json" {
                let message = "response_format 'verbose_json' is not compatible with this model";
                return Err(Rejection::bad(message).param("response_format"));
            }
            name.to_owned()
        }
    };
    Ok(Conversation {
        model,
        stream: false,
        include_usage: true,
        include_reasoning: false,
        steps: vec![Step::User(said)],
    })
}

/// The content type and the body of an answer.
pub(crate) fn answer(
    route: MediaRoute,
    reply: &Reply,
    answer: &Answer,
    asked: &Value,
) -> (&'static str, Vec<u8>) {
    let file = reply.file.as_ref();
    let text = answer.text.concat();
    let body = match route {
        MediaRoute::Speech => {
            let bytes = file.map_or_else(Vec::new, |file| {
                BASE64_STANDARD.decode(&file.data).unwrap_or_default()
            });
            return ("application/octet-stream", bytes);
        }
        MediaRoute::Images => {
            let mut picture = json!({"b64_json": file.map(|file| &file.data)});
            if !text.is_empty() {
                picture["revised_prompt"] = text.into();
            }
            json!({
                "created": 1_700_000_000,
                "data": [picture],
                "usage": {
                    "input_tokens": reply.usage.input,
                    "output_tokens": reply.usage.output,
                    "total_tokens": reply.usage.input + reply.usage.output,
                },
            })
        }
        MediaRoute::Transcriptions if asked["response_format"] == "verbose_json" => {
            // A second for each piece.
            let segments = (0_u32..).zip(&answer.text).map(|(at, piece)| {
                json!({"id": at, "start": f64::from(at), "end": f64::from(at + 1), "text": piece})
            });
            json!({
                "task": "transcribe",
                "language": "english",
                "duration": answer.text.len(),
                "text": text,
                "segments": segments.collect::<Vec<_>>(),
                "usage": {"type": "duration", "seconds": answer.text.len()},
            })
        }
        MediaRoute::Transcriptions => {
            json!({"text": text, "usage": {"type": "duration", "seconds": 3}})
        }
    };
    ("application/json", body.to_string().into_bytes())
}
