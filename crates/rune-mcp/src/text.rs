//! Texts whose secrets are put in when they are needed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use rune_spec::{MissingVariable, interpolate};
use rune_tools::Secrets;
use secrecy::SecretString;

/// A shorter value is not taken for a secret: replacing it everywhere would destroy what is said.
const SHORTEST: usize = 6;

/// A text of a Runefile: the values of its variables are known, those of the stored secrets that it names are not.
#[derive(Clone)]
pub struct Text {
    raw: String,
    variables: BTreeMap<String, String>,
}

impl Text {
    /// The text, with what `lookup` says of every variable that is none of these `secrets`.
    pub(crate) fn resolve(
        raw: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
        secrets: &[String],
    ) -> Result<Self, MissingVariable> {
        let variables = RefCell::<BTreeMap<String, String>>::default();
        let note = |name: &str| {
            if secrets.iter().any(|secret| secret == name) {
                return Some("secret".to_owned());
            }
            let value = lookup(name)?;
            let mut variables = variables.borrow_mut();
            variables.insert(name.to_owned(), value.clone());
            Some(value)
        };
        interpolate(raw, &note)?;
        Ok(Self {
            raw: raw.to_owned(),
            variables: variables.into_inner(),
        })
    }

    /// The text with the secrets. One that is missing is left out.
    pub(crate) fn with(&self, secrets: &Secrets) -> String {
        let lookup = |name: &str| {
            let secret = secrets.iter().find(|(known, _)| *known == name);
            let secret = secret.map(|(_, value)| value.to_owned());
            secret.or_else(|| Some(self.variables.get(name).cloned().unwrap_or_default()))
        };
        interpolate(&self.raw, &lookup).unwrap_or_default()
    }
}

// By hand: values may be secrets.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

/// Values that must not leave, and what was granted.
pub(crate) fn hidden<'a>(values: impl Iterator<Item = &'a str>, granted: &'a Secrets) -> Secrets {
    let values = values
        .map(str::trim)
        .filter(|value| value.len() >= SHORTEST);
    let granted = granted.iter().map(|(_, value)| value);
    let values = values.chain(granted);
    // None of them is asked for by its name.
    let values = values.map(|value| (String::new(), SecretString::from(value)));
    Secrets::new(values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_put_in_when_it_is_needed() {
        let lookup = |name: &str| (name == "KIND").then(|| "Bearer ${TOKEN}".to_owned());
        let secrets = ["TOKEN".to_owned()];
        let text = Text::resolve("${KIND} ${TOKEN} ${NONE:-x}", &lookup, &secrets).unwrap();
        let value = SecretString::from("s3cret-value");
        let granted = Secrets::new(vec![("TOKEN".to_owned(), value)]);
        // What a variable holds is not looked through.
        assert_eq!(text.with(&granted), "Bearer ${TOKEN} s3cret-value x");
        assert!(Text::resolve("${NONE}", &lookup, &secrets).is_err());
    }

    #[test]
    fn a_short_value_of_a_variable_is_no_secret() {
        let hidden = hidden(["on", "token-1"].into_iter(), &Secrets::default());
        let said = hidden.redact("token-1 is on".to_owned());
        assert_eq!(said, "[redacted] is on");
    }
}
