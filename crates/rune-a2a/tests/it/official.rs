//! The official types of 1.0 as a second opinion.

use proptest::prelude::*;
use rune_a2a::{Call, Operation, ProtocolVersion, PushConfig, StreamEvent, Task};
use serde_json::{Value, json};

use crate::values;

fn through<T: serde::de::DeserializeOwned + serde::Serialize>(wire: &Value) -> Value {
    let official: T = serde_json::from_value(wire.clone()).unwrap();
    serde_json::to_value(official).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn they_read_and_write_the_same_tasks(task in values::task()) {
        let wire = through::<a2a::Task>(&task.encode(ProtocolVersion::V1));
        prop_assert_eq!(Task::decode(ProtocolVersion::V1, &wire).unwrap(), task);
    }

    #[test]
    fn they_read_and_write_the_same_events(event in values::event()) {
        let wire = through::<a2a::StreamResponse>(&event.encode(ProtocolVersion::V1));
        prop_assert_eq!(StreamEvent::decode(ProtocolVersion::V1, &wire).unwrap(), event);
    }

    #[test]
    fn they_read_and_write_the_same_webhooks(push in values::push()) {
        let wire = through::<a2a::TaskPushNotificationConfig>(&push.encode(ProtocolVersion::V1));
        prop_assert_eq!(PushConfig::decode(ProtocolVersion::V1, &wire).unwrap(), push);
    }

    #[test]
    fn a_message_that_they_send_is_read(message in values::message(), now in any::<bool>()) {
        let request = json!({
            "message": message.encode(ProtocolVersion::V1),
            "configuration": {"returnImmediately": now, "historyLength": 3},
            "tenant": "acme",
        });
        let wire = through::<a2a::SendMessageRequest>(&request);
        let call = Call::decode(a2a::jsonrpc::methods::SEND_MESSAGE, &wire).unwrap();
        prop_assert_eq!(call.tenant.as_deref(), Some("acme"));
        let Operation::SendMessage(send) = call.operation else {
            panic!("{:?}", call.operation);
        };
        prop_assert_eq!(send.message, message);
        prop_assert_eq!((send.return_immediately, send.history_length), (now, Some(3)));
    }
}
