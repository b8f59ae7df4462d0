//! How the API says that something did not work: a `Status` object.

use serde_json::{Value, json};

use crate::resource::Resource;

/// An error of the API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// There is no such path.
    pub(crate) fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message)
    }

    pub(crate) fn method_not_allowed(method: &str) -> Self {
        let message = format!("the server does not allow {method} on the requested resource");
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let what = resource.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// Another manager owns fields that an apply sets to something else.
    pub(crate) fn apply_conflict(fields: &[(String, String)]) -> Self {
        let causes: Vec<Value> = fields
            .iter()
            .map(|(manager, field)| {
                let message = format!("conflict with \"{manager}\"");
                json!({"reason": "FieldManagerConflict", "message": message, "field": field})
            })
            .collect();
        let listed: Vec<String> = fields
            .iter()
            .map(|(manager, field)| format!("conflict with \"{manager}\": {field}"))
            .collect();
        let (count, noun) = match fields.len() {
            1 => (1, "conflict"),
            n => (n, "conflicts"),
        };
        let message = format!("Apply failed with {count} {noun}: {}", listed.join("; "));
        let mut error = Self::new(409, "Conflict", message);
        error.details = json!({"causes": causes});
        error
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn unsupported_media_type(given: &str) -> Self {
        let message = format!("the body of the request was in an unknown format: {given}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The object is not valid; each problem with its field.
    pub(crate) fn invalid(kind: &str, group: &str, name: &str, problems: &[Problem]) -> Self {
        let causes: Vec<Value> = problems
            .iter()
            .map(|p| json!({"reason": p.reason, "message": p.message, "field": p.field}))
            .collect();
        let listed: Vec<String> = problems
            .iter()
            .map(|p| format!("{}: {}", p.field, p.message))
            .collect();
        let what = match group {
            "" => kind.to_owned(),
            group => format!("{kind}.{group}"),
        };
        let message = match listed.as_slice() {
            [one] => format!("{what} \"{name}\" is invalid: {one}"),
            more => format!("{what} \"{name}\" is invalid: [{}]", more.join(", ")),
        };
        let mut error = Self::new(422, "Invalid", message);
        error.details = json!({"name": name, "group": group, "kind": kind, "causes": causes});
        error
    }

    /// The error on the wire.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let (Some(status), false) = (status.as_object_mut(), self.details.is_null()) {
            status.insert("details".to_owned(), self.details.clone());
        }
        status
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    field: String,
    reason: &'static str,
    message: String,
}

impl Problem {
    pub(crate) fn required(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message: "Required value".to_owned(),
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &str, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: \"{value}\": {why}"),
        }
    }

    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {why}"),
        }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: \"{value}\""),
        }
    }
}
