//! Objects and backups in a bucket, with a server on the wire that others have written (moto).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use rune_testkit::{
    ModelScript, ModelServer, Protocol, Reply, TestDaemon, TestDaemonBuilder, ToolCall,
};
use serde_json::json;

use crate::home::{RUNE, Ran, Served};
use crate::python::{S3, interpreter};
use crate::wire::{Api, Tool, answer, assert_no_panic, deploy};

const AGENT: &str = "agent";
const BUCKET: &str = "acme";
/// It must be nowhere but in the environment.
const SECRET: &str = "wJalrXUtnFEMI-K7MDENG-secret";

/// Larger than what is sent at once.
const OUTPUT_BYTES: usize = 19_999_998;
const LARGE: Tool<'static> = Tool {
    name: "large",
    script: "printf '\"'; head -c 19999998 /dev/zero | tr '\\0' x; printf '\"'\n",
    yaml: "limits: {output_bytes: 33554432}\ntimeout_ms: 60000\n",
};

/// Only who has made an object may replace it.
const REPLACE: &str = "import sys, boto3
_, url, bucket, key = sys.argv
client = boto3.client('s3', endpoint_url=url, region_name='eu-central-1',
    aws_access_key_id='AKIAEXAMPLE', aws_secret_access_key='any')
client.put_object(Bucket=bucket, Key=key, Body=sys.stdin.buffer.read())";

/// A server of buckets.
struct Buckets {
    python: PathBuf,
    child: Child,
    url: String,
    client: Client,
}

impl Buckets {
    /// With one bucket; none where this machine has no such server, which is said.
    async fn start() -> Option<Self> {
        let python = interpreter(&S3)?;
        let mut child = Command::new(&python)
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = said.by_ref().find_map(|line| {
            let line = line.unwrap();
            let (_, url) = line.split_once("Running on ")?;
            Some(url.trim().to_owned())
        });
        // Whoever does not read what it says makes it wait.
        std::thread::spawn(move || said.for_each(drop));
        let buckets = Self {
            python,
            child,
            url: url.unwrap(),
            client: Client::new(),
        };
        let made = buckets.client.put(format!("{}/{BUCKET}", buckets.url));
        assert_eq!(made.send().await.unwrap().status(), 200);
        Some(buckets)
    }

    /// A daemon with this setting that may use the bucket.
    fn daemon(&self) -> TestDaemonBuilder {
        TestDaemon::builder(RUNE)
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "eu-central-1")
            .env("RUST_LOG", "debug")
    }

    /// The keys below a prefix.
    async fn keys(&self, prefix: &str) -> Vec<String> {
        let url = format!("{}/{BUCKET}?list-type=2&prefix={prefix}", self.url);
        let listed = self.client.get(url).send().await.unwrap();
        let listed = listed.text().await.unwrap();
        let keys = listed.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap().to_owned())
            .collect()
    }

    /// Changes an object behind everybody's back.
    fn replace(&self, key: &str, content: &[u8]) {
        let mut command = Command::new(&self.python);
        command
            .args(["-c", REPLACE, &self.url, BUCKET, key])
            .env_clear();
        Ran::with_bytes(command, content).ok();
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("large")
        .reply(Reply::calls([ToolCall::new("large", json!({}))]))
        .then(Reply::echo())
}

/// Has the agent make a large output; answers where that is read.
async fn make_output(api: &Api) -> String {
    let (_, done) = api.ask(AGENT, &json!({"input": "large"})).await;
    assert_eq!(done["status"], "completed", "{done}");
    let session = done["session_id"].as_str().unwrap();
    let request = done["request_id"].as_str().unwrap();
    let (_, context) = answer(api.get(&format!("/v1/requests/{request}/context")))
        .await
        .unwrap();
    let handle = &context["spilled"][0]["handle"];
    format!(
        "/v1/sessions/{session}/outputs/{}",
        handle.as_str().unwrap()
    )
}

async fn output_bytes(api: &Api, path: &str) -> usize {
    let answer = api.get(path).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.bytes().await.unwrap().len()
}

