//! Methods and their parameters, in both spellings.

use rune_a2a::{Call, ErrorKind, Operation, ProtocolVersion, PushConfigRef};
use serde_json::{Value, json};

fn message() -> Value {
    json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]})
}

fn message_v03() -> Value {
    json!({"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]})
}

fn refused(method: &str, params: &Value) -> (ErrorKind, String) {
    let error = Call::decode(method, params).unwrap_err();
    let field = error.violation().map(|violation| violation.field.clone());
    (error.kind(), field.unwrap_or_default())
}

#[test]
fn both_spellings_ask_for_the_same() {
    let new = Call::decode("SendMessage", &json!({"message": message()})).unwrap();
    let old = Call::decode("message/send", &json!({"message": message_v03()})).unwrap();
    assert_eq!(new.operation, old.operation);
    assert_eq!(
        (new.version, old.version),
        (ProtocolVersion::V1, ProtocolVersion::V03)
    );
    let configured = json!({
        "message": message_v03(),
        "configuration": {
            "blocking": false, "historyLength": 0,
            "pushNotificationConfig": {
                "url": "https://example.org/hook",
                "authentication": {"schemes": ["Bearer", "Basic"], "credentials": "c"},
            },
        },
    });
    let call = Call::decode("message/stream", &configured).unwrap();
    let Operation::SendStreamingMessage(send) = call.operation else {
        panic!("{:?}", call.operation);
    };
    assert!(send.return_immediately);
    assert_eq!(send.history_length, Some(0));
    let push = send.push.unwrap();
    assert_eq!(push.authentication.unwrap().scheme, "Bearer");
    let named = json!({"id": "t", "pushNotificationConfigId": "p"});
    let call = Call::decode("tasks/pushNotificationConfig/get", &named).unwrap();
    let expected = PushConfigRef {
        task_id: "t".to_owned(),
        id: Some("p".to_owned()),
    };
    assert_eq!(call.operation, Operation::GetPushConfig(expected.clone()));
    let named = json!({"taskId": "t", "id": "p"});
    let call = Call::decode("DeleteTaskPushNotificationConfig", &named).unwrap();
    assert_eq!(call.operation, Operation::DeletePushConfig(expected));
}

#[test]
fn a_wrong_parameter_is_named() {
    use ErrorKind::{InvalidParams, MethodNotFound};
    let with = |key: &str, value: Value| {
        let mut message = message();
        message[key] = value;
        json!({"message": message})
    };
    for (method, params, kind, field) in [
        ("Nothing", json!({}), MethodNotFound, ""),
        ("tasks/list", json!({}), MethodNotFound, ""),
        ("SendMessage", json!({}), InvalidParams, "message"),
        (
            "SendMessage",
            with("role", json!("user")),
            InvalidParams,
            "message.role",
        ),
        (
            "SendMessage",
            with("parts", json!([])),
            InvalidParams,
            "message.parts",
        ),
        (
            "SendMessage",
            with("parts", json!([{}])),
            InvalidParams,
            "message.parts[0]",
        ),
        (
            "SendMessage",
            with("parts", json!([{"text": "a", "url": "b"}])),
            InvalidParams,
            "message.parts[0]",
        ),
        (
            "SendMessage",
            with("parts", json!([{"raw": "***"}])),
            InvalidParams,
            "message.parts[0].raw",
        ),
        (
            "SendMessage",
            with("messageId", json!("")),
            InvalidParams,
            "message.messageId",
        ),
        (
            "SendMessage",
            with("messageId", json!("x".repeat(300))),
            InvalidParams,
            "message.messageId",
        ),
        (
            "message/send",
            json!({"message": message()}),
            InvalidParams,
            "message.role",
        ),
        ("GetTask", json!({}), InvalidParams, "id"),
        (
            "GetTask",
            json!({"id": "t", "historyLength": -1}),
            InvalidParams,
            "historyLength",
        ),
        (
            "ListTasks",
            json!({"pageSize": 0}),
            InvalidParams,
            "pageSize",
        ),
        (
            "ListTasks",
            json!({"pageSize": 101}),
            InvalidParams,
            "pageSize",
        ),
        (
            "ListTasks",
            json!({"status": "done"}),
            InvalidParams,
            "status",
        ),
        (
            "ListTasks",
            json!({"statusTimestampAfter": "now"}),
            InvalidParams,
            "statusTimestampAfter",
        ),
        (
            "GetTaskPushNotificationConfig",
            json!({"taskId": "t"}),
            InvalidParams,
            "id",
        ),
        (
            "tasks/pushNotificationConfig/delete",
            json!({"id": "t"}),
            InvalidParams,
            "pushNotificationConfigId",
        ),
        (
            "CreateTaskPushNotificationConfig",
            json!({"taskId": "t"}),
            InvalidParams,
            "url",
        ),
    ] {
        assert_eq!(
            refused(method, &params),
            (kind, field.to_owned()),
            "{method} {params}"
        );
    }
}

#[test]
fn a_list_has_defaults_and_unspecified_is_no_condition() {
    let params = json!({"status": "TASK_STATE_UNSPECIFIED", "contextId": ""});
    let Operation::ListTasks(list) = Call::decode("ListTasks", &params).unwrap().operation else {
        panic!("no list");
    };
    assert_eq!(
        (list.status, list.context_id, list.page_size),
        (None, None, 50)
    );
    assert!(!list.include_artifacts);
}
