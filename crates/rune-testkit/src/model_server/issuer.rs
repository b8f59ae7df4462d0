use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Makes ids and signatures, and remembers which call was given with a signature.
#[derive(Debug, Default)]
pub(crate) struct Issuer {
    seed: RandomState,
    count: AtomicU64,
    signed_calls: Mutex<HashMap<String, String>>,
}

impl Issuer {
    /// A fresh id: `prefix` and `len` letters and digits.
    pub(crate) fn id(&self, prefix: &str, len: usize) -> String {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(prefix.len() + len);
        id.push_str(prefix);
        let mut round = 0_u8;
        while id.len() < prefix.len() + len {
            let mut bits = self.seed.hash_one((n, round));
            for _ in 0..8 {
                let letter = usize::try_from(bits % 62).unwrap_or_default();
                id.push(char::from(ALPHABET[letter]));
                bits /= 62;
            }
            round = round.wrapping_add(1);
        }
        id.truncate(prefix.len() + len);
        id
    }

    /// Remembers that `call` was given with `signature`.
    pub(crate) fn signed(&self, call: String, signature: String) {
        self.signed_calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(call, signature);
    }

    /// The signature that must come back with `call`, if it was given one.
    pub(crate) fn signature_of(&self, call: &str) -> Option<String> {
        self.signed_calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(call)
            .cloned()
    }
}

/// The signature of a content; valid base64. It depends on the content only, so that any server can verify it.
pub(crate) fn sign(content: &str) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, content).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(0), half(1))
}

/// What a Gemini call is signed over, and remembered by: calls may come without an id.
pub(crate) fn call_key(name: &str, args: &serde_json::Value) -> String {
    format!("{name} {args}")
}
