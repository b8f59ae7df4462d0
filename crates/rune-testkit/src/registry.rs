//! OCI registries on loopback: one to the distribution specification 1.1 in this process, whose content can be spoiled, and
//! Debian's `docker-registry`, which does not know the referrers API.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{TestkitError, task};

const MAX_BODY: usize = 128 << 20;
const TOKEN: &str = "test-token";
/// Debian's registry.
const PROGRAM: &str = "/usr/bin/docker-registry";
/// The only user of one that asks who it is, and the password.
pub const REGISTRY_LOGIN: (&str, &str) = ("me", "hidden-word");
/// The same as the registry reads it.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuubffnHHWEefL.V5LI.1Ci2pzO69f1oq6\n";

/// A registry in this process. It stops when it is dropped.
#[derive(Debug)]
pub struct TestRegistry {
    host: String,
    state: Arc<Registry>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Registry {
    /// Who may use it; absent: everybody.
    login: Option<(String, String)>,
    host: String,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    blobs: HashMap<String, Bytes>,
    /// By repository and tag or digest: the media type and the bytes.
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    /// What was asked for: the method and the path.
    asked: Vec<String>,
}

impl TestRegistry {
    /// A registry for everybody, or for one user.
    ///
    /// # Errors
    /// [`TestkitError::Process`] where no port can be had.
    pub async fn start(login: Option<(&str, &str)>) -> Result<Self, TestkitError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(TestkitError::Process)?;
        let addr = listener.local_addr().map_err(TestkitError::Process)?;
        let state = Arc::new(Registry {
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
            host: addr.to_string(),
            content: Mutex::default(),
        });
        let router = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&state));
        let stop = CancellationToken::new();
        task::spawn_until(stop.clone(), async move {
            // It ends with its token.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            host: addr.to_string(),
            state,
            _stop: stop.drop_guard(),
        })
    }

    /// Its host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Changes one bit of a blob.
    pub fn spoil_blob(&self, digest: &str) {
        if let Some(bytes) = self.state.content().blobs.get_mut(digest) {
            *bytes = flipped(bytes);
        }
    }

    /// Changes a manifest in its place.
    pub fn spoil_manifest(&self, repository: &str, version: &str, change: impl FnOnce(&mut Value)) {
        let key = (repository.to_owned(), version.to_owned());
        if let Some((_, bytes)) = self.state.content().manifests.get_mut(&key) {
            let mut value = serde_json::from_slice(bytes).unwrap_or_default();
            change(&mut value);
            *bytes = value.to_string().into();
        }
    }

    /// Copies everything of a repository to another one.
    pub fn copy(&self, from: &str, to: &str) {
        let mut content = self.state.content();
        let copies: Vec<_> = content
            .manifests
            .iter()
            .filter(|((repository, _), _)| repository == from)
            .map(|((_, version), entry)| ((to.to_owned(), version.clone()), entry.clone()))
            .collect();
        content.manifests.extend(copies);
    }

    /// Forgets everything that refers to something else, as signatures do.
    pub fn drop_referrers(&self) {
        let refers = |bytes: &Bytes| {
            let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
            value["subject"].is_object()
        };
        self.state
            .content()
            .manifests
            .retain(|_, (_, bytes)| !refers(bytes));
    }

    /// Puts bytes in as a manifest, whatever they are.
    pub fn put_manifest(&self, repository: &str, version: &str, media_type: &str, bytes: Bytes) {
        let key = (repository.to_owned(), version.to_owned());
        self.state
            .content()
            .manifests
            .insert(key, (media_type.to_owned(), bytes));
    }

    /// What was asked for so far: method and path.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.state.content().asked.clone()
    }
}

impl Registry {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer for those who have not proved who they are.
    fn unauthorized(&self, headers: &HeaderMap) -> Option<Response> {
        self.login.as_ref()?;
        let sent = headers.get(header::AUTHORIZATION);
        let sent = sent.and_then(|value| value.to_str().ok());
        (sent != Some(&format!("Bearer {TOKEN}"))).then(|| self.challenge())
    }

