//! The table of every key.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Secret,
    Url,
    Path,
    Address,
    Count,
    Positive,
    Percent,
    Rate,
    LogFormat,
    Search,
    Sandbox,
    OnOff,
    Pairs,
    Taints,
    Peers,
}

/// One key: `TABLE.NAME` in the file and for flags.
#[derive(Debug)]
pub(crate) struct Key {
    /// Dotted name.
    pub(crate) name: &'static str,
    /// Environment variables; the first one that is set wins.
    pub(crate) env: &'static [&'static str],
    pub(crate) kind: Kind,
    pub(crate) default: Option<&'static str>,
    pub(crate) doc: &'static str,
}

impl Key {
    /// The table and the key inside it.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or((self.name, ""))
    }
}

/// The key of this dotted name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether a variable holds a secret of Rune's own: those of providers have the providers' names.
pub(crate) fn is_own_secret(variable: &str) -> bool {
    let mut secrets = KEYS.iter().filter(|key| key.kind == Kind::Secret);
    variable.starts_with("RUNE_") && secrets.any(|key| key.env.contains(&variable))
}

const fn key(
    name: &'static str,
    env: &'static [&'static str],
    kind: Kind,
    default: Option<&'static str>,
    doc: &'static str,
) -> Key {
    Key {
        name,
        env,
        kind,
        default,
        doc,
    }
}

const STOCK_IMAGE: &str = concat!("rune:", env!("CARGO_PKG_VERSION"));

