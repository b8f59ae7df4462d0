//! What is left of a tool that wants more than it is granted: an entry in the journal that says why it failed, and nothing
//! that runs. The lists of such tools are with the tests of each runtime.

use serde_json::Value;

use crate::home::Served;
use crate::wire::{Api, Event};

/// A call of a hostile tool, the code of its failure, and a part of the reason.
pub(crate) type Attempt<'a> = (&'a str, Value, &'a str, &'a str);

/// The entry of a tool's result in the journal of a request.
pub(crate) async fn entry(api: &Api, id: &str) -> Event {
    let events = api.events(id, 0).await.rest().await;
    let mut done = events.iter().filter(|event| event.name == "tool_done");
    let entry = done.next().cloned();
    assert!(entry.is_some(), "no tool was called: {events:?}");
    assert!(done.next().is_none(), "{events:?}");
    // Journal entries have a number, whatever else is told has none.
    assert!(entry.as_ref().unwrap().id.is_some(), "{entry:?}");
    entry.unwrap()
}

/// Has the offline model of an agent call each of the tools. Every call fails with its code and reason in the journal, the
/// request goes on without it, `gone` finds nothing of it running, and all that is still there after a crash.
pub(crate) async fn assert_fail_closed(
    served: &mut Served,
    agent: &str,
    attempts: &[Attempt<'_>],
    gone: impl AsyncFn(&str),
) {
    let mut wrong = Vec::new();
    let mut entries = Vec::new();
    for (tool, input, code, reason) in attempts {
        let api = Api::of(&served.0);
        let id = api.start(agent, &format!("/tool {tool} {input}")).await;
        let ended = api.ended(&id).await;
        assert_eq!(ended["status"], "completed", "{tool}: {ended}");
        let entry = entry(&api, &id).await;
        let error = &entry.data["error"];
        let message = error["message"].as_str().unwrap_or_default();
        if error["code"] != *code || !message.contains(reason) {
            wrong.push(format!(
                "{tool}: expected {code}, {reason}; got {}",
                entry.data
            ));
        }
        gone(&id).await;
        entries.push((id, entry));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    for (id, before) in &entries {
        assert_eq!(&entry(&api, id).await, before);
        let shown = served.rune(&["requests", "events", id, "-o", "json"]).ok();
        let message = before.data["error"]["message"].to_string();
        assert!(shown.contains(&message), "{message}: {shown}");
    }
}
