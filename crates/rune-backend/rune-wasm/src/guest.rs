//! What belongs to one run of a guest.

use std::sync::{Arc, Mutex, PoisonError};

use rune_tools::{EgressGate, Keep, Secrets, ToolError};
use serde_json::Value;
use wasmtime::ResourceLimiter;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::grants::{Grants, Opened};
use crate::http::{Egress, HttpClient};
use crate::output::Output;
use crate::secrets::Placeholders;

/// Elements of the tables of a guest, together.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

/// The state of one run.
pub(crate) struct Guest {
    wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    pub(crate) egress: Egress,
    pub(crate) limits: Limits,
}

/// The ends of a guest's standard streams and what was refused to it; outlives the guest.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) refusals: Refusals,
}

impl Ends {
    pub(crate) fn new(output_limit: usize) -> Self {
        Self {
            stdout: Output::new(Keep::answer(output_limit)),
            stderr: Output::new(Keep::diagnostics()),
            refusals: Refusals::default(),
        }
    }
}

/// What a guest is made of.
pub(crate) struct Source<'a> {
    pub(crate) grants: &'a Grants,
    /// It gets placeholders of them.
    pub(crate) secrets: &'a Secrets,
    pub(crate) directories: &'a [Opened],
    /// Its variables besides the granted ones.
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) gate: Option<Arc<dyn EgressGate>>,
    pub(crate) client: &'a Arc<HttpClient>,
    /// Bytes of memory that it may have.
    pub(crate) memory: u64,
    /// What it reads from its standard input.
    pub(crate) stdin: Option<&'a Value>,
    pub(crate) ends: &'a Ends,
}

impl Guest {
    /// A guest that has not begun.
    pub(crate) fn new(source: Source<'_>) -> Result<Self, ToolError> {
        let Source {
            grants,
            secrets,
            directories,
            variables,
            gate,
            client,
            memory,
            stdin,
            ends,
        } = source;
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(ends.stdout.clone()).stderr(ends.stderr.clone());
        if let Some(input) = stdin {
            wasi.stdin(MemoryInputPipe::new(input.to_string()));
        }
        for (name, value) in variables {
            wasi.env(name, value);
        }
        wasi.envs(&grants.env);
        let (placeholders, hidden) = Placeholders::hide(secrets)?;
        wasi.envs(&hidden);
        for directory in directories {
            directory.give(&mut wasi)?;
        }
        allow_sockets(&mut wasi, grants, client, gate.as_ref(), &ends.refusals);
        Ok(Self {
            wasi: wasi.build_p1(),
            http: WasiHttpCtx::new(),
            egress: Egress {
                client: Arc::clone(client),
                hosts: Arc::clone(&grants.hosts),
                secrets: Arc::new(placeholders),
                gate,
                refusals: ends.refusals.clone(),
            },
            limits: Limits::new(memory),
        })
    }

    pub(crate) const fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

/// Outgoing TCP to addresses that are granted, and to no others.
fn allow_sockets(
    wasi: &mut WasiCtxBuilder,
    grants: &Grants,
    client: &Arc<HttpClient>,
    gate: Option<&Arc<dyn EgressGate>>,
    refusals: &Refusals,
) {
    wasi.allow_udp(false)
        .allow_tcp(grants.hosts.has_address())
        .allow_ip_name_lookup(grants.hosts.has_names());
    if !grants.hosts.has_address() {
        return;
    }
    let (hosts, client) = (Arc::clone(&grants.hosts), Arc::clone(client));
    let (gate, refusals) = (gate.cloned(), refusals.clone());
    wasi.socket_addr_check(move |address, usage| {
        let allowed = match usage {
            SocketAddrUse::TcpConnect => {
                let checked = client.check_address(address, &hosts, gate.as_deref());
                checked.map_err(|reason| refusals.add(reason)).is_ok()
            }
            // What the system does before it connects.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        };
        Box::pin(async move { allowed })
    });
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.egress,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

/// Connections that were refused, for whoever reads why a call failed.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Vec<String>>>);

impl Refusals {
    /// How many are told.
    const MAX: usize = 8;

    pub(crate) fn add(&self, reason: String) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < Self::MAX && !list.contains(&reason) {
            list.push(reason);
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Keeps a guest to its memory, all of its memories together.
pub(crate) struct Limits {
    limit: u64,
    used: u64,
    elements: usize,
    /// What it asked for and did not get.
    pub(crate) refused: Option<u64>,
}

impl Limits {
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            elements: 0,
            refused: None,
        }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = desired.saturating_sub(current) as u64;
        let wanted = self.used.saturating_add(grown);
        if wanted > self.limit {
            self.refused = Some(wanted);
            return Ok(false);
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.elements = self
            .elements
            .saturating_add(desired.saturating_sub(current));
        Ok(self.elements <= MAX_TABLE_ELEMENTS)
    }
}
