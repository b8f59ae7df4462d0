//! The input of a request as a message of the user.

use serde_json::{Map, Value};

use crate::{Block, ImageSource, Message, Role};

/// The blocks of an input that is a list of parts, `None` for every other input. A part is
/// exactly one of
///
/// ```json
/// {"type": "text", "text": "…"}
/// {"type": "image", "media_type": "image/png", "data": "<base64>"}
/// {"type": "image", "media_type": "image/png", "digest": "sha256:…"}
/// {"type": "image", "url": "https://…"}
/// ```
///
/// and a list with anything else in it is data, not parts. The third form is how an image
/// is kept that was too large for a row.
#[must_use]
pub fn input_parts(input: &Value) -> Option<Vec<Block>> {
    match input {
        Value::Array(parts) if !parts.is_empty() => parts.iter().map(part).collect(),
        _ => None,
    }
}

fn part(part: &Value) -> Option<Block> {
    let fields = part.as_object()?;
    let has = |names: &[&str]| {
        fields.len() == names.len() + 1 && names.iter().all(|name| text(fields, name).is_some())
    };
    let own = |name| text(fields, name).unwrap_or_default().to_owned();
    match text(fields, "type")? {
        "text" if has(&["text"]) => Some(Block::text(own("text"))),
        "image" => {
            let source = if has(&["media_type", "data"]) {
                ImageSource::Data {
                    media_type: own("media_type"),
                    data: own("data"),
                }
            } else if has(&["media_type", "digest"]) {
                ImageSource::Stored {
                    media_type: own("media_type"),
                    digest: own("digest"),
                }
            } else if has(&["url"]) {
                ImageSource::Url { url: own("url") }
            } else {
                return None;
            };
            Some(Block::Image { source })
        }
        _ => None,
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

impl Message {
    /// What the model is shown of an input: the parts, the text, or the JSON as text.
    #[must_use]
    pub fn from_input(input: &Value) -> Self {
        match (input_parts(input), input) {
            (Some(blocks), _) => Self {
                role: Role::User,
                blocks,
            },
            (None, Value::String(text)) => Self::user(text),
            (None, other) => Self::user(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_every_form_of_a_part_and_keeps_it_as_it_was() {
        let parts = json!([
            {"type": "text", "text": "What is this?"},
            {"type": "image", "media_type": "image/png", "data": "AAAA"},
            {"type": "image", "media_type": "image/png", "digest": "sha256:0"},
            {"type": "image", "url": "https://example.org/a.png"},
        ]);
        let blocks = input_parts(&parts).unwrap();
        assert_eq!(serde_json::to_value(&blocks).unwrap(), parts);
        let back: Vec<Block> = serde_json::from_value(parts.clone()).unwrap();
        assert_eq!(back, blocks);
        assert_eq!(Message::from_input(&parts).text(), "What is this?");
    }

    #[test]
    fn anything_else_is_data() {
        for data in [
            json!([]),
            json!({"type": "text", "text": "x"}),
            json!([{"type": "text", "text": "x"}, 1]),
            json!([{"type": "text", "text": "x", "more": 1}]),
            json!([{"type": "image", "data": "AAAA"}]),
            json!([{"type": "video", "url": "https://example.org"}]),
        ] {
            assert_eq!(input_parts(&data), None, "{data}");
            assert_eq!(Message::from_input(&data).text(), data.to_string());
        }
    }
}
