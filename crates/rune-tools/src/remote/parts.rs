//! Inputs and outputs of agents as parts of A2A, and back.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_a2a::{Content, Part};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The longest key that names a message by itself.
const MAX_KEY_BYTES: usize = 200;

/// The id of the message that is sent under a key: the same for the same key, and fit for a header.
#[must_use]
pub fn message_id(key: &str) -> String {
    if key.len() <= MAX_KEY_BYTES && key.bytes().all(|b| b.is_ascii_graphic()) {
        return key.to_owned();
    }
    let digest = Sha256::digest(key);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an agent is told: text as text, anything else as data.
#[must_use]
pub fn message_parts(input: &Value) -> Vec<Part> {
    vec![match input {
        Value::String(text) => Part::text(text.as_str()),
        data => Part::data(data.clone()),
    }]
}

/// The text in parts, one line or more each.
#[must_use]
pub fn parts_text<'a>(parts: impl IntoIterator<Item = &'a Part>) -> String {
    let texts = parts.into_iter().filter_map(|part| match &part.content {
        Content::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// The output that parts are: text where they are text, the data where they are one part of data, else a list of what each
/// is.
#[must_use]
pub fn parts_value(parts: &[&Part]) -> Value {
    let is_text = |part: &&Part| matches!(part.content, Content::Text(_));
    match parts {
        [
            Part {
                content: Content::Data(data),
                ..
            },
        ] => data.clone(),
        parts if parts.iter().all(is_text) => Value::String(parts_text(parts.iter().copied())),
        parts => parts.iter().map(|part| shown(part)).collect(),
    }
}

/// A part, as outputs of agents name theirs.
fn shown(part: &Part) -> Value {
    let mut out = match &part.content {
        Content::Text(text) => return json!({"type": "text", "text": text}),
        Content::Data(data) => return json!({"type": "data", "data": data}),
        Content::Url(url) => json!({"type": "file", "url": url}),
        Content::Raw(bytes) => json!({"type": "file", "data": BASE64_STANDARD.encode(bytes)}),
    };
    if let Some(media_type) = &part.media_type {
        out["media_type"] = json!(media_type);
    }
    if let Some(name) = &part.filename {
        out["name"] = json!(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(parts: &[Part]) -> Value {
        parts_value(&parts.iter().collect::<Vec<_>>())
    }

    #[test]
    fn an_output_is_text_data_or_a_list() {
        let (text, data) = (Part::text("a"), Part::data(json!({"n": 1})));
        assert_eq!(value(&[]), json!(""));
        assert_eq!(value(&[text.clone(), Part::text("b")]), json!("a\nb"));
        assert_eq!(value(std::slice::from_ref(&data)), json!({"n": 1}));
        let file = Part::new(Content::Raw(vec![1, 2, 3]))
            .of_type("application/pdf")
            .named("a.pdf");
        let expected = json!([
            {"type": "text", "text": "a"},
            {"type": "data", "data": {"n": 1}},
            {"type": "file", "data": "AQID", "media_type": "application/pdf", "name": "a.pdf"},
        ]);
        assert_eq!(value(&[text, data, file]), expected);
    }
}
