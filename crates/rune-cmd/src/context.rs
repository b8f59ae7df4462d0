//! What every command starts from: configuration, output, and where the daemon is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use rune_env::{Config, Overrides};

use crate::cli::Global;
use crate::client::Client;
use crate::daemon::instance::Address;
use crate::failure::{Failure, Outcome, chain};
use crate::output::{Output, Style};

/// What every command starts from.
pub(crate) struct Context {
    /// The configuration.
    pub(crate) config: Config,
    /// Where to print.
    pub(crate) output: Output,
    /// Whether details are wanted.
    pub(crate) verbose: bool,
    gateway: Option<String>,
    control_plane: Option<String>,
}

impl Context {
    /// Reads the configuration.
    pub(crate) fn new(global: Global, overrides: Overrides) -> Outcome<Self> {
        let overrides = overrides.with(
            "storage.data_dir",
            global.data_dir.map(|dir| dir.display().to_string()),
        );
        let config = Config::from_process(None, overrides).map_err(|error| {
            Failure::usage(format!("the configuration is not valid: {}", chain(&error)))
                .help("`rune schema config` prints what config.toml may hold")
        })?;
        let output = Output {
            format: global.output,
            style: Style::detect(global.no_color),
            data_style: Style::detect_stdout(global.no_color),
        };
        Ok(Self {
            config,
            output,
            verbose: global.verbose,
            gateway: global.gateway,
            control_plane: global.control_plane,
        })
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.storage.data_dir
    }

    /// The base URL of the gateway: flag, `RUNE_GATEWAY_BASE_URL`, the running daemon's, the configured address.
    pub(crate) fn gateway_url(&self) -> String {
        let running = || Address::read(self.data_dir()).and_then(|address| address.gateway);
        let given = self.gateway.clone();
        given
            .or_else(|| self.config.gateway.base_url.clone())
            .or_else(running)
            .unwrap_or_else(|| url_of(self.config.gateway.addr))
    }

    /// The base URL of the control plane: flag, the running daemon's, the configured address.
    pub(crate) fn control_plane_url(&self) -> String {
        let running = || Address::read(self.data_dir()).map(|address| address.control_plane);
        let given = self.control_plane.clone();
        given
            .or_else(running)
            .unwrap_or_else(|| url_of(self.config.control_plane.addr))
    }

    /// A client of the daemon. Nothing is connected yet.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::new(self.gateway_url(), self.control_plane_url(), &self.config)
    }

    /// Runs the asynchronous part of a command on one thread.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::because("cannot start the runtime", &error))?;
        let result = runtime.block_on(work);
        // A blocked read of stdin must not keep the process alive.
        runtime.shutdown_background();
        result
    }
}

/// How to reach an address from this machine.
pub(crate) fn url_of(mut addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{addr}")
}