    fn challenge(&self) -> Response {
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"test\"",
            self.host
        );
        let mut response = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "who are you?");
        if let Ok(value) = realm.parse() {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }

    fn token(&self, headers: &HeaderMap) -> Response {
        let Some((user, password)) = &self.login else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let expected = format!(
            "Basic {}",
            BASE64_STANDARD.encode(format!("{user}:{password}"))
        );
        let sent = headers.get(header::AUTHORIZATION);
        if sent.and_then(|value| value.to_str().ok()) == Some(&expected) {
            return axum::Json(json!({ "token": TOKEN })).into_response();
        }
        error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong password")
    }

    fn blob(&self, method: &Method, digest: &str) -> Response {
        match self.content().blobs.get(digest) {
            Some(_) if method == Method::HEAD => StatusCode::OK.into_response(),
            Some(bytes) => bytes.clone().into_response(),
            None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob"),
        }
    }

    fn manifest(&self, repository: &str, version: &str) -> Response {
        let key = (repository.to_owned(), version.to_owned());
        match self.content().manifests.get(&key) {
            Some((media_type, bytes)) => {
                ([(header::CONTENT_TYPE, media_type.clone())], bytes.clone()).into_response()
            }
            None => error(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                "no such manifest",
            ),
        }
    }

    fn put(&self, repository: &str, version: &str, media_type: &str, bytes: &Bytes) -> Response {
        let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let entry = (media_type.to_owned(), bytes.clone());
        let mut content = self.content();
        for version in [version.to_owned(), digest(bytes)] {
            content
                .manifests
                .insert((repository.to_owned(), version), entry.clone());
        }
        let mut response = StatusCode::CREATED.into_response();
        if let Some(Ok(subject)) = value["subject"]["digest"].as_str().map(str::parse) {
            response.headers_mut().insert("oci-subject", subject);
        }
        response
    }

    fn referrers(&self, repository: &str, subject: &str) -> Response {
        let content = self.content();
        let mut found = Vec::new();
        for ((of, version), (media_type, bytes)) in &content.manifests {
            let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
            let about = value["subject"]["digest"] == subject;
            if of == repository && about && version.starts_with("sha256:") {
                found.push(json!({
                    "mediaType": media_type,
                    "digest": version,
                    "size": bytes.len(),
                    "artifactType": value["artifactType"],
                }));
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": found,
        });
        axum::Json(index).into_response()
    }
}

async fn handle(State(state): State<Arc<Registry>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    state
        .content()
        .asked
        .push(format!("{} {path}", parts.method));
    if path == "/token" {
        return state.token(&parts.headers);
    }
    if let Some(response) = state.unauthorized(&parts.headers) {
        return response;
    }
    let Ok(bytes) = to_bytes(Body::new(body), MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Some(rest) = path.strip_prefix("/v2/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let of = |kind: &str| {
        let (repository, rest) = rest.split_once(kind)?;
        Some((repository.to_owned(), rest.to_owned()))
    };
    if let Some((repository, _)) = of("/blobs/uploads/") {
        if parts.method == Method::POST {
            let location = format!("/v2/{repository}/blobs/uploads/one?state=x");
            return (StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response();
        }
        let query = parts.uri.query().unwrap_or_default();
        let name = query
            .split('&')
            .find_map(|part| part.strip_prefix("digest="));
        let name = name.unwrap_or_default().replace("%3A", ":");
        if name != digest(&bytes) {
            return error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "another digest");
        }
        state.content().blobs.insert(name, bytes);
        return StatusCode::CREATED.into_response();
    }
    if let Some((_, name)) = of("/blobs/") {
        return state.blob(&parts.method, &name);
    }
    if let Some((repository, subject)) = of("/referrers/") {
        return state.referrers(&repository, &subject);
    }
    match of("/manifests/") {
        Some((repository, version)) if parts.method == Method::PUT => {
            let kind = parts.headers.get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            state.put(&repository, &version, kind, &bytes)
        }
        Some((repository, version)) => state.manifest(&repository, &version),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({ "errors": [{ "code": code, "message": message }] });
    (status, axum::Json(body)).into_response()
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digits = hash.iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

/// Debian's `docker-registry` as a child process, ended when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    host: String,
    _dir: TempDir,
}

impl DockerRegistry {
    /// The registry, where it is installed. Says on standard error what is missing.
    ///
    /// # Errors
    /// [`TestkitError`] where it does not start.
    pub fn find() -> Result<Option<Self>, TestkitError> {
        Self::start(false)
    }

    /// The same, for nobody but [`REGISTRY_LOGIN`].
    ///
    /// # Errors
    /// [`TestkitError`] where it does not start.
    pub fn guarded() -> Result<Option<Self>, TestkitError> {
        Self::start(true)
    }

    fn start(is_guarded: bool) -> Result<Option<Self>, TestkitError> {
        if !Path::new(PROGRAM).is_file() {
            crate::skip(&format!(
                "{PROGRAM} is not there (Debian's docker-registry)"
            ));
            return Ok(None);
        }
        let dir = TempDir::with_prefix("rune-registry-").map_err(TestkitError::Process)?;
        let mut config = json!({
            "version": 0.1,
            "log": { "formatter": "json", "fields": {} },
            "storage": { "filesystem": { "rootdirectory": dir.path().join("data") } },
            "http": { "addr": "127.0.0.1:0" },
        });
        if is_guarded {
            let users = dir.path().join("htpasswd");
            std::fs::write(&users, HTPASSWD).map_err(TestkitError::Process)?;
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": users } });
        }
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).map_err(TestkitError::Process)?;
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&path)
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(TestkitError::Process)?;
        let log = child.stderr.take();
        let mut said = String::new();
        let mut lines = log
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufReader::lines);
        while let Some(line) = lines.next() {
            let line = line.map_err(TestkitError::Process)?;
            if let Some(rest) = line.split("listening on ").nth(1) {
                let host = rest
                    .split(['"', ',', ' '])
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                // A registry whose log nobody reads ends.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Some(Self {
                    child,
                    host,
                    _dir: dir,
                }));
            }
            said.push_str(&line);
        }
        Err(TestkitError::Timeout {
            waited: std::time::Duration::ZERO,
            what: "docker-registry to listen".to_owned(),
            saw: said,
        })
    }

    /// Its host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