/// Every key, by table.
pub(crate) const KEYS: &[Key] = &[
    key(
        "providers.anthropic_api_key",
        &["ANTHROPIC_API_KEY"],
        Kind::Secret,
        None,
        "Key of Anthropic.",
    ),
    key(
        "providers.anthropic_base_url",
        &["ANTHROPIC_BASE_URL"],
        Kind::Url,
        Some("https://api.anthropic.com"),
        "Base URL of Anthropic, without `/v1`.",
    ),
    key(
        "providers.claude_api_key",
        &["CLAUDE_API_KEY"],
        Kind::Secret,
        None,
        "Key of the claude-code provider.",
    ),
    key(
        "providers.gemini_api_key",
        &["GEMINI_API_KEY"],
        Kind::Secret,
        None,
        "Key of Gemini.",
    ),
    key(
        "providers.gemini_base_url",
        &["GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"],
        Kind::Url,
        Some("https://generativelanguage.googleapis.com"),
        "Base URL of Gemini, without a version.",
    ),
    key(
        "providers.gemini_model",
        &["GEMINI_MODEL"],
        Kind::Text,
        None,
        "Gemini model for aliases without a mapping.",
    ),
    key(
        "providers.copilot_token",
        &["COPILOT_TOKEN", "GITHUB_TOKEN"],
        Kind::Secret,
        None,
        "GitHub token that is exchanged for a Copilot token.",
    ),
    key(
        "providers.copilot_base_url",
        &["COPILOT_BASE_URL"],
        Kind::Url,
        None,
        "Base URL of Copilot; absent: what the token exchange says.",
    ),
    key(
        "providers.github_api_base_url",
        &["GITHUB_API_BASE_URL"],
        Kind::Url,
        Some("https://api.github.com"),
        "Base URL of the GitHub API, used for the token exchange.",
    ),
    key(
        "providers.openai_api_key",
        &["OPENAI_API_KEY"],
        Kind::Secret,
        None,
        "Key of OpenAI.",
    ),
    key(
        "providers.openai_base_url",
        &["OPENAI_BASE_URL"],
        Kind::Url,
        Some("https://api.openai.com/v1"),
        "Base URL of OpenAI, ending in `/v1`.",
    ),
    key(
        "providers.openai_model",
        &["OPENAI_MODEL"],
        Kind::Text,
        None,
        "OpenAI model for aliases without a mapping.",
    ),
    key(
        "gateway.addr",
        &[],
        Kind::Address,
        Some("127.0.0.1:8080"),
        "Where the gateway listens.",
    ),
    key(
        "gateway.base_url",
        &["RUNE_GATEWAY_BASE_URL"],
        Kind::Url,
        None,
        "Public URL of the gateway, for cards and links.",
    ),
    key(
        "gateway.api_key",
        &["RUNE_API_KEY"],
        Kind::Secret,
        None,
        "Key that callers present.",
    ),
    key(
        "gateway.jwt_secret",
        &["RUNE_JWT_SECRET"],
        Kind::Secret,
        None,
        "Secret that signs callers' tokens.",
    ),
    key(
        "gateway.jwks_url",
        &["RUNE_JWKS_URL"],
        Kind::Url,
        None,
        "Where the keys of callers' tokens are published.",
    ),
    key(
        "gateway.jwt_audience",
        &["RUNE_JWT_AUDIENCE"],
        Kind::Text,
        None,
        "Audience that callers' tokens must name.",
    ),
    key(
        "gateway.rate_limit_rps",
        &["RUNE_RATE_LIMIT_RPS"],
        Kind::Rate,
        None,
        "Requests per second and caller; absent: no limit.",
    ),
    key(
        "gateway.rate_limit_burst",
        &["RUNE_RATE_LIMIT_BURST"],
        Kind::Count,
        None,
        "Requests a caller may send at once; absent: the rate, rounded up.",
    ),
    key(
        "gateway.allowed_hosts",
        &["RUNE_ALLOWED_HOSTS"],
        Kind::Text,
        None,
        "Hosts under which `/mcp` may be asked for besides loopback and the public URL, with commas between: `rune.lan, 10.0.0.5:8080`; absent: all.",
    ),
    key(
        "gateway.allowed_origins",
        &["RUNE_ALLOWED_ORIGINS"],
        Kind::Text,
        None,
        "Origins of web pages that may call the gateway, with commas between: `https://chat.example.org`; pages of loopback and of the public URL may ask `/mcp` without.",
    ),
    key(
        "gateway.webhook_secret",
        &["RUNE_WEBHOOK_SECRET"],
        Kind::Secret,
        None,
        "Secret that signs generic webhooks.",
    ),
    key(
        "gateway.control_plane_url",
        &["RUNE_CONTROL_PLANE_URL"],
        Kind::Url,
        None,
        "Where the control plane of a gateway is that runs apart from it (`rune daemon start --role gateway`).",
    ),
    key(
        "gateway.internal_token",
        &["RUNE_INTERNAL_TOKEN"],
        Kind::Secret,
        None,
        "What the control plane knows such a gateway by; `rune token create --for gateway` makes it.",
    ),
    key(
        "a2a.legacy_card",
        &["RUNE_A2A_LEGACY_CARD"],
        Kind::OnOff,
        Some("on"),
        "`off` leaves out of A2A cards what only clients of version 0.3 look for.",
    ),
    key(
        "a2a.public_cards",
        &["RUNE_A2A_PUBLIC_CARDS"],
        Kind::OnOff,
        Some("on"),
        "`off` shows A2A cards only to callers with credentials.",
    ),
    key(
        "a2a.default_agent",
        &["RUNE_A2A_DEFAULT_AGENT"],
        Kind::Text,
        None,
        "`AGENT[:ALIAS]` whose card is at `/.well-known/agent-card.json`; absent: the only one.",
    ),
    key(
        "a2a.remote_hosts",
        &["RUNE_A2A_REMOTE_HOSTS"],
        Kind::Text,
        Some("*"),
        "Hosts where agents of other installations may be called, `HOST[:PORT]` or `*.HOST`, separated by commas; `*`: all, `none`: none.",
    ),
    key(
        "a2a.remote_credentials",
        &["RUNE_A2A_REMOTE_CREDENTIALS"],
        Kind::Secret,
        None,
        "What proves to agents of other installations who calls: `ORIGIN Bearer TOKEN` or `ORIGIN HEADER: VALUE`, one a line.",
    ),
    key(
        "a2a.push_notifications",
        &["RUNE_A2A_PUSH_NOTIFICATIONS"],
        Kind::OnOff,
        Some("on"),
        "`off` takes no webhooks of A2A tasks.",
    ),
    key(
        "a2a.push_allow_private",
        &["RUNE_A2A_PUSH_ALLOW_PRIVATE"],
        Kind::Text,
        None,
        "Addresses, networks and host names where webhooks of A2A tasks may be although they are not public, separated by commas.",
    ),
    key(
        "a2a.signing_key_file",
        &["RUNE_A2A_SIGNING_KEY_FILE"],
        Kind::Path,
        None,
        "File with the private key (PKCS#8 PEM, P-256) that signs A2A cards; absent: they are not signed.",
    ),
    key(
        "control_plane.addr",
        &[],
        Kind::Address,
        Some("127.0.0.1:8081"),
        "Where the control plane listens.",
    ),
    key(
        "storage.data_dir",
        &["RUNE_DATA_DIR"],
        Kind::Path,
        Some("~/.rune"),
        "Where Rune keeps its data.",
    ),
    key(
        "storage.database_url",
        &["DATABASE_URL"],
        Kind::Url,
        None,
        "`sqlite:PATH`; absent: `rune.db` in the data directory.",
    ),
    key(
        "storage.object_store_url",
        &["RUNE_OBJECT_STORE_URL"],
        Kind::Url,
        None,
        "`file:`, `s3:`, `gs:` or `az:` URL; absent: `objects` in the data directory.",
    ),
    key(
        "storage.object_grace_secs",
        &["RUNE_OBJECT_GRACE_SECS"],
        Kind::Positive,
        None,
        "How long an object that nothing refers to is kept, in seconds; absent: a day where database and objects are in the data directory, for ever elsewhere.",
    ),
    key(
        "storage.secret_key",
        &["RUNE_SECRET_KEY"],
        Kind::Secret,
        None,
        "Key that tools' secrets are encrypted with, 64 hexadecimal digits; absent: `secret.key` in the data directory.",
    ),
    key(
        "storage.cluster_secret",
        &["RUNE_CLUSTER_SECRET"],
        Kind::Secret,
        None,
        "What the nodes of a cluster have in common and nobody else knows, at least 32 characters (`openssl rand -hex 32`); absent: what is in the file.",
    ),
    key(
        "storage.cluster_secret_file",
        &["RUNE_CLUSTER_SECRET_FILE"],
        Kind::Path,
        None,
        "File with the secret of the cluster, readable by its owner alone; absent: `cluster.secret` in the data directory.",
    ),
    key(
        "observability.log",
        &["RUST_LOG"],
        Kind::Text,
        Some("info"),
        "Log filter, as in `info,rune_runtime=debug`.",
    ),
    key(
        "observability.log_format",
        &["RUNE_LOG_FORMAT"],
        Kind::LogFormat,
        Some("pretty"),
        "`pretty` or `json`.",
    ),
    key(
        "observability.otel_endpoint",
        &["OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        Kind::Url,
        None,
        "OTLP gRPC endpoint for traces; absent: none are sent.",
    ),
    key(
        "runtime.workspace_dir",
        &["RUNE_WORKSPACE_DIR"],
        Kind::Path,
        None,
        "Agents' workspaces; absent: `workspaces` in the data directory.",
    ),
    key(
        "runtime.drain_grace_secs",
        &["RUNE_DRAIN_GRACE_SECS"],
        Kind::Count,
        Some("30"),
        "Longest time running requests get at shutdown, in seconds.",
    ),
    key(
        "runtime.replica_image",
        &["RUNE_REPLICA_IMAGE"],
        Kind::Text,
        Some(STOCK_IMAGE),
        "Stock image of docker and kubernetes replicas.",
    ),
    key(
        "runtime.chrome_path",
        &["RUNE_CHROME_PATH"],
        Kind::Path,
        None,
        "Chromium or Chrome for the browser tools; absent: searched for in `PATH`.",
    ),
    key(
        "runtime.chrome_sandbox",
        &["RUNE_CHROME_SANDBOX"],
        Kind::OnOff,
        Some("on"),
        "`off` runs the browser without its own sandbox, where that cannot work.",
    ),
    key(
        "tools.location",
        &["RUNE_LOCATION"],
        Kind::Text,
        None,
        "Where this installation is, such as `Berlin, Germany`, for `rune@location-get`.",
    ),
    key(
        "tools.location_lookup",
        &["RUNE_LOCATION_LOOKUP"],
        Kind::Url,
        None,
        "URL of a service that says as JSON where an address is, for `rune@location-get` without `tools.location`; absent: nothing is looked up.",
    ),
    key(
        "tools.web_search",
        &["RUNE_WEB_SEARCH"],
        Kind::Search,
        Some("duckduckgo"),
        "Who answers `rune@web-search`: `duckduckgo`, `searxng`, `brave` or `tavily`.",
    ),
    key(
        "tools.web_search_url",
        &["RUNE_WEB_SEARCH_URL"],
        Kind::Url,
        None,
        "Base URL of the search backend; absent: its public one. SearXNG has none.",
    ),
    key(
        "tools.web_search_key",
        &["RUNE_WEB_SEARCH_KEY"],
        Kind::Secret,
        None,
        "Key of the search backend; Brave and Tavily want one.",
    ),
    key(
        "tools.sandbox",
        &["RUNE_SANDBOX"],
        Kind::Sandbox,
        Some("require"),
        "How processes of tools are confined: `require` (or not started), `best-effort` (by what this machine can do) or `off`.",
    ),
    key(
        "tools.allow_private",
        &["RUNE_ALLOW_PRIVATE"],
        Kind::Text,
        None,
        "Addresses, networks and host names that tools may connect to although they are not public, separated by commas.",
    ),
    key(
        "tools.docker_host",
        &["DOCKER_HOST"],
        Kind::Text,
        Some("unix:///var/run/docker.sock"),
        "Docker Engine for tools that are containers: `unix:///PATH` or `tcp://HOST:PORT`.",
    ),
    key(
        "tools.docker_exec_containers",
        &["RUNE_DOCKER_EXEC_CONTAINERS"],
        Kind::Text,
        None,
        "Names of the containers that `rune@docker-exec` may run commands in, separated by commas; absent: none.",
    ),
    key(
        "kubernetes.kubeconfig",
        &["RUNE_KUBECONFIG"],
        Kind::Path,
        None,
        "Kubeconfig of the cluster; absent: the usual one, else the service account of the pod that the daemon is in.",
    ),
    key(
        "kubernetes.namespace",
        &["RUNE_KUBERNETES_NAMESPACE"],
        Kind::Text,
        Some("rune"),
        "Namespace of the pods of replicas; it must exist.",
    ),
    key(
        "kubernetes.pod",
        &["RUNE_KUBERNETES_POD"],
        Kind::Text,
        None,
        "Name of the pod that the daemon is in; what owns that one owns the pods of replicas, too.",
    ),
    key(
        "kubernetes.daemon_url",
        &["RUNE_KUBERNETES_DAEMON_URL"],
        Kind::Url,
        None,
        "URL at which pods of replicas reach the daemon, such as `http://rune:8082`; the backend kubernetes needs it.",
    ),
    key(
        "kubernetes.replica_addr",
        &["RUNE_KUBERNETES_REPLICA_ADDR"],
        Kind::Address,
        Some("0.0.0.0:8082"),
        "Where the daemon listens for replicas, and for nobody else, with the backend kubernetes.",
    ),
    key(
        "kubernetes.daemon_from",
        &["RUNE_KUBERNETES_DAEMON_FROM"],
        Kind::Peers,
        None,
        "Where the daemon comes from that is no pod of the namespace: networks (`10.1.2.0/24`), addresses, and names of namespaces, separated by commas; network policies let it reach its replicas.",
    ),
    key(
        "kubernetes.service_account",
        &["RUNE_KUBERNETES_SERVICE_ACCOUNT"],
        Kind::Text,
        None,
        "Service account of the pods of replicas, whose token they do not get; absent: that of the namespace.",
    ),
    key(
        "kubernetes.workspace_claim",
        &["RUNE_KUBERNETES_WORKSPACE_CLAIM"],
        Kind::Text,
        None,
        "PersistentVolumeClaim with the workspaces of agents; absent: a pod has an empty one, which is gone with it.",
    ),
    key(
        "kubernetes.seccomp_profile",
        &["RUNE_KUBERNETES_SECCOMP_PROFILE"],
        Kind::Text,
        None,
        "Seccomp profile of the nodes, such as `rune/replica.json`, under which a pod confines its tools; absent: that of the container runtime, which forbids it.",
    ),
    key(
        "kubernetes.node_selector",
        &["RUNE_KUBERNETES_NODE_SELECTOR"],
        Kind::Pairs,
        None,
        "Labels of the nodes on which pods of replicas may be: `KEY=VALUE`, separated by commas, or one a line.",
    ),
    key(
        "kubernetes.tolerations",
        &["RUNE_KUBERNETES_TOLERATIONS"],
        Kind::Taints,
        None,
        "Taints that pods of replicas tolerate: `KEY[=VALUE][:EFFECT]`, `*` for every key, separated by commas, or one a line.",
    ),
    key(
        "kubernetes.annotations",
        &["RUNE_KUBERNETES_ANNOTATIONS"],
        Kind::Pairs,
        None,
        "Annotations of the pods of replicas: `KEY=VALUE`, separated by commas, or one a line.",
    ),
    key(
        "kubernetes.start_timeout_secs",
        &["RUNE_KUBERNETES_START_TIMEOUT_SECS"],
        Kind::Positive,
        Some("300"),
        "How long a pod of a replica may take until it is ready, with the time to pull its image, in seconds.",
    ),
    key(
        "admission.max_deployments",
        &["RUNE_ADMISSION_MAX_DEPLOYMENTS"],
        Kind::Count,
        Some("1000"),
        "Deployments that a namespace may have, those that are stopped included; 0: no limit.",
    ),
    key(
        "admission.max_replicas",
        &["RUNE_ADMISSION_MAX_REPLICAS"],
        Kind::Count,
        Some("1000"),
        "Replicas that are to run in a namespace, of all its deployments together; scaling keeps within it. 0: no limit.",
    ),
    key(
        "admission.policies",
        &["RUNE_ADMISSION_POLICIES"],
        Kind::Text,
        None,
        "Files of Cedar policies about what may be published and deployed, and by whom, separated by commas; absent: what is valid is admitted.",
    ),
    key(
        "packages.trusted_keys",
        &["RUNE_TRUSTED_KEYS"],
        Kind::Text,
        None,
        "Files with the public ed25519 keys of those whose packages may be deployed and run from a registry, separated by commas; absent: packages need no signature.",
    ),
    key(
        "recovery.max_attempts",
        &[],
        Kind::Positive,
        Some("5"),
        "After how many crashes of the daemon in the middle of it a request is given up.",
    ),
    key(
        "recovery.parallelism",
        &[],
        Kind::Positive,
        Some("100"),
        "Interrupted requests that are taken up again at the same time at the most.",
    ),
    key(
        "recovery.backoff_ms",
        &[],
        Kind::Count,
        Some("1000"),
        "Pause after the start for a request that crashed twice, in milliseconds; doubles with every further crash.",
    ),
    key(
        "recovery.max_backoff_ms",
        &[],
        Kind::Count,
        Some("60000"),
        "Longest of these pauses, in milliseconds; up to half is added to it, so that not all end together.",
    ),
    key(
        "scaling.target_percent",
        &["RUNE_SCALING_TARGET_PERCENT"],
        Kind::Percent,
        Some("70"),
        "How much of what replicas take at the same time (`concurrency_limit`) is to be used, in percent: with less, more replicas are started before requests have to wait.",
    ),
    key(
        "scaling.down_after_secs",
        &["RUNE_SCALING_DOWN_AFTER_SECS"],
        Kind::Positive,
        Some("60"),
        "How long fewer replicas have to be enough before some are let go, in seconds.",
    ),
    key(
        "scaling.zero_after_secs",
        &["RUNE_SCALING_ZERO_AFTER_SECS"],
        Kind::Positive,
        Some("300"),
        "How long there has to be nothing to do before the last replica of an agent with `min_replicas: 0` is let go, in seconds.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::{Config, ConfigSources, Overrides};

    #[test]
    fn no_secret_of_runes_own_is_a_variable_of_agents() {
        let config = Config::load(ConfigSources {
            env: Arc::new(|name| (name == "HOME").then(|| "/home/of-nobody".to_owned())),
            file: None,
            overrides: Overrides::new(),
        });
        let secrets = KEYS.iter().filter(|key| key.kind == Kind::Secret);
        let names: Vec<&str> = secrets.flat_map(|key| key.env).copied().collect();
        let values = names.iter().map(|name| ((*name).to_owned(), "x".into()));
        let config = config
            .unwrap()
            .with_variables(values.collect::<BTreeMap<_, _>>());
        let (own, others): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|name| name.starts_with("RUNE_"));
        for name in ["RUNE_JWT_SECRET", "RUNE_SECRET_KEY", "RUNE_INTERNAL_TOKEN"] {
            assert!(own.contains(&name), "{name}");
        }
        for name in own {
            assert_eq!(config.variable(name), None, "{name}");
        }
        for name in others {
            assert_eq!(config.variable(name).as_deref(), Some("x"), "{name}");
        }
    }
}
