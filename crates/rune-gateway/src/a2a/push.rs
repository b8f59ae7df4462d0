//! Webhooks of tasks: kept encrypted, told in order what happens to a task.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use rune_a2a::{A2aError, ProtocolVersion, PushAuthentication, PushConfig};
use rune_runtime::{Engine, SecretVault};
use rune_store_runtime::{PushRow, PutPush, RequestId, RequestRow, SettlePush, StoreError};
use rune_tools::{CheckedResolver, EgressPolicy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::answer::failure;
use super::news::news;

/// Longest time for a webhook to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// After this many failures in a row a webhook is given up, until there is something new to tell.
const MAX_ATTEMPTS: u32 = 8;
/// Pause after the first failure; doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Webhooks that are told at the same time at the most.
const AT_ONCE: usize = 16;
/// What is committed within this time is looked at together.
const TOGETHER: Duration = Duration::from_millis(50);
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
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.tell_all() => {}
        }
    }

    /// Tells several webhooks at the same time, and each one thing after the other.
    async fn tell_all(&self) {
        let mut changes = self.engine.activity();
        let mut telling = FuturesUnordered::new();
        let mut busy: HashSet<(RequestId, String)> = HashSet::new();
        // Whether there may be one that is not done with.
        let mut is_open = true;
        loop {
            changes.mark_unchanged();
            let mut pause = None;
            if is_open && busy.len() < AT_ONCE {
                match self.due(&busy).await {
                    Ok((due, open, next)) => {
                        (is_open, pause) = (open, next);
                        for row in due {
                            busy.insert((row.request_id, row.push_id.clone()));
                            telling.push(self.tell(row));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "webhooks were not looked at");
                        pause = Some(STORE_PAUSE);
                    }
                }
            }
            let changed = async {
                // The sender lives as long as the engine.
                let _ = changes.changed().await;
                tokio::time::sleep(TOGETHER).await;
            };
            let due = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(told) = telling.next() => { busy.remove(&told); }
                () = changed, if is_open => {}
                () = self.added.notified() => is_open = true,
                () = due => {}
            }
        }
    }

    /// Those that there may be something to tell; whether there is one that is not done with; and how long nothing else is due.
    async fn due(
        &self,
        busy: &HashSet<(RequestId, String)>,
    ) -> Result<(Vec<PushRow>, bool, Option<Duration>), StoreError> {
        let store = self.engine.store();
        let now = store.now();
        let limit = u32::try_from(AT_ONCE + busy.len()).unwrap_or(u32::MAX);
        let mut due = store.due_pushes(now, limit).await?;
        due.retain(|row| !busy.contains(&(row.request_id, row.push_id.clone())));
        due.truncate(AT_ONCE.saturating_sub(busy.len()));
        let open = store.has_open_pushes().await?;
        let next = store.next_push(now).await?;
        Ok((due, open, next.map(|next| next.since(now))))
    }

    /// Tells one webhook what it does not know. Answers which one that was.
    async fn tell(&self, row: PushRow) -> (RequestId, String) {
        if let Err(error) = self.tell_news(&row).await {
            tracing::warn!(request = %row.request_id, %error, "it is not known what a webhook was told");
            tokio::time::sleep(STORE_PAUSE).await;
        }
        (row.request_id, row.push_id)
    }

    async fn tell_news(&self, row: &PushRow) -> Result<(), StoreError> {
        let store = self.engine.store();
        let request_id = row.request_id;
        let Some(request) = store.request(request_id).await? else {
            return Ok(());
        };
        let settle = |seq, again_at| SettlePush {
            request_id,
            push_id: row.push_id.clone(),
            created_at: row.created_at,
            seq,
            again_at,
        };
        let failed = match self.open(row).await {
            Ok(kept) => self.post_news(&kept, row.told, &request).await.err(),
            Err(why) => {
                // Trying again would not help.
                tracing::warn!(request = %request_id, why, "a webhook is given up");
                None
            }
        };
        let Some((known, why)) = failed else {
            return store.write(settle(request.last_seq, None)).await;
        };
        let mut attempts = row.attempts + 1;
        if known > row.told {
            store.write(settle(known, None)).await?;
            attempts = 1;
        }
        let again_at = if attempts < MAX_ATTEMPTS {
            tracing::info!(request = %request_id, attempts, why, "a webhook was not told yet");
            Some(store.now().plus(pause_after(attempts)))
        } else {
            tracing::warn!(request = %request_id, attempts, why, "a webhook is given up");
            None
        };
        store.write(settle(request.last_seq, again_at)).await
    }

    /// Posts what happened behind the entry `told`. An error has the last entry that the webhook knows all of.
    async fn post_news(
        &self,
        kept: &Kept,
        told: u64,
        request: &RequestRow,
    ) -> Result<(), (u64, String)> {
        let version = ProtocolVersion::requested(Some(&kept.version));
        let version = version.ok().flatten().unwrap_or(ProtocolVersion::V1);
        let news = news(&self.engine, &kept.base, request, told, version).await;
        for one in news.map_err(|error| (told, error.to_string()))? {
            let posted = self.post(kept, one.body.to_string()).await;
            posted.map_err(|why| (one.seq - 1, why))?;
        }
        Ok(())
    }

    async fn post(&self, kept: &Kept, body: String) -> Result<(), String> {
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
        let answer = sent.body(body).send().await;
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
