//! Where the card of an agent is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::limits::{CARD_AGE, MAX_CARD_AGE, MAX_CARD_BYTES, MAX_CARDS, MAX_REDIRECTS};
use super::wire::read_body;
use super::{
    ClientError, HttpRequest, HttpResponse, RemoteAgent, RemoteCard, RemoteError, Transport,
};

/// Where a card is below its agent's URL: as 0.3 and 1.0 have it, and as it was before.
const WELL_KNOWN: [&str; 2] = [".well-known/agent-card.json", ".well-known/agent.json"];

/// Cards that were fetched, for a while.
#[derive(Default)]
pub struct CardCache {
    cards: Mutex<HashMap<String, Kept>>,
}

#[derive(Clone)]
struct Kept {
    card: Arc<RemoteCard>,
    /// The URL that answered it.
    place: String,
    /// Whether the card there may be that of another agent.
    is_shared: bool,
    etag: Option<String>,
    until: Instant,
}

impl CardCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // Each card is whole at any time.
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, url: &str) -> Option<Kept> {
        self.lock().get(url).cloned()
    }

    fn put(&self, url: &str, kept: Kept) {
        let mut cards = self.lock();
        if cards.len() >= MAX_CARDS && !cards.contains_key(url) {
            let oldest = cards.iter().min_by_key(|(_, kept)| kept.until);
            let oldest = oldest.map(|(url, _)| url.clone());
            if let Some(url) = oldest {
                cards.remove(&url);
            }
        }
        cards.insert(url.to_owned(), kept);
    }

    fn remove(&self, url: &str) {
        self.lock().remove(url);
    }
}

/// Finds agents. Cheap to make, for one transport.
#[derive(Clone)]
pub struct A2aClient {
    transport: Arc<dyn Transport>,
    cards: Arc<CardCache>,
}

