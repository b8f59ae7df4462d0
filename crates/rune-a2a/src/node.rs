//! Reading JSON with a path, so that an error says where.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rune_store_runtime::Timestamp;
use serde_json::{Map, Value};

use crate::A2aError;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    /// The outermost value.
    pub(crate) const fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    pub(crate) const fn value(&self) -> &'a Value {
        self.value
    }

    /// The error that this value is wrong.
    pub(crate) fn wrong(&self, why: impl Into<String>) -> A2aError {
        A2aError::invalid(self.path.clone(), why)
    }

    fn object(&self) -> Result<&'a Map<String, Value>, A2aError> {
        self.value
            .as_object()
            .ok_or_else(|| match self.path.is_empty() {
                true => self.wrong("the parameters have to be an object"),
                false => self.wrong("has to be an object"),
            })
    }

    fn place(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// A field; `null` is no field. It may have the name of Protocol Buffers (`task_id`), which readers of ProtoJSON take, too.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Self>, A2aError> {
        let value = member(self.object()?, name).filter(|value| !value.is_null());
        Ok(value.map(|value| Self {
            value,
            path: self.place(name),
        }))
    }

    /// A field that has to be there.
    pub(crate) fn need(&self, name: &str) -> Result<Self, A2aError> {
        let found = self.get(name)?;
        found.ok_or_else(|| A2aError::invalid(self.place(name), "is missing"))
    }

    /// Whether a field is there, `null` or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        let object = self.value.as_object();
        object.is_some_and(|object| member(object, name).is_some())
    }

    /// The elements of a list of at the most `most`.
    pub(crate) fn list(&self, most: usize) -> Result<Vec<Self>, A2aError> {
        let items = self.value.as_array();
        let items = items.ok_or_else(|| self.wrong("has to be a list"))?;
        if items.len() > most {
            return Err(self.wrong(format!("may have {most} elements")));
        }
        let items = items.iter().enumerate();
        let items = items.map(|(n, value)| Self {
            value,
            path: format!("{}[{n}]", self.path),
        });
        Ok(items.collect())
    }

    /// A text of at the most `most` bytes.
    pub(crate) fn text(&self, most: usize) -> Result<&'a str, A2aError> {
        let text = self.value.as_str();
        let text = text.ok_or_else(|| self.wrong("has to be a text"))?;
        match text.len() <= most {
            true => Ok(text),
            false => Err(self.wrong(format!("may have {most} bytes"))),
        }
    }

    /// A text that is not empty.
    pub(crate) fn id(&self, most: usize) -> Result<&'a str, A2aError> {
        match self.text(most)? {
            "" => Err(self.wrong("may not be empty")),
            text => Ok(text),
        }
    }

    /// A field with a text; an empty one is none, as in Protocol Buffers.
    pub(crate) fn get_text(&self, name: &str, most: usize) -> Result<Option<String>, A2aError> {
        let Some(field) = self.get(name)? else {
            return Ok(None);
        };
        let text = field.text(most)?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A field that has to have a text with something in it.
    pub(crate) fn need_id(&self, name: &str, most: usize) -> Result<String, A2aError> {
        self.need(name)?.id(most).map(str::to_owned)
    }

    /// A field with a list of texts; none is an empty one.
    pub(crate) fn get_texts(
        &self,
        name: &str,
        most: usize,
        longest: usize,
    ) -> Result<Vec<String>, A2aError> {
        let Some(field) = self.get(name)? else {
            return Ok(Vec::new());
        };
        let texts = field.list(most)?.into_iter();
        texts
            .map(|node| node.text(longest).map(str::to_owned))
            .collect()
    }

    /// A field with yes or no; in a query it is a text.
    pub(crate) fn get_bool(&self, name: &str) -> Result<Option<bool>, A2aError> {
        let Some(field) = self.get(name)? else {
            return Ok(None);
        };
        let flag = match field.value {
            Value::String(text) => text.parse().ok(),
            value => value.as_bool(),
        };
        flag.map(Some)
            .ok_or_else(|| field.wrong("has to be true or false"))
    }

    /// A field with a number from 0; in ProtoJSON it may be a text.
    pub(crate) fn get_count(&self, name: &str) -> Result<Option<u32>, A2aError> {
        let Some(field) = self.get(name)? else {
            return Ok(None);
        };
        let number = match field.value {
            Value::String(text) => text.parse().ok(),
            // 5.0 is 5.
            Value::Number(number) => number.as_u64().or_else(|| {
                let number = number.as_f64()?;
                let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is whole and within the range"
                )]
                whole.then_some(number as u64)
            }),
            _ => None,
        };
        let number = number.and_then(|number: u64| u32::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| field.wrong("has to be a whole number that is not negative"))
    }

    /// A field with a time.
    pub(crate) fn get_time(&self, name: &str) -> Result<Option<Timestamp>, A2aError> {
        let Some(field) = self.get(name)? else {
            return Ok(None);
        };
        let time = serde_json::from_value(field.value.clone());
        time.map(Some)
            .map_err(|_| field.wrong("has to be a time such as 2026-11-22T21:12:27Z"))
    }

    /// A field with any object.
    pub(crate) fn get_map(&self, name: &str) -> Result<Map<String, Value>, A2aError> {
        match self.get(name)? {
            Some(field) => field.object().cloned(),
            None => Ok(Map::new()),
        }
    }

    /// Bytes in base64, in either alphabet and with or without padding.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, A2aError> {
        let text = self.text(usize::MAX)?;
        let engine = match text.contains(['-', '_']) {
            true => URL_SAFE,
            false => STANDARD,
        };
        engine
            .decode(text)
            .map_err(|error| self.wrong(format!("is not base64: {error}")))
    }
}

