//! Where this installation is, as a service says that the operator has chosen.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::egress::{EgressPolicy, destination};
use crate::web::{Fetched, WebClient, WebRequest};
use crate::{EgressGate, ToolError};

/// Bytes of an answer that are read.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long an answer is kept: a machine seldom moves, and the services count their calls.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Characters of the longest part of a place that is believed.
const MAX_PART_CHARS: usize = 100;
/// From the smallest to the largest: the names that the services have for each part.
const PARTS: [&[&str]; 3] = [
    &["city"],
    &["region", "regionName", "region_name", "subdivision"],
    &["country_name", "countryName", "country"],
];

/// Asks a service, once an hour at the most.
pub(crate) struct LocationLookup {
    url: String,
    client: WebClient,
    known: Mutex<Option<(Instant, String)>>,
    /// One asks, so that calls at the same time ask once.
    turn: Semaphore,
}

impl LocationLookup {
    pub(crate) fn new(url: String, policy: EgressPolicy) -> Self {
        Self {
            client: WebClient::new(policy.opened_for(&url)),
            url,
            known: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// The place, where `gate` lets the caller ask for it. What failed is tried again by the next call.
    pub(crate) async fn place(&self, gate: Option<&dyn EgressGate>) -> Result<String, ToolError> {
        let url = Url::parse(&self.url)
            .map_err(|error| ToolError::unavailable(format!("`tools.location_lookup`: {error}")))?;
        // What is known was asked there, for somebody who may be allowed to.
        if let (Some(gate), Some((host, port))) = (gate, destination(&url)) {
            gate.connect(&host, port)?;
        }
        // It is never closed; without a turn it would be asked twice.
        let _turn = self.turn.acquire().await.ok();
        if let Some(place) = self.known() {
            return Ok(place);
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let request = WebRequest {
            headers: vec![("accept".into(), "application/json".to_owned())],
            ..WebRequest::get(url)
        };
        let answer = self.client.send(request, MAX_BODY_BYTES, gate).await?;
        let place = read(&answer).map_err(|problem| {
            ToolError::unavailable(format!(
                "`{host}` (`tools.location_lookup`) does not say where this is: {problem}"
            ))
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), place.clone()));
        Ok(place)
    }

    fn known(&self) -> Option<String> {
        // It is whole at any time.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, place) = known.as_ref()?;
        (since.elapsed() < KEPT).then(|| place.clone())
    }
}

/// The place that an answer names: city, region and country, as far as it has them.
fn read(answer: &Fetched) -> Result<String, String> {
    if answer.status != 200 {
        return Err(format!("it answered with status {}", answer.status));
    }
    if answer.truncated {
        return Err(format!("its answer has more than {MAX_BODY_BYTES} bytes"));
    }
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|_| "its answer is not JSON".to_owned())?;
    let mut parts: Vec<&str> = Vec::new();
    for names in PARTS {
        let found = names.iter().find_map(|name| body.get(name)?.as_str());
        let found = found.map(str::trim).filter(|part| is_name(part));
        parts.extend(found.filter(|part| !parts.contains(part)));
    }
    if parts.is_empty() {
        return Err("its answer has neither `city` nor `region` nor `country`".to_owned());
    }
    Ok(parts.join(", "))
}

/// Whether a text can be the name of a place and not something that speaks to a model at length.
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part.chars().count() <= MAX_PART_CHARS
        && !part.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expected: Result<&str, &str>) {
        let answer = Fetched {
            url: Url::parse("https://geo.example/").unwrap(),
            status,
            content_type: String::new(),
            body: body.as_bytes().to_vec(),
            truncated: false,
        };
        let place = read(&answer);
        let place = place.as_deref().map_err(String::as_str);
        assert_eq!(place, expected, "{body}");
    }

    #[test]
    fn reads_what_the_services_answer() {
        let ipinfo =
            r#"{"ip": "203.0.113.7", "city": "Berlin", "region": "Berlin", "country": "DE"}"#;
        check(200, ipinfo, Ok("Berlin, DE"));
        let ip_api = r#"{"status": "success", "country": "Norway", "regionName": "Oslo County", "city": "Oslo"}"#;
        check(200, ip_api, Ok("Oslo, Oslo County, Norway"));
        let ipapi = r#"{"city": null, "region": "", "country_name": "Japan", "country": "JP"}"#;
        check(200, ipapi, Ok("Japan"));
        check(
            200,
            "{}",
            Err("its answer has neither `city` nor `region` nor `country`"),
        );
        check(200, "<html>", Err("its answer is not JSON"));
        check(429, "", Err("it answered with status 429"));
        let long = format!(r#"{{"city": "{}", "country": "X\nY"}}"#, "a".repeat(101));
        check(
            200,
            &long,
            Err("its answer has neither `city` nor `region` nor `country`"),
        );
    }
}
