//! Reading objects as their types, as strictly as the client asks for.

use serde_json::Value;

use crate::object::{self, set_default, text};
use crate::resource::Resource;
use crate::status::{ApiError, ApiResult};

/// What happens with fields that a type does not have: the parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => {
                let message = format!("fieldValidation: Unsupported value: \"{other}\"");
                Err(ApiError::bad_request(message))
            }
        }
    }
}

/// An object as its type has it.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Reads an object of a kind.
pub(crate) fn decode(
    resource: &Resource,
    mut given: Value,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    set_default(&mut given, &["apiVersion"], resource.api_version());
    set_default(&mut given, &["kind"], resource.kind);
    if resource.plural == "secrets" {
        join_lines(&mut given);
    }
    let (version, kind) = (text(&given, "/apiVersion"), text(&given, "/kind"));
    if version != resource.api_version() || kind != resource.kind {
        let message = format!(
            "the API version in the data ({version}, {kind}) does not match the expected API version ({}, {})",
            resource.api_version(),
            resource.kind
        );
        return Err(ApiError::bad_request(message));
    }
    let mut object = resource.decode(&given).map_err(|error| {
        ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"
        ))
    })?;
    let mut unknown = Vec::new();
    find_unknown("", &given, &object, &mut unknown);
    let unknown: Vec<String> = unknown
        .into_iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        let message = format!("strict decoding error: {}", unknown.join(", "));
        let what = format!("{kind} in version \"{version}\" cannot be handled as a {kind}");
        return Err(ApiError::bad_request(format!("{what}: {message}")));
    }
    // Sets of fields have no type, and lists and maps that are empty say nothing.
    if let Some(fields) = given.pointer("/metadata/managedFields") {
        object::set(&mut object, &["metadata", "managedFields"], fields.clone());
    }
    let warnings = match validation {
        FieldValidation::Warn => unknown,
        _ => Vec::new(),
    };
    Ok(Decoded { object, warnings })
}

/// Takes the line ends out of the base64 of a secret: the decoder of the real server passes over them, and over nothing else.
fn join_lines(secret: &mut Value) {
    let data = secret.get_mut("data").and_then(Value::as_object_mut);
    for value in data.into_iter().flat_map(|data| data.values_mut()) {
        if let Value::String(text) = value {
            text.retain(|c| c != '\r' && c != '\n');
        }
    }
}

/// Collects the paths that were given and that the type dropped.
fn find_unknown(path: &str, given: &Value, kept: &Value, unknown: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                match kept.get(key) {
                    Some(kept) => find_unknown(&path, value, kept, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (at, (given, kept)) in given.iter().zip(kept).enumerate() {
                find_unknown(&format!("{path}[{at}]"), given, kept, unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FieldValidation, decode};
    use crate::resource::named;

    #[test]
    fn unknown_fields_are_refused_or_told() {
        let pods = named("pods").unwrap();
        let pod = json!({"metadata": {"name": "a"},
                         "spec": {"containers": [{"name": "a", "imag": "b"}], "colour": 1}});
        let strict = decode(pods, pod.clone(), FieldValidation::Strict).unwrap_err();
        let said = strict.status()["message"].to_string();
        assert!(said.contains("spec.containers[0].imag"), "{said}");
        assert!(said.contains("spec.colour"), "{said}");
        let warned = decode(pods, pod.clone(), FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings.len(), 2);
        let ignored = decode(pods, pod, FieldValidation::Ignore).unwrap();
        assert!(ignored.warnings.is_empty());
        assert!(ignored.object.pointer("/spec/colour").is_none());
    }

    #[test]
    fn the_base64_of_a_secret_may_have_line_ends_and_nothing_else() {
        let secrets = named("secrets").unwrap();
        let of = |data: &str| {
            let secret = json!({"metadata": {"name": "a"}, "data": {"key": data}});
            decode(secrets, secret, FieldValidation::Strict).map(|it| it.object)
        };
        let wrapped = of("YWJj\r\nZGVm\n").unwrap();
        assert_eq!(wrapped["data"]["key"], "YWJjZGVm");
        assert!(of("YWJj ZGVm").is_err());
    }

    #[test]
    fn a_wrong_type_is_refused() {
        let pods = named("pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": "none"}});
        assert!(decode(pods, pod, FieldValidation::Ignore).is_err());
        let service = json!({"kind": "Service", "apiVersion": "v1"});
        assert!(decode(pods, service, FieldValidation::Ignore).is_err());
    }
}
