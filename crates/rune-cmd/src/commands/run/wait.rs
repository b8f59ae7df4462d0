//! Waiting for a deployment.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Api, Client, part};
use crate::failure::{Exit, Failure, Outcome};

/// How often the deployment is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait for a rollout that does not get on. It comes to an end by itself, but in a cluster an image may have to be
/// pulled first.
const ROLLOUT_PATIENCE: Duration = Duration::from_secs(320);

/// How long a deployment is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// So long while it does not get on, and as often as it has replicas: they may be replaced one after the other.
    Still(Duration),
    /// So long in all.
    Whole(Duration),
}

impl Patience {
    /// Whether it has ended for a deployment that has been waited for so long, and has been as it is for so long.
    fn is_over(self, row: &Value, waited: Duration, still: Duration) -> bool {
        let limit = match self {
            Self::Whole(limit) => return waited >= limit,
            Self::Still(limit) if is_under_way(row) => limit.max(ROLLOUT_PATIENCE),
            Self::Still(limit) => limit,
        };
        let replicas = row["replicas"].as_u64().unwrap_or_default();
        let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
        still >= limit || waited >= limit.saturating_mul(replicas.max(1))
    }
}

/// Waits until a deployment is ready with what was deployed, or says why it is not.
pub(crate) async fn wait(client: &Client, deployment: Value, patience: Patience) -> Outcome<Value> {
    let ready = wait_unchanged(client, deployment, patience).await?;
    let rollout = &ready["rollout"];
    if rollout["state"] != "rolled_back" {
        return Ok(ready);
    }
    // Deploying leaves no earlier one in the row.
    let why = rollout["reason"].as_str().unwrap_or_default();
    let message = format!("the deployment went back to what it ran before: {why}");
    let name = ready["agent"].as_str().unwrap_or("NAME");
    let help = format!("repair it and run this again; `rune rollout status {name}` shows more");
    Err(Failure::new(Exit::Failed, message).help(help))
}

/// Waits until a deployment is ready with whatever it runs, or says why it is not.
pub(crate) async fn wait_unchanged(
    client: &Client,
    deployment: Value,
    patience: Patience,
) -> Outcome<Value> {
    let id = deployment["id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/v1/deployments/{}", part(&id));
    let begun = Instant::now();
    let mut since = begun;
    let mut row = deployment;
    let mut look = tokio::time::interval(POLL);
    loop {
        let reason = row["reason"].as_str().unwrap_or_default();
        let is_rolling = is_under_way(&row) && row["rollout"]["strategy"] == "rolling";
        // The deployment is ready all the while that a canary of it starts.
        let is_starting =
            is_under_way(&row) && !is_rolling && row["rollout"]["ready_replicas"] == 0;
        match row["state"].as_str().unwrap_or_default() {
            "ready" | "stopped" if !is_rolling && !is_starting => return Ok(row),
            "failed" => {
                let message = format!("the deployment failed: {reason}");
                let help = format!("repair it and run this again, or remove it: rune rm {id}");
                return Err(Failure::new(Exit::Failed, message).help(help));
            }
            state if patience.is_over(&row, begun.elapsed(), since.elapsed()) => {
                let secs = begun.elapsed().as_secs();
                let message = match is_starting {
                    true => format!("the canary has no replica yet after {secs} s"),
                    false => format!("the deployment is still {state} after {secs} s: {reason}"),
                };
                return Err(Failure::new(Exit::Unavailable, message)
                    .help("`rune status` shows its state, `rune debug` the daemon's log"));
            }
            _ => {}
        }
        look.tick().await;
        let next = client.get(Api::ControlPlane, &path).await?;
        // Where a rollout has just ended, what was said of it is not what is said of its end.
        let stands = |row: &Value| (row["reason"].clone(), row["rollout"]["state"].clone());
        if stands(&next) != stands(&row) {
            since = Instant::now();
        }
        row = next;
    }
}

fn is_under_way(row: &Value) -> bool {
    row["rollout"]["state"] == "progressing"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_gets_on_is_waited_for_as_often_as_there_are_replicas() {
        let patience = Patience::Still(SECOND * 30);
        let row = json!({"replicas": 8});
        assert!(!patience.is_over(&row, SECOND * 200, SECOND * 29));
        assert!(patience.is_over(&row, SECOND * 200, SECOND * 30));
        assert!(patience.is_over(&row, SECOND * 240, SECOND));
        let stopped = json!({"replicas": 0});
        assert!(patience.is_over(&stopped, SECOND * 30, SECOND));
    }

    #[test]
    fn a_rollout_is_waited_for_until_it_ends_unless_somebody_says_how_long() {
        let row = json!({"replicas": 1, "rollout": {"state": "progressing"}});
        let patience = Patience::Still(SECOND * 30);
        assert!(!patience.is_over(&row, SECOND * 300, SECOND * 300));
        assert!(patience.is_over(&row, ROLLOUT_PATIENCE, ROLLOUT_PATIENCE));
        let patience = Patience::Whole(SECOND * 5);
        assert!(patience.is_over(&row, SECOND * 5, SECOND));
    }
}
