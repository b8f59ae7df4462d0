//! The parts of a message as the input of an agent, and the output of an agent as parts.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_a2a::{A2aError, Content, ErrorKind, Part};
use rune_runtime::Agent;
use serde_json::{Value, json};

use crate::conversation::text_part;

/// The images that agents are shown.
pub(crate) const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// The media type of a text.
pub(crate) const TEXT: &str = "text/plain";
/// The media type of data.
pub(crate) const JSON: &str = "application/json";

/// The input of a request.
///
/// # Errors
/// [`ErrorKind::ContentTypeNotSupported`] for a file that is neither text nor an image.
pub(crate) fn input_of(parts: &[Part], agent: &Agent) -> Result<Value, A2aError> {
    // Data alone is the input itself; a schema of the agent says what it has to be.
    if let [
        Part {
            content: Content::Data(data),
            ..
        },
    ] = parts
    {
        return Ok(data.clone());
    }
    let inputs = parts.iter().enumerate();
    let inputs = inputs.map(|(n, part)| input_part(part, n));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let texts: Option<Vec<&str>> = inputs.iter().map(|part| part["text"].as_str()).collect();
    Ok(match texts {
        Some(texts) => agent.fit_input(Value::String(texts.join("\n\n"))),
        None => Value::Array(inputs),
    })
}

fn input_part(part: &Part, n: usize) -> Result<Value, A2aError> {
    let media_type = part.media_type.as_deref().map(essence);
    let media_type = media_type.as_deref();
    let is_image = media_type.is_some_and(|it| it.starts_with("image/"));
    let name = part.filename.as_deref();
    let about = |what: &str| match (name, media_type) {
        (Some(name), Some(kind)) => format!("{what} `{name}` ({kind})"),
        (Some(name), None) => format!("{what} `{name}`"),
        (None, Some(kind)) => format!("{what} ({kind})"),
        (None, None) => what.to_owned(),
    };
    match &part.content {
        Content::Text(text) => Ok(text_part(text)),
        Content::Data(data) => Ok(text_part(&data.to_string())),
        Content::Url(url) if is_image => Ok(json!({"type": "image", "url": url})),
        Content::Url(url) => Ok(text_part(&format!("{} at {url}", about("File")))),
        Content::Raw(bytes) => {
            if let Some(kind) = media_type.filter(|kind| IMAGES.contains(kind)) {
                let data = BASE64_STANDARD.encode(bytes);
                return Ok(json!({"type": "image", "media_type": kind, "data": data}));
            }
            let text = std::str::from_utf8(bytes).ok();
            match text.filter(|_| media_type.is_none_or(is_text)) {
                Some(text) => Ok(text_part(&format!("{}:\n{text}", about("File")))),
                None => Err(not_supported(n, media_type)),
            }
        }
    }
}

fn not_supported(n: usize, media_type: Option<&str>) -> A2aError {
    let shown = media_type.unwrap_or("application/octet-stream");
    let message = format!(
        "`message.parts[{n}]`: agents take text and images ({}), not `{shown}`",
        IMAGES.join(", ")
    );
    A2aError::new(ErrorKind::ContentTypeNotSupported, message).about("mediaType", shown)
}

fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether bytes of this type are text, which they still have to prove.
fn is_text(essence: &str) -> bool {
    const OTHERS: [&str; 8] = [
        JSON,
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/javascript",
        "application/x-sh",
        "application/sql",
    ];
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || OTHERS.contains(&essence)
}

/// What was said to an agent, from the input of its request.
pub(crate) fn parts_of_input(input: &Value) -> Vec<Part> {
    let parts = match input {
        Value::String(text) => vec![Part::text(text)],
        other => parts_of_list(other).unwrap_or_else(|| vec![Part::data(other.clone())]),
    };
    // A message has at least one.
    match parts.is_empty() {
        true => vec![Part::text("")],
        false => parts,
    }
}

/// What an agent answered; nothing where that is empty. Data becomes text where the client
/// takes no data.
pub(crate) fn parts_of_output(output: &Value, accepted: &[String]) -> Vec<Part> {
    match output {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![Part::text(text).of_type(TEXT)],
        other => match parts_of_list(other) {
            Some(parts) => parts,
            None if accepts(accepted, JSON) || !accepts(accepted, TEXT) => {
                vec![Part::data(other.clone()).of_type(JSON)]
            }
            None => vec![Part::text(other.to_string()).of_type(TEXT)],
        },
    }
}

