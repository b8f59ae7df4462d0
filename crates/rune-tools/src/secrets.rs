//! The secrets that one call of a tool is granted, and how they are kept out of what it says.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// What stands for a secret in what a tool says.
pub const REDACTED: &str = "[redacted]";

/// The shortest value of a secret, in bytes: what is shorter stands in too many texts by chance to be taken out of them.
pub const MIN_SECRET_BYTES: usize = 8;

/// Secrets by name. Cheap to clone; the default holds none.
#[derive(Clone, Default)]
pub struct Secrets(Option<Arc<Inner>>);

struct Inner {
    values: Vec<(String, SecretString)>,
    /// The forms in which the values are looked for, longest first.
    forms: Vec<SecretString>,
}

impl Secrets {
    /// These secrets.
    pub fn new(values: Vec<(String, SecretString)>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let all = values.iter().map(|(_, value)| value.expose_secret());
        let mut forms: Vec<String> = all.flat_map(forms).collect();
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        let forms = forms.into_iter().map(SecretString::from).collect();
        Self(Some(Arc::new(Inner { values, forms })))
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let values = self.0.iter().flat_map(|inner| &inner.values);
        values.map(|(name, value)| (name.as_str(), value.expose_secret()))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without any of the values: as they are, as a JSON string or a URL holds them, in hexadecimal and in
    /// Base64, wherever in the encoded bytes they stand.
    #[must_use]
    pub fn redact(&self, mut text: String) -> String {
        for form in self.0.iter().flat_map(|inner| &inner.forms) {
            let form = form.expose_secret();
            if text.contains(form) {
                text = text.replace(form, REDACTED);
            }
        }
        text
    }

    /// [`Secrets::redact`] for a text of which only the end was kept: what is left of a value at its beginning goes, too.
    #[must_use]
    pub fn redact_tail(&self, text: String) -> String {
        let cut = self.0.iter().flat_map(|inner| &inner.forms);
        let cut = cut.filter_map(|form| cut_form(&text, form.expose_secret()));
        let rest = cut.max().and_then(|length| text.get(length..));
        let text = match rest {
            Some(rest) => format!("{REDACTED}{rest}"),
            None => text,
        };
        self.redact(text)
    }

    /// Bytes of the longest form in which a value is looked for: of a stream that many less one have to be held back, so
    /// that none is missed that comes in two parts.
    #[must_use]
    pub fn longest(&self) -> usize {
        let forms = self.0.iter().flat_map(|inner| &inner.forms);
        let first = forms.map(|form| form.expose_secret().len()).next();
        first.unwrap_or(0)
    }

    /// [`Secrets::redact`] for bytes.
    #[must_use]
    pub fn redact_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for form in self.0.iter().flat_map(|inner| &inner.forms) {
            let form = form.expose_secret().as_bytes();
            let mut from = 0;
            while let Some(at) = find(bytes.get(from..).unwrap_or_default(), form) {
                let start = from + at;
                bytes.splice(start..start + form.len(), REDACTED.bytes());
                from = start + REDACTED.len();
            }
        }
        bytes
    }

    /// The value without any of the secrets in its texts, its numbers and the names of its fields.
    #[must_use]
    pub fn redact_value(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redact(text)),
            Value::Number(number) => {
                let text = number.to_string();
                let redacted = self.redact(text.clone());
                if redacted == text {
                    Value::Number(number)
                } else {
                    Value::String(redacted)
                }
            }
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.redact_value(item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.redact(name), self.redact_value(value)))
                .collect(),
            value @ (Value::Null | Value::Bool(_)) => value,
        }
    }
}

// By hand: the values are secrets.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// Where a part stands first.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// How much of the beginning of a text is the end of a form, where that is more than chance would make it.
fn cut_form(text: &str, form: &str) -> Option<usize> {
    let ends = (1..form.len()).filter_map(|start| form.get(start..));
    let mut ends = ends.take_while(|end| end.len() >= MIN_CUT_BYTES);
    ends.find(|end| text.starts_with(end)).map(str::len)
}

/// The shortest end of a form that is taken for one.
const MIN_CUT_BYTES: usize = 4;

/// The forms of a value that are looked for.
fn forms(value: &str) -> Vec<String> {
    if value.is_empty() {
        return Vec::new();
    }
    let mut forms = vec![value.to_owned()];
    // What a program printed that got it with a line end, and each line of a value of several.
    let lines = value.lines().map(str::trim);
    forms.extend(
        lines
            .filter(|line| line.len() >= MIN_SECRET_BYTES)
            .map(str::to_owned),
    );
    let quoted = serde_json::to_string(value).unwrap_or_default();
    let quoted = quoted.trim_start_matches('"');
    forms.push(quoted.strip_suffix('"').unwrap_or(quoted).to_owned());
    forms.push(ascii_quoted(value));
    forms.extend(url_encoded(value));
    let hex = value.bytes().fold(String::new(), |mut hex, byte| {
        // Writing to a text does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    forms.push(hex.to_uppercase());
    forms.push(hex);
    forms.extend(base64(value.as_bytes()));
    forms
}

/// As a JSON string that holds only ASCII.
fn ascii_quoted(value: &str) -> String {
    let mut quoted = String::new();
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~' => quoted.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a text does not fail.
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
        }
    }
    quoted
}

