//! Encoding and decoding are each other's inverse.

use proptest::prelude::*;
use rune_a2a::{Content, Message, Part, ProtocolVersion, PushConfig, StreamEvent, Task};
use serde_json::json;

use crate::values;

/// What 0.3 has a place for: names and types of files, but not of text and data.
fn in_v03(part: &mut Part) {
    if matches!(part.content, Content::Text(_) | Content::Data(_)) {
        (part.media_type, part.filename) = (None, None);
    }
}

fn message_in_v03(message: &mut Message) {
    message.parts.iter_mut().for_each(in_v03);
}

fn task_in_v03(task: &mut Task) {
    task.history.iter_mut().for_each(message_in_v03);
    task.status.message.iter_mut().for_each(message_in_v03);
    let parts = task.artifacts.iter_mut().flat_map(|it| &mut it.parts);
    parts.for_each(in_v03);
}

fn event_in_v03(event: &mut StreamEvent) {
    match event {
        StreamEvent::Task(task) => task_in_v03(task),
        StreamEvent::Message(message) => message_in_v03(message),
        StreamEvent::Status(update) => {
            update.status.message.iter_mut().for_each(message_in_v03);
        }
        StreamEvent::Artifact(update) => update.artifact.parts.iter_mut().for_each(in_v03),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_event_survives_1_0(event in values::event()) {
        let wire = event.encode(ProtocolVersion::V1);
        prop_assert_eq!(StreamEvent::decode(ProtocolVersion::V1, &wire).unwrap(), event);
    }

    #[test]
    fn an_event_survives_0_3(mut event in values::event()) {
        event_in_v03(&mut event);
        let wire = event.encode(ProtocolVersion::V03);
        prop_assert_eq!(StreamEvent::decode(ProtocolVersion::V03, &wire).unwrap(), event);
    }

    #[test]
    fn a_webhook_survives_both(push in values::push()) {
        for version in ProtocolVersion::ALL {
            let wire = push.encode(version);
            prop_assert_eq!(&PushConfig::decode(version, &wire).unwrap(), &push);
        }
    }
}

#[test]
fn both_forms_are_those_of_the_specifications() {
    let part = Part::new(Content::Raw(vec![1, 2, 3]))
        .named("a.bin")
        .of_type("image/png");
    assert_eq!(
        part.encode(ProtocolVersion::V1),
        json!({"raw": "AQID", "filename": "a.bin", "mediaType": "image/png"})
    );
    assert_eq!(
        part.encode(ProtocolVersion::V03),
        json!({"kind": "file", "file": {"bytes": "AQID", "name": "a.bin", "mimeType": "image/png"}})
    );
    let list = Part::data(json!([1, 2]));
    assert_eq!(list.encode(ProtocolVersion::V1), json!({"data": [1, 2]}));
    assert_eq!(
        list.encode(ProtocolVersion::V03),
        json!({"kind": "data", "data": {"value": [1, 2]}, "metadata": {"data_part_compat": true}})
    );
}