fn accepts(accepted: &[String], media_type: &str) -> bool {
    let (kind, _) = media_type.split_once('/').unwrap_or((media_type, ""));
    accepted.is_empty()
        || accepted.iter().any(|it| {
            let it = essence(it);
            it == media_type || it == "*/*" || it.strip_suffix("/*") == Some(kind)
        })
}

/// The parts of a list that has nothing else in it, each
/// `{"type": "text", "text"}`, `{"type": "image", "media_type", "data"}`,
/// `{"type": "image", "url"}`, or `{"type": "file", "media_type"?, "name"?, "data" or "url"}`.
fn parts_of_list(list: &Value) -> Option<Vec<Part>> {
    let list = list.as_array().filter(|list| !list.is_empty())?;
    list.iter().map(part_of).collect()
}

fn part_of(value: &Value) -> Option<Part> {
    let text = |name: &str| value[name].as_str();
    let kind = text("type")?;
    if kind == "text" {
        return Some(Part::text(text("text")?).of_type(TEXT));
    }
    if !matches!(kind, "image" | "file") {
        return None;
    }
    let mut part = match (text("data"), text("url"), text("digest")) {
        (Some(data), None, None) => Part::new(Content::Raw(BASE64_STANDARD.decode(data).ok()?)),
        (None, Some(url), None) => Part::new(Content::Url(url.to_owned())),
        // A large one is in the object store, and not repeated in what was said.
        (None, None, Some(_)) => Part::text(format!("[image: {}]", text("media_type")?)),
        _ => return None,
    };
    if !matches!(part.content, Content::Text(_)) {
        part.media_type = text("media_type").map(str::to_owned);
        part.filename = text("name").map(str::to_owned);
    }
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_text_are_told_and_others_are_refused() {
        let text = Part::new(Content::Raw(b"a,b".to_vec())).of_type("text/csv; charset=utf-8");
        let told = input_part(&text.named("t.csv"), 0).unwrap();
        assert_eq!(told["text"], "File `t.csv` (text/csv):\na,b");
        let image = Part::new(Content::Raw(vec![1, 2, 3])).of_type("image/png");
        let expected = json!({"type": "image", "media_type": "image/png", "data": "AQID"});
        assert_eq!(input_part(&image, 0).unwrap(), expected);
        let url = Part::new(Content::Url("https://example.org/a.png".to_owned()));
        let shown = input_part(&url.clone().of_type("image/png"), 0).unwrap();
        assert_eq!(shown["type"], "image");
        let told = input_part(&url, 0).unwrap();
        assert_eq!(told["text"], "File at https://example.org/a.png");
        for refused in [
            Part::new(Content::Raw(vec![1])).of_type("application/pdf"),
            Part::new(Content::Raw(vec![0xff])),
            Part::new(Content::Raw(vec![0xff])).of_type("text/plain"),
        ] {
            let error = input_part(&refused, 2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ContentTypeNotSupported);
            assert!(error.message().contains("parts[2]"));
        }
    }

    #[test]
    fn an_output_is_text_data_or_the_parts_that_it_lists() {
        assert_eq!(
            parts_of_output(&json!("hi"), &[]),
            [Part::text("hi").of_type(TEXT)]
        );
        assert!(parts_of_output(&json!(""), &[]).is_empty());
        let data = json!({"n": 1});
        assert_eq!(
            parts_of_output(&data, &[]),
            [Part::data(data.clone()).of_type(JSON)]
        );
        let text_only = ["text/*".to_owned()];
        assert_eq!(
            parts_of_output(&data, &text_only),
            [Part::text("{\"n\":1}").of_type(TEXT)]
        );
        let listed = json!([
            {"type": "text", "text": "see"},
            {"type": "file", "media_type": "application/pdf", "name": "a.pdf", "data": "AQID"},
            {"type": "image", "url": "https://example.org/a.png"},
        ]);
        let parts = parts_of_output(&listed, &[]);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1].content, Content::Raw(vec![1, 2, 3]));
        assert_eq!(parts[1].filename.as_deref(), Some("a.pdf"));
        let no_parts = json!([{"type": "text"}]);
        assert_eq!(
            parts_of_output(&no_parts, &[])[0].content,
            Content::Data(no_parts)
        );
    }

    #[test]
    fn what_was_said_comes_back_from_the_input() {
        assert_eq!(parts_of_input(&json!("hi")), [Part::text("hi")]);
        let data = json!({"a": [1]});
        assert_eq!(parts_of_input(&data), [Part::data(data.clone())]);
        let stored = json!([{"type": "image", "media_type": "image/png", "digest": "sha256:0"}]);
        assert_eq!(parts_of_input(&stored), [Part::text("[image: image/png]")]);
    }
}
