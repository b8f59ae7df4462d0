//! Requests of the daemon as cassettes.

use std::str::FromStr;

use jiff::Timestamp;
use rune_spec::CassetteFile;
use serde_json::Value;

use crate::client::{Api, Client, part};
use crate::commands::since::since;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};

/// Requests that are taken where no `limit` says how many.
const DEFAULT_LIMIT: usize = 50;
/// Requests that are looked at, at the most, for those that are wanted.
const MAX_LOOKED_AT: usize = 100_000;

/// One word behind `--from-requests`.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// This request.
    Id(String),
    /// A parameter of the list of requests.
    Filter(&'static str, String),
    /// Only requests accepted since then.
    Since(Timestamp),
    /// So many at the most.
    Limit(usize),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once('=') else {
            return if text.starts_with("req_") {
                Ok(Self::Id(text.to_owned()))
            } else {
                Err("expected the id of a request, or a filter such as agent=NAME".to_owned())
            };
        };
        match name {
            "agent" => Ok(Self::Filter("agent", value.to_owned())),
            "ns" | "namespace" => Ok(Self::Filter("ns", value.to_owned())),
            "status" => Ok(Self::Filter("status", value.to_owned())),
            "session" => Ok(Self::Filter("session", value.to_owned())),
            "since" => since(value).map(Self::Since),
            "limit" => match value.parse() {
                Ok(limit) if limit > 0 => Ok(Self::Limit(limit)),
                _ => Err("`limit` is a number of requests".to_owned()),
            },
            _ => Err(format!(
                "unknown filter `{name}`; there are agent, ns, status, session, since and limit"
            )),
        }
    }
}

/// A request, or why there is no cassette of it.
pub(super) enum Collected {
    Recorded(Box<CassetteFile>),
    Skipped { id: String, reason: String },
}

/// The cassettes of what is asked for: those named by id first, then the newest that the filters find.
pub(super) async fn collect(context: &Context, which: &[Which]) -> Outcome<Vec<Collected>> {
    let client = context.client()?;
    let mut ids: Vec<String> = Vec::new();
    for word in which {
        if let Which::Id(id) = word {
            ids.push(id.clone());
        }
    }
    if which.iter().any(|word| !matches!(word, Which::Id(_))) {
        for id in found(&client, which).await? {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    let mut collected = Vec::with_capacity(ids.len());
    for id in ids {
        let path = format!("/v1/requests/{}/cassette", part(&id));
        match client.get(Api::Gateway, &path).await {
            Ok(value) => {
                let file = serde_json::from_value(value).map_err(|error| {
                    Failure::because("the gateway answers something else than a cassette", &error)
                })?;
                collected.push(Collected::Recorded(Box::new(file)));
            }
            Err(failure) if failure.exit == Exit::Failed => collected.push(Collected::Skipped {
                id,
                reason: failure.message().to_owned(),
            }),
            Err(failure) => return Err(failure),
        }
    }
    Ok(collected)
}

async fn found(client: &Client, which: &[Which]) -> Outcome<Vec<String>> {
    let filters: Vec<(&str, &str)> = which
        .iter()
        .filter_map(|word| match word {
            Which::Filter(name, value) => Some((*name, value.as_str())),
            _ => None,
        })
        .collect();
    let limit = which.iter().find_map(|word| match word {
        Which::Limit(limit) => Some(*limit),
        _ => None,
    });
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let since = which.iter().find_map(|word| match word {
        Which::Since(time) => Some(*time),
        _ => None,
    });
    // They come newest first; a `since` may leave all of them out but not make others come.
    let most = limit.min(MAX_LOOKED_AT);
    let rows = client
        .list(Api::Gateway, "/v1/requests", &filters, most)
        .await?;
    let late = |row: &&Value| {
        let created = row["created_at"].as_str();
        let created: Option<Timestamp> = created.and_then(|text| text.parse().ok());
        since.is_none_or(|since| created.is_some_and(|created| created >= since))
    };
    let ids = rows
        .iter()
        .filter(late)
        .filter_map(|row| row["id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}
