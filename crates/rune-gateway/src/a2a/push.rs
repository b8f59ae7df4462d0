//! Webhooks of tasks: kept encrypted, told when a task waits for its client or has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use rune_a2a::{A2aError, ProtocolVersion, PushAuthentication, PushConfig, StreamEvent};
use rune_runtime::{Engine, SecretVault};
use rune_store_runtime::{PushRow, PutPush, RequestId, SettlePush, StoreError};
use rune_tools::{CheckedResolver, EgressPolicy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::answer::failure;
use super::find;

/// Longest time for a webhook to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// After this many failures in a row a webhook is given up, until there is something new to tell.
const MAX_ATTEMPTS: u32 = 8;
/// Pause after the first failure; doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Webhooks that are told at the same time at the most.
const AT_ONCE: u32 = 16;
/// Pause after the store did not answer.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// The header with the token of a webhook.
const TOKEN: HeaderName = HeaderName::from_static("x-a2a-notification-token");
/// What the encrypted webhooks are bound to, with their request and id.
const SEALED_FOR: &str = "a2a.push";

/// A webhook as it is kept, encrypted.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the registration: its form is that of what is sent.
    version: String,
    /// Where the gateway is, as the client saw it.
    base: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<String>,
}

/// The webhooks of tasks.
pub(crate) struct Pushes {
    engine: Engine,
    vault: SecretVault,
    policy: Arc<EgressPolicy>,
    client: Client,
    /// Fires when a webhook was added.
    added: Notify,
    /// Whether there may be a webhook that is not done with.
    open: AtomicBool,
}

