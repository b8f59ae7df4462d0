//! A gateway whose control plane is behind a proxy with TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rune_testkit::TestDaemon;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{control_plane, gateway_token, wait_ready};
use crate::home::{Home, RUNE, Ran, Served, write_plain};
use crate::wire::{Api, Events, spawn};

/// Whoever signs certificates; only those who are told of it take them.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its own certificate, in a file.
    fn file(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }

    /// What proves to be this host.
    fn acceptor(&self, host: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth();
        let config = config
            .with_single_cert(vec![signed.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A proxy that ends TLS and passes on what comes.
struct Terminator {
    url: String,
    /// Connections over which something could be said.
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Terminator {
    /// In front of a server.
    async fn start(acceptor: TlsAcceptor, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                drop(spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                }));
            }
        });
        Self {
            url,
            accepted,
            task,
        }
    }
}

/// A gateway that takes certificates of these authorities.
async fn gateway(control_plane: &str, token: &str, authorities: &Path) -> Served {
    let builder = TestDaemon::builder(RUNE)
        .env("RUNE_CONTROL_PLANE_URL", control_plane)
        .env("RUNE_INTERNAL_TOKEN", token)
        .env("SSL_CERT_FILE", authorities.to_str().unwrap());
    Served(builder.arg("--role").arg("gateway").start().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_its_control_plane_over_tls_and_takes_no_strange_certificate() {
    let control_plane = control_plane().await;
    write_plain(&control_plane.0.home().join("plain"));
    control_plane.rune(&["run", "plain"]).ok();
    let token = gateway_token(&control_plane);
    let behind = reqwest::Url::parse(control_plane.0.control_plane()).unwrap();
    let behind = behind.socket_addrs(|| None).unwrap()[0];
    let (own, strange) = (Authority::new(), Authority::new());
    let dir = control_plane.0.home();
    let (own_file, strange_file) = (own.file(dir, "own.pem"), strange.file(dir, "strange.pem"));
    let proxy = Terminator::start(own.acceptor("127.0.0.1"), behind).await;

    let served = gateway(&proxy.url, &token, &own_file).await;
    let api = Api::of(&served.0);
    wait_ready(&api, 200).await;
    let (status, asked) = api.ask("plain", &json!({"input": "hi"})).await;
    assert_eq!((status, &asked["output"]), (200, &json!("Echo: hi")));
    let body = json!({"input": "again", "stream": true});
    let streamed = Events::of(api.invoke("plain", &body).send().await.unwrap());
    assert!(streamed.rest().await.last().unwrap().is_last());
    assert!(proxy.accepted.load(Ordering::SeqCst) > 0);
    // Nobody on the way can read the token, so nothing is said of it.
    assert!(
        !served.0.log().contains("without TLS"),
        "{}",
        served.0.log()
    );

    // Of an authority that it does not know, and of another host.
    let elsewhere = "control-plane.example.org";
    for (host, authorities) in [("127.0.0.1", &strange_file), (elsewhere, &own_file)] {
        let proxy = Terminator::start(own.acceptor(host), behind).await;
        let home = Home::new();
        let mut command = home.command(&["daemon", "start", "--role", "gateway"]);
        command
            .args(["--gateway-addr", "127.0.0.1:0"])
            .env("RUNE_CONTROL_PLANE_URL", &proxy.url)
            .env("RUNE_INTERNAL_TOKEN", &token)
            .env("SSL_CERT_FILE", authorities);
        Ran::new(command).ok();
        let base = home.gateway();
        for path in ["/v1/agents", "/ready"] {
            let refused = reqwest::get(format!("{base}{path}")).await.unwrap();
            assert_eq!(refused.status(), 503, "{path}");
        }
        home.rune(&["daemon", "stop"]).ok();
        let log = std::fs::read_to_string(home.path().join(".rune/daemon.log")).unwrap();
        assert!(log.contains("certificate"), "{log}");
        // It was never shown the token.
        assert_eq!(proxy.accepted.load(Ordering::SeqCst), 0);
        assert!(!log.contains(&token), "{log}");
    }
}