/// The member with a name of JSON (`taskId`), else that with the name of Protocol Buffers (`task_id`).
fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        let mut other = String::with_capacity(name.len() + 2);
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                other.push('_');
            }
            other.push(letter.to_ascii_lowercase());
        }
        object.get(&other)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_says_where() {
        let value = json!({"a": {"b": [{"c": 1}]}});
        let root = Node::root(&value);
        let b = root.need("a").unwrap().need("b").unwrap();
        let first = b.list(1).unwrap().remove(0);
        let error = first.need_id("c", 10).unwrap_err();
        assert_eq!(error.to_string(), "`a.b[0].c`: has to be a text");
        let missing = first.need("d").unwrap_err();
        assert_eq!(missing.violation().unwrap().field, "a.b[0].d");
        assert!(b.list(0).is_err());
    }

    #[test]
    fn a_field_may_have_its_name_of_protocol_buffers() {
        let value = json!({"task_id": "a", "pageSize": 1, "page_size": 2});
        let root = Node::root(&value);
        assert_eq!(root.need_id("taskId", 10).unwrap(), "a");
        assert!(root.has("taskId"));
        assert_eq!(root.get_count("pageSize").unwrap(), Some(1));
        let missing = root.need("contextId").unwrap_err();
        assert_eq!(missing.violation().unwrap().field, "contextId");
    }

    #[test]
    fn numbers_may_be_texts_and_base64_may_be_of_any_kind() {
        let value = json!({"n": "7", "f": 5.0, "m": -1, "h": 1.5, "x": "-_-_", "y": "+/+/", "z": "AQ", "w": "AQ==", "bad": "*"});
        let root = Node::root(&value);
        assert_eq!(root.get_count("n").unwrap(), Some(7));
        assert_eq!(root.get_count("f").unwrap(), Some(5));
        assert!(root.get_count("m").is_err());
        assert!(root.get_count("h").is_err());
        let bytes = |name: &str| root.need(name).unwrap().bytes();
        assert_eq!(bytes("x").unwrap(), bytes("y").unwrap());
        assert_eq!(bytes("z").unwrap(), bytes("w").unwrap());
        assert!(bytes("bad").is_err());
    }
}