impl A2aClient {
    /// A client that goes where the transport lets it.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, cards: Arc<CardCache>) -> Self {
        Self { transport, cards }
    }

    /// The agent at a URL: of its card, of what its card stands below, or of its endpoint, where a card at the root of the
    /// host names that.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn agent(&self, url: &str) -> Result<RemoteAgent, ClientError> {
        let card = self.card(url).await?;
        let interface = card.interface()?;
        Ok(RemoteAgent {
            transport: Arc::clone(&self.transport),
            card,
            interface: Arc::new(interface),
        })
    }

    /// The card of the agent at a URL.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn card(&self, url: &str) -> Result<Arc<RemoteCard>, ClientError> {
        let parsed = Url::parse(url)
            .map_err(|error| ClientError::NoCard(format!("`{url}` is not a URL: {error}")))?;
        if let Some(kept) = self.cards.get(url) {
            // Who asks may not be who asked before.
            self.transport.admit(&kept.place)?;
            if Instant::now() < kept.until {
                return Ok(kept.card);
            }
            if let Some(card) = self.revalidate(url, kept).await? {
                return Ok(card);
            }
            self.cards.remove(url);
        }
        let mut refusal = None;
        for place in places(&parsed) {
            match self.fetch(&place.url, None).await {
                Ok(Fetched::Card(mut kept)) => {
                    if place.is_shared && !names(&kept.card, url) {
                        continue;
                    }
                    kept.is_shared = place.is_shared;
                    let card = Arc::clone(&kept.card);
                    self.cards.put(url, kept);
                    return Ok(card);
                }
                Ok(Fetched::Unchanged(_)) => {}
                Err(ClientError::Remote(error)) if is_absent(&error) => {
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let why = refusal.map_or_else(String::new, |error| format!(" ({})", error.message));
        Err(ClientError::NoCard(format!(
            "nothing at `{url}` answers one{why}"
        )))
    }

    /// The card where it was before; nothing where it is no more, or is that of another agent now.
    async fn revalidate(
        &self,
        url: &str,
        kept: Kept,
    ) -> Result<Option<Arc<RemoteCard>>, ClientError> {
        let is_shared = kept.is_shared;
        let kept = match self.fetch(&kept.place, kept.etag.clone()).await {
            Ok(Fetched::Card(fresh)) => Kept { is_shared, ..fresh },
            Ok(Fetched::Unchanged(until)) => Kept { until, ..kept },
            Err(ClientError::Remote(error)) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if is_shared && !names(&kept.card, url) {
            return Ok(None);
        }
        let card = Arc::clone(&kept.card);
        self.cards.put(url, kept);
        Ok(Some(card))
    }

    async fn fetch(&self, place: &str, etag: Option<String>) -> Result<Fetched, ClientError> {
        let mut at = place.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = vec![
                (
                    "accept",
                    "application/json, application/a2a+json".to_owned(),
                ),
                ("a2a-version", "1.0".to_owned()),
            ];
            headers.extend(etag.clone().map(|etag| ("if-none-match", etag)));
            let request = HttpRequest {
                url: at.clone(),
                headers,
                body: None,
            };
            let response = self.transport.send(request).await?;
            match response.status {
                301 | 302 | 303 | 307 | 308 => at = next(&at, &response)?,
                304 if etag.is_some() => return Ok(Fetched::Unchanged(fresh_until(&response))),
                200 => {
                    let until = fresh_until(&response);
                    let etag = response.header("etag").map(str::to_owned);
                    let body = read_body(response, "card", MAX_CARD_BYTES).await?;
                    return Ok(Fetched::Card(Kept {
                        card: Arc::new(RemoteCard::parse(&body)?),
                        place: place.to_owned(),
                        is_shared: false,
                        etag: etag.filter(|etag| etag.len() <= 256),
                        until,
                    }));
                }
                status => {
                    let body = read_body(response, "answer", MAX_CARD_BYTES).await?;
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    return Err(RemoteError::of_http(status, &body).into());
                }
            }
        }
        let message = format!("`{place}` redirects more than {MAX_REDIRECTS} times");
        Err(ClientError::NoCard(message))
    }
}

enum Fetched {
    Card(Kept),
    Unchanged(Instant),
}

struct Place {
    url: String,
    /// Whether the card there may be that of another agent.
    is_shared: bool,
}

/// Where the card of the agent at a URL may be, in this order.
fn places(url: &Url) -> Vec<Place> {
    let own = |url: String| Place {
        url,
        is_shared: false,
    };
    if url.path().ends_with(".json") {
        return vec![own(url.to_string())];
    }
    let mut base = url.clone();
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').to_owned();
    let below = |path: &str| WELL_KNOWN.map(|name| format!("{path}/{name}"));
    let at = |path: &str| {
        let mut place = base.clone();
        place.set_path(path);
        place.to_string()
    };
    let mut places: Vec<Place> = below(&path).iter().map(|path| own(at(path))).collect();
    if !path.is_empty() {
        let root = below("");
        places.extend(root.iter().map(|path| Place {
            url: at(path),
            is_shared: true,
        }));
    }
    places
}

/// Whether a card is that of the agent at a URL.
fn names(card: &RemoteCard, url: &str) -> bool {
    card.interfaces.iter().any(|one| is_same(&one.url, url))
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Whether there is nothing at that place.
const fn is_absent(error: &RemoteError) -> bool {
    use rune_store_runtime::ErrorCode;
    matches!(error.code, ErrorCode::NotFound | ErrorCode::InvalidInput)
}

/// Where a redirect leads. It does not leave encryption.
fn next(at: &str, response: &HttpResponse) -> Result<String, ClientError> {
    let wrong = |why: &str| ClientError::NoCard(format!("`{at}` redirects to {why}"));
    let location = response.header("location").unwrap_or_default();
    let base = Url::parse(at).map_err(|_| wrong("nowhere"))?;
    let next = base.join(location).map_err(|_| wrong("what is no URL"))?;
    match base.scheme() == "https" && next.scheme() != "https" {
        true => Err(wrong("a place without TLS")),
        false => Ok(next.to_string()),
    }
}

fn fresh_until(response: &HttpResponse) -> Instant {
    let control = response.header("cache-control").unwrap_or_default();
    let control = control.to_ascii_lowercase();
    let mut directives = control.split(',').map(str::trim);
    let age = directives.find_map(|directive| {
        if matches!(directive, "no-store" | "no-cache") {
            return Some(Duration::ZERO);
        }
        let seconds = directive.strip_prefix("max-age=")?;
        seconds.parse().ok().map(Duration::from_secs)
    });
    Instant::now() + age.unwrap_or(CARD_AGE).min(MAX_CARD_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(url: &str) -> Vec<(String, bool)> {
        let places = places(&Url::parse(url).unwrap()).into_iter();
        places.map(|place| (place.url, place.is_shared)).collect()
    }

    #[test]
    fn a_card_is_looked_for_below_the_url_and_then_at_the_root() {
        let own = |url: &str| (url.to_owned(), false);
        assert_eq!(
            urls("https://x/c/card.json?a=b"),
            [own("https://x/c/card.json?a=b")]
        );
        let at_root = [
            own("https://x/.well-known/agent-card.json"),
            own("https://x/.well-known/agent.json"),
        ];
        assert_eq!(urls("https://x"), at_root);
        let below = urls("https://x/a2a/hello/");
        assert_eq!(
            below[0],
            own("https://x/a2a/hello/.well-known/agent-card.json")
        );
        assert_eq!(
            below[3],
            ("https://x/.well-known/agent.json".to_owned(), true)
        );
    }
}