impl Pushes {
    /// Webhooks where the policy allows them.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(crate) fn new(
        engine: Engine,
        vault: SecretVault,
        policy: EgressPolicy,
    ) -> reqwest::Result<Self> {
        let policy = Arc::new(policy);
        let client = Client::builder()
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(CheckedResolver::new(Arc::clone(&policy))))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(ANSWER_TIMEOUT)
            .build()?;
        Ok(Self {
            engine,
            vault,
            policy,
            client,
            added: Notify::new(),
            open: AtomicBool::new(true),
        })
    }

    /// Whether a webhook may be there. A name is looked at when it is resolved.
    ///
    /// # Errors
    /// `InvalidParams`.
    pub(crate) fn check(&self, push: &PushConfig) -> Result<(), A2aError> {
        let wrong = |why: String| A2aError::invalid("url", why);
        let url = Url::parse(&push.url).map_err(|error| wrong(error.to_string()))?;
        self.policy
            .check_url(&url)
            .map_err(|error| wrong(error.to_string()))?;
        let authorization = push.authentication.as_ref().map(authorization);
        let parts = [authorization.as_deref(), push.token.as_deref()];
        if parts
            .into_iter()
            .flatten()
            .any(|it| HeaderValue::from_str(it).is_err())
        {
            return Err(A2aError::invalid(
                "authentication",
                "and `token` have to be visible ASCII",
            ));
        }
        Ok(())
    }

    /// Adds a webhook to a request, or replaces the one of its id.
    ///
    /// # Errors
    /// As [`Pushes::check`], and where it cannot be kept.
    pub(crate) async fn put(
        &self,
        version: ProtocolVersion,
        base: &str,
        request_id: RequestId,
        push: &PushConfig,
    ) -> Result<(), A2aError> {
        self.check(push)?;
        let authentication = push.authentication.clone();
        let (scheme, credentials) = match authentication {
            Some(PushAuthentication {
                scheme,
                credentials,
            }) => (Some(scheme), credentials),
            None => (None, None),
        };
        let kept = Kept {
            version: version.as_str().to_owned(),
            base: base.to_owned(),
            url: push.url.clone(),
            token: push.token.clone(),
            scheme,
            credentials,
        };
        let text = serde_json::to_string(&kept).map_err(|error| internal(&error))?;
        let (name, text) = (name_of(request_id, &push.id), SecretString::from(text));
        let sealed = self.vault.seal_value(SEALED_FOR, &name, &text).await;
        let sealed = sealed.map_err(|error| internal(&error))?;
        let put = PutPush {
            request_id,
            push_id: push.id.clone(),
            sealed,
        };
        let written = self.engine.store().write(put).await;
        written.map_err(|error| failure(&error.into()))?;
        self.open.store(true, Ordering::Relaxed);
        self.added.notify_one();
        Ok(())
    }

    /// A webhook as its client registered it.
    ///
    /// # Errors
    /// It cannot be read back.
    pub(crate) async fn config(&self, row: &PushRow) -> Result<PushConfig, A2aError> {
        let kept = self
            .open(row)
            .await
            .map_err(|why| failure(&rune_http::ApiError::internal(why)))?;
        Ok(PushConfig {
            id: row.push_id.clone(),
            task_id: row.request_id.to_string(),
            url: kept.url,
            token: kept.token,
            authentication: kept.scheme.map(|scheme| PushAuthentication {
                scheme,
                credentials: kept.credentials,
            }),
        })
    }

    async fn open(&self, row: &PushRow) -> Result<Kept, String> {
        let name = name_of(row.request_id, &row.push_id);
        let opened = self.vault.open_value(SEALED_FOR, &name, &row.sealed).await;
        let opened = opened.map_err(|error| error.to_string())?;
        serde_json::from_str(opened.expose_secret())
            .map_err(|_| "a stored webhook cannot be read".to_owned())
    }

    /// Tells webhooks until the shutdown. What is left is told by the next start.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changes = self.engine.activity();
        loop {
            changes.mark_unchanged();
            let pause = match self.open.load(Ordering::Relaxed) {
                false => None,
                true => tokio::select! {
                    () = shutdown.cancelled() => return,
                    told = self.tell_due() => told.unwrap_or_else(|error| {
                        tracing::warn!(%error, "webhooks were not looked at");
                        Some(STORE_PAUSE)
                    }),
                },
            };
            let due = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = self.added.notified() => {}
                () = due => {}
            }
        }
    }

    /// Tells what is due. Answers how long nothing else will be.
    async fn tell_due(&self) -> Result<Option<Duration>, StoreError> {
        let store = self.engine.store();
        loop {
            let due = store.due_pushes(store.now(), AT_ONCE).await?;
            if due.is_empty() {
                break;
            }
            let told = join_all(due.iter().map(|row| self.tell(row))).await;
            told.into_iter().collect::<Result<(), _>>()?;
        }
        let open = store.has_open_pushes().await?;
        self.open.store(open, Ordering::Relaxed);
        let next = store.next_push().await?;
        Ok(next.map(|next| next.since(store.now())))
    }

    /// Tells one webhook, and records what came of it.
    async fn tell(&self, row: &PushRow) -> Result<(), StoreError> {
        let store = self.engine.store();
        let Some(request) = store.request(row.request_id).await? else {
            return Ok(());
        };
        let (request_id, attempts) = (row.request_id, row.attempts + 1);
        let told = match self.open(row).await {
            Ok(kept) => self.post(&kept, &request).await.map_err(|why| (why, true)),
            // Trying again would not help.
            Err(why) => Err((why, false)),
        };
        let again_at = match told {
            Ok(()) => None,
            Err((why, again)) if again && attempts < MAX_ATTEMPTS => {
                tracing::info!(request = %request_id, attempts, why, "a webhook was not told yet");
                Some(store.now().plus(pause_after(attempts)))
            }
            Err((why, _)) => {
                tracing::warn!(request = %request_id, attempts, why, "a webhook is given up");
                None
            }
        };
        let settle = SettlePush {
            request_id,
            push_id: row.push_id.clone(),
            created_at: row.created_at,
            seq: request.last_seq,
            again_at,
        };
        store.write(settle).await
    }

    async fn post(
        &self,
        kept: &Kept,
        request: &rune_store_runtime::RequestRow,
    ) -> Result<(), String> {
        let view = find::snapshot(&self.engine, &kept.base, request).await;
        let task = view.map_err(|error| error.to_string())?.task(Some(0));
        let version = ProtocolVersion::requested(Some(&kept.version));
        let body = match version.ok().flatten() {
            Some(ProtocolVersion::V03) => task.encode(ProtocolVersion::V03),
            _ => StreamEvent::Task(task).encode(ProtocolVersion::V1),
        };
        let url = Url::parse(&kept.url).map_err(|error| error.to_string())?;
        // The operator may have closed it since.
        self.policy
            .check_url(&url)
            .map_err(|error| error.to_string())?;
        let mut sent = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json");
        if let Some(scheme) = &kept.scheme {
            let value = authorization(&PushAuthentication {
                scheme: scheme.clone(),
                credentials: kept.credentials.clone(),
            });
            sent = sent.header(AUTHORIZATION, sensitive(&value)?);
        }
        if let Some(token) = &kept.token {
            sent = sent.header(TOKEN, sensitive(token)?);
        }
        let answer = sent.body(body.to_string()).send().await;
        // Without the URL, which may hold a secret.
        let answer = answer.map_err(|error| chain(&error.without_url()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// `SCHEME CREDENTIALS`.
fn authorization(authentication: &PushAuthentication) -> String {
    match &authentication.credentials {
        Some(credentials) => format!("{} {credentials}", authentication.scheme),
        None => authentication.scheme.clone(),
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

fn pause_after(attempts: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

fn name_of(request_id: RequestId, push_id: &str) -> String {
    format!("{request_id}/{push_id}")
}

fn internal(error: &dyn std::error::Error) -> A2aError {
    failure(&rune_http::ApiError::internal(error.to_string()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_and_end() {
        assert_eq!(pause_after(1), Duration::from_secs(1));
        assert_eq!(pause_after(4), Duration::from_secs(8));
        assert_eq!(pause_after(30), LONGEST_PAUSE);
    }
}
