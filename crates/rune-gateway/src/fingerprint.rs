//! The fingerprint of a request body: the same for the same JSON, however it was written.

use std::io::Write;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// SHA-256 of the value with the keys of every object in order.
pub(crate) fn fingerprint(value: &Value) -> std::io::Result<String> {
    let mut canonical = Vec::new();
    write_canonical(value, &mut canonical)?;
    let digest = Sha256::digest(&canonical);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_canonical(value: &Value, out: &mut impl Write) -> std::io::Result<()> {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            out.write_all(b"{")?;
            for (key, value) in keys {
                serde_json::to_writer(&mut *out, key)?;
                out.write_all(b":")?;
                write_canonical(value, out)?;
                out.write_all(b",")?;
            }
            out.write_all(b"}")
        }
        Value::Array(items) => {
            out.write_all(b"[")?;
            for item in items {
                write_canonical(item, out)?;
                out.write_all(b",")?;
            }
            out.write_all(b"]")
        }
        scalar => Ok(serde_json::to_writer(out, scalar)?),
    }
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn order_and_space_do_not_matter_and_content_does() {
        let print = |text: &str| fingerprint(&serde_json::from_str(text).unwrap()).unwrap();
        let one = print(r#"{"a": 1, "b": [true, {"x": "y", "z": null}]}"#);
        assert_eq!(one, print(r#"{"b":[true,{"z":null,"x":"y"}],"a":1}"#));
        assert_ne!(
            one,
            print(r#"{"a": 1, "b": [{"x": "y", "z": null}, true]}"#)
        );
        assert_ne!(print(r#"["ab", "c"]"#), print(r#"["a", "bc"]"#));
    }
}