/// In a URL: with the characters escaped that most programs escape, with those that few do, and as a form is.
fn url_encoded(value: &str) -> [String; 4] {
    let encode = |kept: &str, upper: bool| {
        let mut text = String::new();
        for byte in value.bytes() {
            let is_kept = byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte);
            // Writing to a text does not fail.
            let _ = match (is_kept, upper) {
                (true, _) => write!(text, "{}", char::from(byte)),
                (false, true) => write!(text, "%{byte:02X}"),
                (false, false) => write!(text, "%{byte:02x}"),
            };
        }
        text
    };
    let plain = encode("-_.~", true);
    [
        plain.replace("%20", "+"),
        plain,
        encode("-_.~/", true),
        encode("-_.~", false),
    ]
}

/// What of a value's Base64 is the same wherever it stands among other bytes.
fn base64(bytes: &[u8]) -> impl Iterator<Item = String> {
    let at = |before: usize| {
        let padded = [&[0; 2][..before], bytes].concat();
        // Six bits a character: those that hold a bit of another byte are left out.
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        [STANDARD_NO_PAD, URL_SAFE_NO_PAD]
            .map(|engine| engine.encode(&padded))
            .map(|text| text.get(first..last).unwrap_or_default().to_owned())
    };
    let forms: Vec<String> = (0..3).flat_map(at).collect();
    forms
        .into_iter()
        .filter(|form| form.len() >= MIN_SECRET_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let named = values.iter().map(|value| {
            let value = SecretString::from((*value).to_owned());
            ("NAME".to_owned(), value)
        });
        Secrets::new(named.collect())
    }

    #[test]
    fn a_value_is_redacted_in_every_form() {
        let value = "p\"a s/s+w\u{f6}rd\\9";
        let secrets = secrets(&[value]);
        for form in [
            value,
            "p\\\"a s/s+w\u{f6}rd\\\\9",
            "p\\\"a s/s+w\\u00f6rd\\\\9",
            "p%22a%20s%2Fs%2Bw%C3%B6rd%5C9",
            "p%22a%20s/s%2Bw%C3%B6rd%5C9",
            "p%22a+s%2Fs%2Bw%C3%B6rd%5C9",
            "p%22a%20s%2fs%2bw%c3%b6rd%5c9",
            "70226120732f732b77c3b672645c39",
            "70226120732F732B77C3B672645C39",
        ] {
            let redacted = secrets.redact(format!("<{form}>"));
            assert_eq!(redacted, "<[redacted]>", "{form}");
        }
        assert_eq!(secrets.redact("nothing".to_owned()), "nothing");
        assert!(!format!("{secrets:?}").contains("s/s"));
    }

    #[test]
    fn the_longer_value_goes_first() {
        let secrets = secrets(&["password", "password-2"]);
        let text = "a password-2 and a password".to_owned();
        assert_eq!(secrets.redact(text), "a [redacted] and a [redacted]");
    }

    #[test]
    fn every_line_of_a_key_is_redacted() {
        let secrets = secrets(&["-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----"]);
        let text = secrets.redact("line: ijklmnop".to_owned());
        assert_eq!(text, "line: [redacted]");
    }

    #[test]
    fn what_is_left_of_a_value_that_was_cut_goes_too() {
        let secrets = secrets(&["correct-horse"]);
        assert_eq!(secrets.redact_tail("ect-horse!".to_owned()), "[redacted]!");
        assert_eq!(
            secrets.redact_tail("horse race".to_owned()),
            "[redacted] race"
        );
        assert_eq!(secrets.redact_tail("rse race".to_owned()), "rse race");
        let whole = secrets.redact_tail("is correct-horse".to_owned());
        assert_eq!(whole, "is [redacted]");
    }

    #[test]
    fn values_are_redacted_throughout() {
        let secrets = secrets(&["12345678", "hunter2hunter2"]);
        let value = json!({"hunter2hunter2": [12_345_678, {"a": "is hunter2hunter2"}], "n": 1});
        let redacted = secrets.redact_value(value);
        let expected = json!({"[redacted]": ["[redacted]", {"a": "is [redacted]"}], "n": 1});
        assert_eq!(redacted, expected);
    }

    proptest! {
        #[test]
        fn no_form_survives(value in "[!-~]{8,40}", before in ".{0,5}", after in ".{0,5}") {
            let secrets = secrets(&[&value]);
            let text = format!("{before}{value}{after}");
            let encoded = STANDARD_NO_PAD.encode(&text);
            let url_safe = URL_SAFE_NO_PAD.encode(&text);
            prop_assert!(!secrets.redact(text).contains(&value));
            // The middle of it is gone, so it cannot be decoded.
            prop_assert!(secrets.redact(encoded).contains(REDACTED));
            prop_assert!(secrets.redact(url_safe).contains(REDACTED));
            let json = json!({"deep": [{"text": format!("{before}{value}{after}")}]});
            let redacted = secrets.redact_value(json)["deep"][0]["text"].clone();
            prop_assert!(!redacted.as_str().unwrap().contains(&value));
        }
    }
}
