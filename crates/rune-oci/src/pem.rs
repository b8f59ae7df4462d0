//! The armour of keys.

use base64::prelude::{BASE64_STANDARD, Engine as _};

/// Longest line of the body.
const LINE: usize = 64;

/// The bytes between the lines `BEGIN` and `END` of this label.
pub(crate) fn decode(label: &str, text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    BASE64_STANDARD.decode(body).ok()
}

pub(crate) fn encode(label: &str, bytes: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, char) in BASE64_STANDARD.encode(bytes).char_indices() {
        if at > 0 && at % LINE == 0 {
            text.push('\n');
        }
        text.push(char);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
