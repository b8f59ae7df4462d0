//! A client of the server, and `kubectl` with what it said.

use std::path::Path;
use std::time::Duration;

use rune_testkit_kubernetes::{ApiServer, Kubectl};
use serde_json::{Value, json};

/// How long something may take that is on its way.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A server and the `kubectl` of its administrator.
pub(crate) struct Judged {
    pub(crate) server: ApiServer,
    pub(crate) kubectl: Kubectl,
}

impl Judged {
    /// Starts a server, where `kubectl` is installed.
    pub(crate) async fn start() -> Option<Self> {
        let server = ApiServer::start().await.unwrap();
        let kubectl = Kubectl::admin(&server, "default").unwrap()?;
        Some(Self { server, kubectl })
    }

    /// Runs `kubectl`, which succeeds; answers what it printed.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        ok(&self.kubectl, args).await
    }

    /// Runs `kubectl`, which fails; answers what it said.
    pub(crate) async fn fails(&self, args: &[&str]) -> String {
        let output = self.kubectl.run(args).await.unwrap();
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Applies a manifest; answers what `kubectl` printed.
    pub(crate) async fn apply(&self, manifest: &Value) -> String {
        let file = manifest_file(manifest);
        self.ok(&["apply", "-f", path(file.path())]).await
    }

    /// An object as `kubectl` reads it.
    pub(crate) async fn read(&self, kind: &str, name: &str) -> Value {
        let said = self.ok(&["get", kind, name, "-o", "json"]).await;
        serde_json::from_str(&said).unwrap()
    }
}

pub(crate) async fn ok(kubectl: &Kubectl, args: &[&str]) -> String {
    let output = kubectl.run(args).await.unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out.into_owned()
}

pub(crate) fn manifest_file(manifest: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), manifest.to_string()).unwrap();
    file
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "busybox:1"}]},
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn account(namespace: &str, name: &str) -> Value {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
}

/// A role of a namespace, or of the cluster where that is empty, and its binding to an account.
pub(crate) fn role(namespace: &str, rule: &Value, subject: (&str, &str)) -> Value {
    let (prefix, metadata) = match namespace {
        "" => ("Cluster", json!({"name": "read"})),
        namespace => ("", json!({"name": "read", "namespace": namespace})),
    };
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let role = json!({
        "apiVersion": version, "kind": format!("{prefix}Role"), "metadata": metadata, "rules": [rule],
    });
    let binding = json!({
        "apiVersion": version, "kind": format!("{prefix}RoleBinding"), "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": format!("{prefix}Role"), "name": "read"},
        "subjects": [{"kind": "ServiceAccount", "namespace": subject.0, "name": subject.1}],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]})
}

/// A client with the administrator's token, for what `kubectl` does not do by itself.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// A status and the body.
pub(crate) type Answer = (u16, Value);

impl Client {
    pub(crate) fn new(server: &ApiServer) -> Self {
        let config = server.kubeconfig("default").unwrap();
        Self::from_kubeconfig(server, &config)
    }

    pub(crate) fn from_kubeconfig(server: &ApiServer, config: &Path) -> Self {
        let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
        let authority = reqwest::Certificate::from_pem(server.authority_pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only([authority]);
        Self {
            http: builder.build().unwrap(),
            url: server.url(),
            token: config["users"][0]["user"]["token"]
                .as_str()
                .unwrap()
                .to_owned(),
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().unwrap();
        let request = self.http.request(method, format!("{}{path}", self.url));
        request.bearer_auth(&self.token)
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let mut request = self.request(method, path);
        if !body.is_null() {
            let kind = match method {
                "PATCH" => "application/merge-patch+json",
                _ => "application/json",
            };
            request = request.header("content-type", kind).body(body.to_string());
        }
        answer(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &Value::Null).await
    }

    /// Opens a watch; its events come one a line.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.request("GET", path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Events {
            response,
            rest: Vec::new(),
        }
    }
}

async fn answer(response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

/// The events of a watch.
pub(crate) struct Events {
    response: reqwest::Response,
    rest: Vec<u8>,
}

/// How a watch goes on.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Event(String, Value),
    /// It ended as it should.
    End,
    /// Its connection broke.
    Broken,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Next {
        tokio::time::timeout(LIMIT, self.read()).await.unwrap()
    }

    async fn read(&mut self) -> Next {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).unwrap();
                let kind = event["type"].as_str().unwrap().to_owned();
                return Next::Event(kind, event["object"].take());
            }
            match self.response.chunk().await {
                Ok(Some(more)) => self.rest.extend_from_slice(&more),
                Ok(None) => return Next::End,
                Err(_) => return Next::Broken,
            }
        }
    }

    /// The next event that is no bookmark: its type, and the name of its object.
    pub(crate) async fn change(&mut self) -> (String, String) {
        loop {
            match self.next().await {
                Next::Event(kind, _) if kind == "BOOKMARK" => {}
                Next::Event(kind, object) => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    return (kind, name.to_owned());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