fn assert_no_secret(served: &Served, ran: &[&Ran]) {
    assert!(!served.0.log().contains(SECRET));
    for ran in ran {
        assert!(!ran.stderr.contains(SECRET) && !ran.stdout.contains(SECRET));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_with_its_objects_in_a_bucket_is_backed_up_to_a_bucket_and_restored() {
    let Some(buckets) = Buckets::start().await else {
        return;
    };
    let server = ModelServer::start(script()).await.unwrap();
    let url = format!("s3://{BUCKET}/rune");
    let builder = buckets.daemon().env("RUNE_OBJECT_STORE_URL", &url);
    let mut served = Served(builder.start().await.unwrap());
    deploy(&served, AGENT, &[(&server, Protocol::Openai)], &[LARGE], "");
    let api = Api::of(&served.0);
    let path = make_output(&api).await;
    assert_eq!(output_bytes(&api, &path).await, OUTPUT_BYTES);
    let kept = buckets.keys("rune/sha256/").await;
    assert_eq!(kept.len(), 2, "the package and the output: {kept:?}");
    assert!(!served.0.data_dir().join("objects").exists());

    let target = format!("s3://{BUCKET}/backups/nightly");
    let made = served.rune(&["backup", &target, "-o", "json"]).json();
    assert_eq!((&made["objects"], &made["lost"]), (&json!(2), &json!([])));
    let second = served.rune(&["backup", &target, "-o", "json"]).json();
    assert!(second["written_parts"].as_u64() < made["written_parts"].as_u64());
    served.rune(&["backup", "verify", &target]).ok();
    let listed = served.rune(&["backup", "ls", &target, "-o", "json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");

    // Another daemon, on another machine, with its objects in a directory.
    served.0.kill9().unwrap();
    let mut other = Served(buckets.daemon().start().await.unwrap());
    other.0.terminate().await.unwrap();
    fs::remove_dir_all(other.0.data_dir()).unwrap();
    let ran = other.rune(&["restore", &target]).ends(0);
    other.0.restart().await.unwrap();
    let api = Api::of(&other.0);
    assert_eq!(output_bytes(&api, &path).await, OUTPUT_BYTES);
    let (status, body) = api.ask(AGENT, &json!({"input": "still there?"})).await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: still there?"))
    );
    assert_no_secret(&served, &[]);
    assert_no_secret(&other, &[&ran]);
    assert_no_panic(&other);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_said_and_names_it() {
    let Some(buckets) = Buckets::start().await else {
        return;
    };
    let mut served = Served(buckets.daemon().start().await.unwrap());
    crate::home::write_plain(&served.0.home().join("plain"));
    served.rune(&["run", "plain"]).ok();
    let ran = served.rune(&["backup", "s3://nobodys/backups"]).ends(1);
    assert!(
        ran.stderr.contains("s3://nobodys/backups") && ran.stderr.contains("NoSuchBucket"),
        "{}",
        ran.stderr
    );
    let ran = served
        .rune(&["backup", "s3://user:pass@acme/backups"])
        .ends(1);
    assert!(
        ran.stderr.contains("credentials come from the environment")
            && !ran.stderr.contains("pass@"),
        "{}",
        ran.stderr
    );
    served.0.terminate().await.unwrap();
    let target = format!("s3://{BUCKET}/backups");
    served.rune(&["backup", &target]).ok();
    // A backup of the same in a directory has the same parts.
    served.rune(&["backup", "backups"]).ok();
    let keys = buckets.keys("backups/objects/").await;
    assert!(keys.len() >= 2, "{keys:?}");
    let mut altered = fs::read(served.0.home().join(&keys[0])).unwrap();
    altered[0] ^= 1;
    buckets.replace(&keys[0], &altered);
    let ran = served.rune(&["backup", "verify", &target]).ends(1);
    let named = format!("s3://{BUCKET}/{}", keys[0]);
    assert!(ran.stderr.contains(&named), "{}", ran.stderr);
    assert_no_secret(&served, &[&ran]);
}
