//! A `multipart/form-data` body (RFC 7578). The client's own needs a guesser of media types, which are known here.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// Fields, and one file.
#[derive(Debug, Default)]
pub(super) struct Form {
    fields: Vec<(&'static str, String)>,
}

/// The file of a form.
pub(super) struct FormFile<'a> {
    /// The name of its field.
    pub(super) field: &'static str,
    /// What the server takes its name to be: letters, digits and dots.
    pub(super) name: &'a str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'a [u8],
}

impl Form {
    pub(super) fn field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The content type and the body. The boundary is made of the content, so that the same form is the same body.
    pub(super) fn with(self, file: &FormFile<'_>) -> (String, Bytes) {
        let mut hash = Sha256::new();
        for (name, value) in &self.fields {
            hash.update(name);
            hash.update(value);
        }
        hash.update(file.bytes);
        let digest = hash.finalize();
        let boundary: String = digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut body = BytesMut::with_capacity(file.bytes.len() + 1024);
        for (name, value) in &self.fields {
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
            body.put_slice(head.as_bytes());
        }
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
            file.field, file.name, file.content_type
        );
        body.put_slice(head.as_bytes());
        body.put_slice(file.bytes);
        body.put_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        (
            format!("multipart/form-data; boundary={boundary}"),
            body.freeze(),
        )
    }
}
