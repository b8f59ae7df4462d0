//! Configuration as an operator meets it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rune_env::{
    Config, ConfigError, ConfigSources, LogFormat, Origin, Overrides, Provider, RecoveryConfig,
    SandboxMode, ScalingConfig, schema,
};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

struct Case {
    home: TempDir,
    env: BTreeMap<String, String>,
    file: Option<PathBuf>,
    overrides: Overrides,
}

impl Case {
    fn new(env: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut env: BTreeMap<String, String> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        env.insert("HOME".to_owned(), home.path().to_str().unwrap().to_owned());
        Self {
            home,
            env,
            file: None,
            overrides: Overrides::new(),
        }
    }

    fn default_file(self, text: &str) -> Self {
        fs::create_dir(self.home.path().join(".rune")).unwrap();
        fs::write(self.home.path().join(".rune/config.toml"), text).unwrap();
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.overrides = self.overrides.with(key, Some(value));
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let env = self.env.clone();
        Config::load(ConfigSources {
            env: Arc::new(move |name| env.get(name).cloned()),
            file: self.file.clone(),
            overrides: self.overrides.clone(),
        })
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn has_usable_defaults() {
    let case = Case::new(&[]);
    let config = case.load().unwrap();
    let data = case.home.path().join(".rune");
    assert_eq!(config.gateway.addr.to_string(), "127.0.0.1:8080");
    assert_eq!(config.control_plane.addr.to_string(), "127.0.0.1:8081");
    assert_eq!(config.storage.data_dir, data);
    assert_eq!(
        config.storage.database_url,
        format!("sqlite:{}", data.join("rune.db").display())
    );
    assert_eq!(config.runtime.workspace_dir, data.join("workspaces"));
    assert_eq!(config.runtime.drain_grace, Duration::from_secs(30));
    assert_eq!(config.observability.log_format, LogFormat::Pretty);
    assert_eq!(
        config.providers.openai_base_url,
        "https://api.openai.com/v1"
    );
    assert_eq!(config.providers.preferred(), Provider::Offline);
    assert!(!config.gateway.has_auth());
}

#[test]
fn flags_win_over_environment_over_file() {
    let case = Case::new(&[("RUNE_DRAIN_GRACE_SECS", "7"), ("RUST_LOG", "debug")])
        .default_file("[runtime]\ndrain_grace_secs = 5\nreplica_image = \"own:1\"\n[observability]\nlog = \"warn\"\n")
        .flag("observability.log", "trace");
    let config = case.load().unwrap();
    assert_eq!(config.runtime.replica_image, "own:1");
    assert_eq!(config.runtime.drain_grace, Duration::from_secs(7));
    assert_eq!(config.observability.log, "trace");
    let origin = |key: &str| {
        config
            .redacted()
            .iter()
            .find(|entry| entry.key == key)
            .unwrap()
            .origin
            .clone()
    };
    let path = case.home.path().join(".rune/config.toml");
    assert_eq!(
        origin("runtime.replica_image"),
        Origin::File { path, line: 3 }
    );
    assert_eq!(
        origin("runtime.drain_grace_secs"),
        Origin::Env("RUNE_DRAIN_GRACE_SECS")
    );
    assert_eq!(origin("observability.log"), Origin::Flag);
    assert_eq!(origin("gateway.addr"), Origin::Default);
}

#[test]
fn objects_are_removed_unasked_only_where_everything_is_in_the_data_directory() {
    let grace = |env: &[(&str, &str)]| Case::new(env).load().unwrap().storage.object_grace;
    let day = Some(Duration::from_secs(86_400));
    let bucket = ("RUNE_OBJECT_STORE_URL", "s3://acme/rune");
    assert_eq!(grace(&[]), day);
    assert_eq!(grace(&[bucket]), None);
    assert_eq!(
        grace(&[("DATABASE_URL", "sqlite:/elsewhere/rune.db")]),
        None
    );
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(grace(&[bucket, ("RUNE_OBJECT_GRACE_SECS", "3600")]), hour);
}

#[test]
fn a_bucket_is_asked_with_the_variables_of_its_vendor() {
    let env = [
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_PROFILE", "other"),
    ];
    let variables = Case::new(&env).load().unwrap().object_store_variables();
    let expected = [("AWS_REGION", "eu-central-1".to_owned())];
    assert_eq!(variables.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn reads_how_requests_are_taken_up_again() {
    let config = Case::new(&[]).load().unwrap();
    assert_eq!(config.recovery, RecoveryConfig::default());
    let text =
        "[recovery]\nmax_attempts = 3\nparallelism = 7\nbackoff_ms = 0\nmax_backoff_ms = 250\n";
    let config = Case::new(&[]).default_file(text).load().unwrap();
    let expected = RecoveryConfig {
        max_attempts: 3,
        parallelism: 7,
        backoff: Duration::ZERO,
        max_backoff: Duration::from_millis(250),
    };
    assert_eq!(config.recovery, expected);
    let error = Case::new(&[])
        .default_file("[recovery]\n\nmax_attempts = 0\n")
        .error();
    assert!(error.contains("config.toml:3"), "{error}");
    assert!(error.contains("a whole number greater than 0"), "{error}");
}

#[test]
fn reads_how_deployments_are_scaled() {
    let config = Case::new(&[]).load().unwrap();
    assert_eq!(config.scaling, ScalingConfig::default());
    let text = "[scaling]\ntarget_percent = 100\ndown_after_secs = 2\n";
    let env = [("RUNE_SCALING_ZERO_AFTER_SECS", "3")];
    let config = Case::new(&env).default_file(text).load().unwrap();
    let expected = ScalingConfig {
        target_percent: 100,
        down_after: Duration::from_secs(2),
        zero_after: Duration::from_secs(3),
    };
    assert_eq!(config.scaling, expected);
    let error = Case::new(&[])
        .default_file("[scaling]\ntarget_percent = 101\n")
        .error();
    assert!(error.contains("a whole number from 1 to 100"), "{error}");
}

#[test]
fn chooses_the_first_provider_with_a_key() {
    let preferred = |env: &[(&str, &str)]| Case::new(env).load().unwrap().providers.preferred();
    assert_eq!(
        preferred(&[("OPENAI_API_KEY", "k"), ("GITHUB_TOKEN", "k")]),
        Provider::Copilot
    );
    assert_eq!(
        preferred(&[("GEMINI_API_KEY", "k"), ("CLAUDE_API_KEY", "k")]),
        Provider::ClaudeCode
    );
    assert_eq!(
        preferred(&[("OPENAI_API_KEY", "k"), ("ANTHROPIC_API_KEY", "k")]),
        Provider::Anthropic
    );
    assert_eq!(preferred(&[("ANTHROPIC_API_KEY", "  ")]), Provider::Offline);
}

#[test]
fn reads_either_name_of_a_variable() {
    let config = Case::new(&[
        ("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9/"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
        ("COPILOT_TOKEN", "one\n"),
        ("GITHUB_TOKEN", "two"),
        ("RUNE_MCP_MY_SERVER_URL", "http://mcp"),
    ])
    .load()
    .unwrap();
    assert_eq!(config.providers.gemini_base_url, "http://127.0.0.1:9");
    assert_eq!(
        config.observability.otel_endpoint.as_deref(),
        Some("http://otel:4317")
    );
    assert_eq!(
        config
            .providers
            .copilot_token
            .as_ref()
            .unwrap()
            .expose_secret(),
        "one"
    );
    assert_eq!(
        config.mcp_server_url("my-server").as_deref(),
        Some("http://mcp")
    );
    assert_eq!(config.variable("GITHUB_TOKEN").as_deref(), Some("two"));
}

#[test]
fn refuses_unknown_keys_with_place_and_suggestion() {
    let check = |text: &str, expected: &str| {
        let error = Case::new(&[]).default_file(text).error();
        assert!(error.ends_with(expected), "{error}");
    };
    check(
        "[gateway]\nadr = \"x\"\n",
        "config.toml:2:1: unknown key `gateway.adr` (did you mean `gateway.addr`?)",
    );
    check(
        "[gatway]\naddr = \"x\"\n",
        "config.toml:1:2: unknown key `gatway` (did you mean `gateway`?)",
    );
    check(
        "addr = \"x\"\n",
        "config.toml:1:1: unknown key `addr` (did you mean `gateway.addr`?)",
    );
    check(
        "[gateway]\naddr = \n",
        "config.toml:2:8: string values must be quoted, expected literal string",
    );
}

#[test]
fn refuses_values_of_the_wrong_shape_and_says_where() {
    let file = |text: &str| Case::new(&[]).default_file(text).error();
    assert!(
        file("[gateway]\n  addr = 8080\n")
            .contains("config.toml:2:10: `gateway.addr` must be an address")
    );
    assert!(
        file("[gateway]\naddr = \"x\"\n")
            .contains("config.toml:2:8: `gateway.addr` must be an address")
    );
    let env = |name: &str, value: &str| Case::new(&[(name, value)]).error();
    assert_eq!(
        env("RUNE_LOG_FORMAT", "xml"),
        "environment variable `RUNE_LOG_FORMAT` must be `pretty` or `json`"
    );
    assert!(env("OPENAI_BASE_URL", "localhost").contains("`OPENAI_BASE_URL` must be a URL"));
    assert!(env("RUNE_RATE_LIMIT_RPS", "0").contains("greater than 0"));
    assert!(
        Case::new(&[])
            .flag("gateway.addr", "nowhere")
            .error()
            .starts_with("`gateway.addr` must be")
    );
    assert!(
        Case::new(&[])
            .flag("gateway.nothing", "x")
            .error()
            .contains("no configuration key")
    );
}

#[test]
fn an_explicitly_named_file_must_exist() {
    let mut case = Case::new(&[]);
    case.file = Some(case.home.path().join("missing.toml"));
    assert!(case.error().contains("missing.toml"));
}

#[test]
fn secrets_are_never_shown() {
    let config = Case::new(&[
        ("OPENAI_API_KEY", "sk-very-secret"),
        ("RUNE_API_KEY", "sk-very-secret"),
        (
            "RUNE_JWKS_URL",
            "https://user:sk-very-secret@host/keys?token=sk-very-secret",
        ),
    ])
    .load()
    .unwrap();
    let shown = serde_json::to_string(config.redacted()).unwrap();
    assert!(shown.contains("***@host/keys?***"), "{shown}");
    for text in [
        shown,
        format!("{config:?}"),
        format!("{:?}", config.providers),
    ] {
        assert!(!text.contains("very-secret"), "{text}");
    }
}

#[test]
fn rate_limit_has_a_burst() {
    let limit = |env: &[(&str, &str)]| Case::new(env).load().unwrap().gateway.rate_limit;
    assert_eq!(limit(&[("RUNE_RATE_LIMIT_BURST", "5")]), None);
    assert_eq!(limit(&[("RUNE_RATE_LIMIT_RPS", "2.5")]).unwrap().burst, 3);
    assert_eq!(
        limit(&[("RUNE_RATE_LIMIT_RPS", "2"), ("RUNE_RATE_LIMIT_BURST", "9")])
            .unwrap()
            .burst,
        9
    );
}

#[test]
fn limits_are_per_provider() {
    let case = Case::new(&[]).default_file(
        "[providers]\nopenai_model = \"m\"\n[providers.openai]\nrequests_per_minute = 60\nmax_concurrent = 4\n\
         [providers.my-server]\ntokens_per_minute = 1000\n",
    );
    let config = case.load().unwrap();
    let limits = &config.providers.limits;
    let numbers = |name: &str| {
        let limits = limits[name];
        let of = |limit: Option<std::num::NonZeroU32>| limit.map_or(0, std::num::NonZeroU32::get);
        [
            of(limits.requests_per_minute),
            of(limits.tokens_per_minute),
            of(limits.max_concurrent),
        ]
    };
    assert_eq!(numbers("openai"), [60, 0, 4]);
    assert_eq!(numbers("my-server"), [0, 1000, 0]);
    let shown = config
        .redacted()
        .iter()
        .find(|entry| entry.key == "providers.openai.max_concurrent");
    assert_eq!(shown.unwrap().value.as_deref(), Some("4"));
    let error = |text: &str| Case::new(&[]).default_file(text).error();
    let unknown = error("[providers.openai]\nrequest_per_minute = 1\n");
    assert!(
        unknown.ends_with(
            "config.toml:2:1: unknown key `providers.openai.request_per_minute` (did you mean `requests_per_minute`?)"
        ),
        "{unknown}"
    );
    for value in ["0", "-1", "1.5", "\"many\""] {
        let error = error(&format!("[providers.openai]\nmax_concurrent = {value}\n"));
        assert!(error.contains(
            "config.toml:2:18: `providers.openai.max_concurrent` must be a whole number greater than 0"
        ), "{error}");
    }
}

#[test]
fn callers_have_budgets() {
    let case = Case::new(&[]).default_file(
        "[budgets.default]\ncost_usd_per_day = 5\n[budgets.callers.\"a@b.org\"]\ncost_usd_per_day = 0.5\n\
         tokens_per_day = 1000\n[budgets.callers.ops]\n",
    );
    let config = case.load().unwrap();
    let of = |caller| {
        let budget = config.budgets.of(caller);
        (budget.cost_usd_per_day, budget.tokens_per_day)
    };
    assert_eq!(of("somebody"), (Some(5.0), None));
    assert_eq!(of("a@b.org"), (Some(0.5), Some(1000)));
    assert_eq!(of("ops"), (None, None), "its own table, without a limit");
    let shown = |key: &str| {
        let mut entries = config.redacted().iter();
        let entry = entries.find(|entry| entry.key == key).unwrap();
        (entry.value.clone().unwrap(), entry.origin.to_string())
    };
    assert_eq!(shown("budgets.default.cost_usd_per_day").0, "5");
    let (tokens, origin) = shown("budgets.callers.a@b.org.tokens_per_day");
    assert_eq!(tokens, "1000");
    assert!(origin.ends_with("config.toml:3"), "{origin}");

    let error = |text: &str| Case::new(&[]).default_file(text).error();
    for (text, expected) in [
        (
            "[budgets.default]\ncost_usd_per_dy = 1\n",
            "config.toml:2:1: unknown key `budgets.default.cost_usd_per_dy` (did you mean `cost_usd_per_day`?)",
        ),
        (
            "[budgets.caller.a]\n",
            "config.toml:1:10: unknown key `budgets.caller` (did you mean `callers`?)",
        ),
        (
            "[budgets.callers.a]\ncost_usd_per_day = -1\n",
            "config.toml:2:20: `budgets.callers.a.cost_usd_per_day` must be a number that is not negative",
        ),
        (
            "[budgets.default]\ntokens_per_day = 1.5\n",
            "config.toml:2:18: `budgets.default.tokens_per_day` must be a whole number that is not negative",
        ),
        (
            "[budgets]\ndefault = 3\n",
            "config.toml:2:11: `budgets.default` must be a table",
        ),
    ] {
        let error = error(text);
        assert!(error.ends_with(expected), "{error}");
    }
    let schema = &schema()["properties"]["budgets"];
    assert_eq!(schema["additionalProperties"], false);
    let named = &schema["properties"]["callers"]["additionalProperties"];
    assert_eq!(named["properties"]["tokens_per_day"]["type"], "integer");
}

#[test]
fn schema_lists_every_key() {
    let schema = schema();
    let limits = &schema["properties"]["providers"]["additionalProperties"];
    assert_eq!(limits["properties"]["max_concurrent"]["minimum"], 1);
    assert_eq!(limits["additionalProperties"], false);
    for entry in Case::new(&[]).load().unwrap().redacted() {
        let (table, name) = entry.key.split_once('.').unwrap();
        let property = &schema["properties"][table]["properties"][name];
        assert!(
            property["type"].is_string() || property["enum"].is_array(),
            "{}",
            entry.key
        );
        if table != "providers" {
            assert_eq!(schema["properties"][table]["additionalProperties"], false);
        }
    }
}

#[test]
fn an_address_that_is_asked_as_it_is_keeps_its_end() {
    let given = [
        ("RUNE_LOCATION_LOOKUP", " https://geo.example/json/ "),
        ("RUNE_WEB_SEARCH_URL", "https://search.example/"),
    ];
    let tools = Case::new(&given).load().unwrap().tools;
    assert_eq!(
        tools.location_lookup.as_deref(),
        Some("https://geo.example/json/")
    );
    assert_eq!(
        tools.web_search_url.as_deref(),
        Some("https://search.example")
    );
    for url in ["http:///", "geo.example/json", "https://geo example"] {
        assert!(
            Case::new(&[("RUNE_LOCATION_LOOKUP", url)]).load().is_err(),
            "{url}"
        );
    }
}

#[test]
fn the_sandbox_is_required_unless_somebody_says_otherwise() {
    let tools = Case::new(&[]).load().unwrap().tools;
    assert_eq!(tools.sandbox, SandboxMode::Require);
    assert!(tools.allow_private.is_empty());
    let given = [
        ("RUNE_SANDBOX", "best-effort"),
        ("RUNE_ALLOW_PRIVATE", "10.0.0.0/8, wiki.lan,"),
    ];
    let tools = Case::new(&given).load().unwrap().tools;
    assert_eq!(tools.sandbox, SandboxMode::BestEffort);
    assert_eq!(tools.allow_private, ["10.0.0.0/8", "wiki.lan"]);
    assert!(Case::new(&[("RUNE_SANDBOX", "none")]).load().is_err());
}

#[test]
fn the_browser_is_configured() {
    let config = Case::new(&[]).load().unwrap();
    assert!(config.runtime.chrome_sandbox);
    assert_eq!(config.runtime.chrome_path, None);
    let case = Case::new(&[
        ("RUNE_CHROME_PATH", "/opt/chrome"),
        ("RUNE_CHROME_SANDBOX", "off"),
    ]);
    let config = case.load().unwrap();
    assert!(!config.runtime.chrome_sandbox);
    assert_eq!(config.runtime.chrome_path, Some("/opt/chrome".into()));
    let wrong = Case::new(&[("RUNE_CHROME_SANDBOX", "maybe")]).error();
    assert!(wrong.contains("`on` or `off`"), "{wrong}");
}
