//! Label and field selectors.

use serde_json::Value;

use crate::object::text;
use crate::status::{ApiError, ApiResult};

/// Which objects a list or a watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// Dotted path, whether it must be equal, value.
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Fields that every kind can be selected by, and those of some kinds.
const FIELDS: &[(&str, &[&str])] = &[
    ("", &["metadata.name", "metadata.namespace"]),
    (
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
    ),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("secrets", &["type"]),
    ("namespaces", &["status.phase"]),
];

impl Selector {
    pub(crate) fn parse(plural: &str, labels: &str, fields: &str) -> ApiResult<Self> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(plural, fields)?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            let labels = object.pointer("/metadata/labels");
            labels.and_then(|l| l.get(key)).and_then(Value::as_str)
        };
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|is| values.iter().any(|v| v == is))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|is| values.iter().all(|v| v != is))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        labels
            && self.fields.iter().all(|(path, equal, value)| {
                let pointer = format!("/{}", path.replace('.', "/"));
                (text(object, &pointer) == value) == *equal
            })
    }
}

fn parse_labels(text: &str) -> ApiResult<Vec<Requirement>> {
    let mut requirements = Vec::new();
    for part in split_outside_parentheses(text) {
        let part = part.trim();
        if part.is_empty() {
            continue;
        }
        let requirement = parse_requirement(part)
            .ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: {part}")))?;
        requirements.push(requirement);
    }
    Ok(requirements)
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    if let Some(open) = part.find('(') {
        let values = part.get(open + 1..)?.strip_suffix(')')?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = part.get(..open)?.split_whitespace();
        let key = words.next()?.to_owned();
        return match words.next()? {
            "in" => Some(Requirement::In(key, values)),
            "notin" => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    let own = |key: &str| key.trim().to_owned();
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(own(key), vec![own(value)]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(own(key), vec![own(value)]));
    }
    match part.strip_prefix('!') {
        Some(key) => Some(Requirement::Absent(own(key))),
        None if part.contains(char::is_whitespace) => None,
        None => Some(Requirement::Exists(own(part))),
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn parse_fields(plural: &str, text: &str) -> ApiResult<Vec<(String, bool, String)>> {
    let mut fields = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let not = part.split_once("!=").map(|(k, v)| (k, false, v));
        let is = || {
            let is = part.split_once("==").or_else(|| part.split_once('='));
            is.map(|(k, v)| (k, true, v))
        };
        let (key, equal, value) = not.or_else(is).ok_or_else(|| {
            ApiError::bad_request(format!(
                "invalid field selector {part}: can't understand it"
            ))
        })?;
        let known = FIELDS
            .iter()
            .any(|(of, names)| (of.is_empty() || *of == plural) && names.contains(&key));
        if !known {
            let message = format!("field label not supported: {key}");
            return Err(ApiError::bad_request(message));
        }
        fields.push((key.to_owned(), equal, value.to_owned()));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Selector;

    #[track_caller]
    fn check(labels: &str, fields: &str, expected: bool) {
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "rune", "tier": "back"}},
            "spec": {"nodeName": "one"},
        });
        let selector = Selector::parse("pods", labels, fields).unwrap();
        assert_eq!(selector.matches(&pod), expected, "{labels} {fields}");
    }

    #[test]
    fn selects_by_labels_and_fields() {
        check("", "", true);
        check("app=rune,tier==back", "", true);
        check("app=other", "", false);
        check("app!=other,missing!=x", "", true);
        check("app in (rune, other),tier notin (front)", "", true);
        check("app in (other)", "", false);
        check("tier,!missing", "", true);
        check("!tier", "", false);
        check("", "metadata.name=a,spec.nodeName!=two", true);
        check("", "spec.nodeName=", false);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (labels, fields) in [("a b c", ""), ("a within (b)", ""), ("", "spec.color=red")] {
            assert!(Selector::parse("pods", labels, fields).is_err());
        }
    }
}
