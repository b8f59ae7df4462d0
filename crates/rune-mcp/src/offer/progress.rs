//! How far a call is: the events of its request as progress notifications.

use std::time::Duration;

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RoleServer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::source::RunEvent;
use crate::limits;
use crate::listing::clean;

/// After this long without an event a client is told that the agent works on: many stop waiting after a minute.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Reports that may wait for a slow client; further ones are left out.
const WAITING: usize = 64;
/// How long the last reports are waited for at the end of a call.
const LAST: Duration = Duration::from_secs(1);

/// Takes reports, and never waits for a client.
pub(crate) struct Reports {
    sender: Option<mpsc::Sender<String>>,
}

impl Reports {
    /// Reports something that has happened.
    pub(crate) fn tell(&self, message: String) {
        if let Some(sender) = &self.sender {
            // One that is left out is no loss: the next one says more.
            let _ = sender.try_send(message);
        }
    }
}

/// Does the work of a call while what it reports is sent to the client that gave the token.
pub(crate) async fn reporting<T>(
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    work: impl AsyncFnOnce(Reports) -> T,
) -> T {
    let Some(token) = token else {
        return work(Reports { sender: None }).await;
    };
    let (sender, mut waiting) = mpsc::channel::<String>(WAITING);
    let sending = async {
        let mut progress = 0.0;
        while let Some(message) = waiting.recv().await {
            progress += 1.0;
            let report = ProgressNotificationParam::new(token.clone(), progress);
            // A client that is gone is noticed by the call.
            let _ = peer.notify_progress(report.with_message(message)).await;
        }
    };
    let work = work(Reports {
        sender: Some(sender),
    });
    tokio::pin!(sending, work);
    let mut sent = false;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            () = &mut sending, if !sent => sent = true,
        }
    };
    if !sent {
        // A client that does not take them gets its answer all the same.
        let _ = timeout(LAST, sending).await;
    }
    done
}

/// What an event says for a person; nothing where it is part of the answer, or of no interest.
pub(crate) fn describe(event: &RunEvent) -> Option<String> {
    let text = |field: &str| event.text(field);
    let message = match event.name.as_str() {
        "started" if event.data["attempt"].as_u64() > Some(1) => {
            "goes on after an interruption".to_owned()
        }
        "started" => "started".to_owned(),
        "usage" => {
            let step = &event.data["step"];
            format!("model call {step} done ({})", text("model"))
        }
        "model_failed" => format!("the model of {} failed", text("provider")),
        "compacted" => "the older part of the conversation was summarised".to_owned(),
        "tool_start" => format!("uses {}", text("name")),
        "tool_progress" => match event.data["message"].as_str() {
            Some(message) => format!("{}: {message}", text("name")),
            None => format!("{}: {}", text("name"), event.data["progress"]),
        },
        "tool_done" if event.data["error"].is_object() => {
            let failed = event.data["error"]["message"].as_str().unwrap_or_default();
            format!("{} failed: {failed}", text("name"))
        }
        "tool_done" => format!("{} done", text("name")),
        "agent_call" => format!("asks the agent {}", text("agent")),
        "step_started" => format!("step {} started", text("step")),
        "step_finished" => format!("step {}: {}", text("step"), text("status")),
        "approval_required" => format!("waits for a person to decide about {}", text("tool")),
        "approval_given" => match &event.data["decision"] {
            Value::String(decision) if decision == "approve" => "a person has approved".to_owned(),
            _ => "a person has denied".to_owned(),
        },
        "notice" => text("message").to_owned(),
        "cancel_requested" => "is being cancelled".to_owned(),
        _ => return None,
    };
    Some(clean(&message, limits::PROGRESS_CHARS))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, data: Value, expected: Option<&str>) {
        let event = RunEvent {
            seq: None,
            name: name.to_owned(),
            data,
        };
        assert_eq!(describe(&event).as_deref(), expected, "{name}");
    }

    #[test]
    fn events_are_told_in_a_line_each() {
        check("started", json!({"attempt": 1}), Some("started"));
        check(
            "started",
            json!({"attempt": 2}),
            Some("goes on after an interruption"),
        );
        check("token", json!({"text": "a"}), None);
        check("done", json!({}), None);
        check(
            "tool_start",
            json!({"name": "rune@web-fetch"}),
            Some("uses rune@web-fetch"),
        );
        let failed = json!({"name": "x", "error": {"code": "timeout", "message": "too slow"}});
        check("tool_done", failed, Some("x failed: too slow"));
        check(
            "tool_done",
            json!({"name": "x", "output": null}),
            Some("x done"),
        );
        check(
            "tool_progress",
            json!({"name": "x", "progress": 0.5}),
            Some("x: 0.5"),
        );
        check(
            "step_finished",
            json!({"step": "a", "status": "completed"}),
            Some("step a: completed"),
        );
        check(
            "approval_given",
            json!({"decision": "deny"}),
            Some("a person has denied"),
        );
        check(
            "usage",
            json!({"step": 2, "model": "m"}),
            Some("model call 2 done (m)"),
        );
    }
}
