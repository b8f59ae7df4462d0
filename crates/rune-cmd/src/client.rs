//! The HTTP client that every verb shares.

mod bearer;
mod follow;

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use rune_env::Config;
use rune_store_runtime::ErrorCode;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Exit, Failure, Outcome, chain};

pub(crate) use follow::{Event, Follow};

/// Longest time to connect. The daemon is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence in an answer; keep-alives come every 15 seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows asked for at a time.
const PAGE: usize = 200;
/// Longest part of an unexpected answer that is shown.
const SHOWN_BODY_CHARS: usize = 200;

/// Which of the two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// The public one.
    Gateway,
    /// The one for operators.
    ControlPlane,
}

impl Api {
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::ControlPlane => "control plane",
        }
    }
}

/// Talks to a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    gateway: Server,
    control_plane: Server,
    bearer: Option<String>,
}

/// Where one of the APIs is, and what asks it.
#[derive(Debug, Clone)]
struct Server {
    url: String,
    http: reqwest::Client,
}

impl Server {
    fn new(url: String) -> Outcome<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("rune/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("http://") {
            // Loading the system's certificates takes longer than most commands.
            http = http.tls_certs_only([]);
        }
        if is_loopback(&url) {
            // A proxy is another machine as a rule, which would be told the key and reach itself.
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Failure::because("cannot set up the HTTP client", &error))?;
        Ok(Self { url, http })
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: ErrorCode,
    message: String,
}

impl Client {
    /// A client that has connected to nothing yet.
    pub(crate) fn new(gateway: String, control_plane: String, config: &Config) -> Outcome<Self> {
        Ok(Self {
            gateway: Server::new(gateway)?,
            control_plane: Server::new(control_plane)?,
            bearer: bearer::token(&config.gateway)?,
        })
    }

    /// The base URL of an API.
    pub(crate) fn base(&self, api: Api) -> &str {
        &self.server(api).url
    }

    const fn server(&self, api: Api) -> &Server {
        match api {
            Api::Gateway => &self.gateway,
            Api::ControlPlane => &self.control_plane,
        }
    }

    /// A request; `path` starts with a slash and its parts are escaped with [`part`].
    pub(crate) fn request(&self, api: Api, method: Method, path: &str) -> RequestBuilder {
        let Server { url, http } = self.server(api);
        let request = http.request(method, format!("{url}{path}"));
        match &self.bearer {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends a request and answers its response, which is a success.
    pub(crate) async fn send(&self, api: Api, request: RequestBuilder) -> Outcome<Response> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(api, &error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(api, response).await)
        }
    }

    /// Sends a request and reads the JSON it answers; null where the answer is empty.
    pub(crate) async fn json(&self, api: Api, request: RequestBuilder) -> Outcome<Value> {
        let response = self.send(api, request).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(api, &error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::because(
                format!("the {} answered something else than JSON", api.name()),
                &error,
            )
        })
    }

    /// `GET` of JSON.
    pub(crate) async fn get(&self, api: Api, path: &str) -> Outcome<Value> {
        self.json(api, self.request(api, Method::GET, path)).await
    }

    /// `POST` of JSON.
    pub(crate) async fn post(&self, api: Api, path: &str, body: &Value) -> Outcome<Value> {
        self.json(api, self.request(api, Method::POST, path).json(body))
            .await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, api: Api, path: &str) -> Outcome<Value> {
        self.json(api, self.request(api, Method::DELETE, path))
            .await
    }

    /// Every row of a paged list, `max` at the most.
    pub(crate) async fn list(
        &self,
        api: Api,
        path: &str,
        query: &[(&str, &str)],
        max: usize,
    ) -> Outcome<Vec<Value>> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = PAGE.min(max - rows.len()).max(1).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            if let Some(cursor) = &cursor {
                query.push(("cursor", cursor));
            }
            let mut page = self.get(api, &with_query(path, &query)).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                rows.extend(items);
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || rows.len() >= max {
                rows.truncate(max);
                return Ok(rows);
            }
        }
    }

    /// The failure of a request that got no answer.
    pub(crate) fn unreachable(&self, api: Api, error: &reqwest::Error) -> Failure {
        let (name, url) = (api.name(), self.base(api));
        if error.is_connect() {
            let message = format!("cannot reach the {name} at {url}");
            return Failure::new(Exit::Unavailable, message)
                .help("`rune daemon start` starts a daemon; `rune doctor` says what is wrong");
        }
        let message = format!("the {name} at {url} stopped answering: {}", chain(error));
        Failure::new(Exit::Unavailable, message).help("`rune daemon status` says whether it runs")
    }
}

/// What the API says where it does not do what it was asked to.
async fn refusal(api: Api, response: Response) -> Failure {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let Ok(ErrorBody { error }) = serde_json::from_str(&text) else {
        let exit = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
            status if status.is_server_error() => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let body = crate::output::shortened(&crate::output::one_line(&text), SHOWN_BODY_CHARS);
        let name = api.name();
        return Failure::new(exit, format!("the {name} answered {status}: {body}"))
            .help("is it a Rune daemon? `--gateway` and `--control-plane` say where it is");
    };
    let failure = of_api(error.code, &error.message);
    // A request of an agent that ran may end with the same code, and another status.
    match status {
        StatusCode::UNAUTHORIZED => {
            failure.help("set RUNE_API_KEY (or RUNE_JWT_SECRET) to what the daemon has")
        }
        _ => failure,
    }
}

/// A failure with a code of the API, and what helps against it.
pub(crate) fn of_api(code: ErrorCode, message: &str) -> Failure {
    let failure = Failure::new(Exit::of(code), crate::output::printable(message)).coded(code);
    match code {
        ErrorCode::NotFound => failure.help("`rune agent ls` lists what is deployed"),
        ErrorCode::Unavailable => failure.help("`rune status` says what the daemon is doing"),
        ErrorCode::ModelUnavailable => {
            failure.help("`rune doctor` shows which providers have a key")
        }
        ErrorCode::LimitExceeded | ErrorCode::Timeout => {
            failure.help("the limits are in the Runefile: `max_steps`, `timeout_ms`, `budget`")
        }
        ErrorCode::Internal => failure.help("`rune debug` shows the daemon's log"),
        ErrorCode::InvalidInput
        | ErrorCode::Unauthenticated
        | ErrorCode::Denied
        | ErrorCode::Conflict
        | ErrorCode::TooLarge
        | ErrorCode::Cancelled => failure,
    }
}

/// Whether what is sent to `url` stays on this machine.
pub(crate) fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The path with a query behind it.
pub(crate) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", part(value)))
        .collect();
    if pairs.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", pairs.join("&"))
    }
}

/// One part of a path, or a value of a query, escaped.
pub(crate) fn part(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else if byte == b'.' && text.bytes().any(|byte| byte != b'.') {
            escaped.push('.');
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{part, with_query};

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(part("a/b?c#d"), "a%2Fb%3Fc%23d");
        assert_eq!(part(".."), "%2E%2E");
        assert_eq!(part("v1.2@x"), "v1.2%40x");
        assert_eq!(
            with_query("/a", &[("ns", "d&x=1"), ("b", "2")]),
            "/a?ns=d%26x%3D1&b=2"
        );
    }
}
