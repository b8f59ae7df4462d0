//! The JSON-RPC envelope.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::{A2aError, ErrorKind, ProtocolVersion};

/// The longest id of a call in bytes.
const MAX_RPC_ID_BYTES: usize = 256;

/// How the client names a call: a text, a number, or nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RpcId(Value);

impl RpcId {
    /// As an answer has it.
    #[must_use]
    pub const fn as_value(&self) -> &Value {
        &self.0
    }
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcRequest {
    /// How the client names it.
    pub id: RpcId,
    /// What is called.
    pub method: String,
    /// With what.
    pub params: Value,
}

/// A body that is no call, and what of it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct NoCall {
    /// How the client names it, where that could be read.
    pub id: RpcId,
    /// The version that its method is spelled as, where it has one.
    pub version: ProtocolVersion,
    /// What is wrong.
    pub error: A2aError,
}

impl RpcRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ErrorKind::Parse`] and [`ErrorKind::InvalidRequest`], with the id as far as it is known.
    pub fn parse(body: &[u8]) -> Result<Self, Box<NoCall>> {
        let no_call = |id: RpcId, method: Option<&str>, error: A2aError| {
            Box::new(NoCall {
                id,
                version: method.map_or(ProtocolVersion::V1, ProtocolVersion::of_method),
                error,
            })
        };
        // Checked first, so that a body that is no JSON is told from one that nests too deep.
        if let Err(error) = serde_json::from_slice::<&RawValue>(body) {
            let message = format!("the body is not JSON: {error}");
            let error = A2aError::new(ErrorKind::Parse, message);
            return Err(no_call(RpcId::default(), None, error));
        }
        let invalid = |message: &str| A2aError::new(ErrorKind::InvalidRequest, message);
        let mut object = match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(object)) => object,
            Ok(Value::Array(_)) => {
                let error = invalid("batches of calls are not taken");
                return Err(no_call(RpcId::default(), None, error));
            }
            Ok(_) => {
                let error = invalid("a call is an object");
                return Err(no_call(RpcId::default(), None, error));
            }
            Err(error) => {
                let error = invalid(&format!("the body cannot be read: {error}"));
                return Err(no_call(RpcId::default(), None, error));
            }
        };
        let method = object.get("method").and_then(Value::as_str);
        let method = method.map(str::to_owned);
        let id = match read_id(&object) {
            Ok(id) => id,
            Err(error) => return Err(no_call(RpcId::default(), method.as_deref(), error)),
        };
        if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            let error = invalid("`jsonrpc` has to be \"2.0\"");
            return Err(no_call(id, method.as_deref(), error));
        }
        let Some(method) = method.filter(|method| !method.is_empty()) else {
            return Err(no_call(id, None, invalid("`method` has to be a text")));
        };
        let params = match object.remove("params") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(params @ Value::Object(_)) => params,
            Some(_) => {
                let error = A2aError::invalid("", "`params` has to be an object");
                return Err(no_call(id, Some(&method), error));
            }
        };
        Ok(Self { id, method, params })
    }
}

fn read_id(object: &Map<String, Value>) -> Result<RpcId, A2aError> {
    match object.get("id") {
        // A2A has no notifications: every call is answered.
        None => Ok(RpcId::default()),
        Some(Value::String(text)) if text.len() > MAX_RPC_ID_BYTES => Err(A2aError::new(
            ErrorKind::InvalidRequest,
            format!("`id` may have {MAX_RPC_ID_BYTES} bytes"),
        )),
        Some(id @ (Value::Null | Value::String(_) | Value::Number(_))) => Ok(RpcId(id.clone())),
        Some(_) => Err(A2aError::new(
            ErrorKind::InvalidRequest,
            "`id` has to be a text or a number",
        )),
    }
}

/// The answer to a call.
#[must_use]
pub fn rpc_result(id: &RpcId, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.0, "result": result})
}

/// The answer to a call that did not work.
#[must_use]
pub fn rpc_error(id: &RpcId, version: ProtocolVersion, error: &A2aError) -> Value {
    json!({"jsonrpc": "2.0", "id": id.0, "error": error.to_rpc(version)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (Value, ErrorKind) {
        let refused = RpcRequest::parse(body.as_bytes()).unwrap_err();
        (refused.id.as_value().clone(), refused.error.kind())
    }

    #[test]
    fn a_call_has_an_id_a_method_and_parameters() {
        let call = RpcRequest::parse(br#"{"jsonrpc":"2.0","id":7,"method":"GetTask"}"#).unwrap();
        assert_eq!(
            (call.id.as_value(), call.method.as_str()),
            (&json!(7), "GetTask")
        );
        assert_eq!(call.params, json!({}));
        let null =
            RpcRequest::parse(br#"{"jsonrpc":"2.0","id":null,"method":"a/b","params":null}"#);
        assert_eq!(null.unwrap().params, json!({}));
        let unnamed = RpcRequest::parse(br#"{"jsonrpc":"2.0","method":"x"}"#).unwrap();
        assert_eq!(unnamed.id, RpcId::default());
    }

    #[test]
    fn anything_else_is_refused_with_what_is_known_of_it() {
        let null = Value::Null;
        for (body, id, kind) in [
            ("{", &null, ErrorKind::Parse),
            ("", &null, ErrorKind::Parse),
            ("[]", &null, ErrorKind::InvalidRequest),
            ("3", &null, ErrorKind::InvalidRequest),
            (
                r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
                &null,
                ErrorKind::InvalidRequest,
            ),
            (
                r#"{"jsonrpc":"1.0","id":"a","method":"x"}"#,
                &json!("a"),
                ErrorKind::InvalidRequest,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
                &json!(1),
                ErrorKind::InvalidRequest,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#,
                &json!(1),
                ErrorKind::InvalidParams,
            ),
        ] {
            assert_eq!(refused(body), (id.clone(), kind), "{body}");
        }
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{deep}}}}}"#);
        assert_eq!(refused(&deep).1, ErrorKind::InvalidRequest);
    }

    #[test]
    fn an_error_of_a_call_is_in_the_version_of_its_method() {
        let body = br#"{"jsonrpc":"1.0","id":1,"method":"message/send"}"#;
        assert_eq!(
            RpcRequest::parse(body).unwrap_err().version,
            ProtocolVersion::V03
        );
    }
}
