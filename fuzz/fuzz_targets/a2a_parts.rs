//! What an A2A client sends: an envelope is a call or a clear error; a value that is read is written and read back as it was, in
//! either version.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_a2a::{
    A2aError, Call, Message, ProtocolVersion, PushConfig, RpcRequest, StreamEvent, Task, rpc_error,
};
use serde_json::Value;

fn said(error: &A2aError, version: ProtocolVersion) {
    assert!(!error.message().is_empty());
    let rpc = error.to_rpc(version);
    assert!(rpc["code"].is_i64() && rpc["data"].is_array());
    assert!((400..600).contains(&error.kind().http_status()));
}

fn call(method: &str, params: &Value) {
    if let Err(error) = Call::decode(method, params) {
        said(&error, ProtocolVersion::of_method(method));
    }
}

const METHODS: [&str; 21] = [
    "SendMessage",
    "SendStreamingMessage",
    "GetTask",
    "ListTasks",
    "CancelTask",
    "SubscribeToTask",
    "CreateTaskPushNotificationConfig",
    "GetTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig",
    "GetExtendedAgentCard",
    "message/send",
    "message/stream",
    "tasks/get",
    "tasks/cancel",
    "tasks/resubscribe",
    "tasks/pushNotificationConfig/set",
    "tasks/pushNotificationConfig/get",
    "tasks/pushNotificationConfig/list",
    "tasks/pushNotificationConfig/delete",
    "agent/getAuthenticatedExtendedCard",
];

fuzz_target!(|data: &[u8]| {
    match RpcRequest::parse(data) {
        Ok(request) => call(&request.method, &request.params),
        Err(refused) => {
            said(&refused.error, refused.version);
            let answer = rpc_error(&refused.id, refused.version, &refused.error);
            assert_eq!(answer["jsonrpc"], "2.0");
        }
    }
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    for method in METHODS {
        call(method, &value);
    }
    for version in ProtocolVersion::ALL {
        if let Ok(message) = Message::decode(version, &value) {
            let again = Message::decode(version, &message.encode(version));
            assert_eq!(again.unwrap(), message);
            // The other version has a form for it, too.
            let other = match version {
                ProtocolVersion::V1 => ProtocolVersion::V03,
                ProtocolVersion::V03 => ProtocolVersion::V1,
            };
            Message::decode(other, &message.encode(other)).unwrap();
        }
        if let Ok(task) = Task::decode(version, &value) {
            assert_eq!(Task::decode(version, &task.encode(version)).unwrap(), task);
        }
        if let Ok(event) = StreamEvent::decode(version, &value) {
            assert_eq!(StreamEvent::decode(version, &event.encode(version)).unwrap(), event);
        }
        if let Ok(push) = PushConfig::decode(version, &value) {
            assert_eq!(PushConfig::decode(version, &push.encode(version)).unwrap(), push);
        }
    }
});
