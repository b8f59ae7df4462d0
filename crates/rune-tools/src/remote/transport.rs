//! The transport of A2A calls: the web client, and what an operator and a policy say.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use reqwest::Url;
use rune_a2a::client::{HttpRequest, HttpResponse, Transport, TransportError};
use rune_store_runtime::TraceContext;
use secrecy::ExposeSecret as _;

use super::Reach;
use crate::egress::destination;
use crate::web::{WebRequest, unreachable};
use crate::{EgressGate, ToolError};

/// Sends where it may, with what belongs to the host and to the trace.
pub(super) struct GuardedTransport {
    pub(super) reach: Arc<Reach>,
    pub(super) gate: Option<Arc<dyn EgressGate>>,
    pub(super) trace: Option<TraceContext>,
}

impl GuardedTransport {
    fn admitted(&self, url: &str) -> Result<Url, TransportError> {
        let url = self.reach.admit(url).map_err(unsent)?;
        if let (Some(gate), Some((host, port))) = (&self.gate, destination(&url)) {
            gate.connect(&host, port).map_err(unsent)?;
        }
        Ok(url)
    }
}

#[async_trait]
impl Transport for GuardedTransport {
    fn admit(&self, url: &str) -> Result<(), TransportError> {
        self.admitted(url).map(|_| ())
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let url = self.admitted(&request.url)?;
        let named = request.headers.into_iter();
        let named = named.map(|(name, value)| (Cow::Borrowed(name), value));
        let mut headers: Vec<(Cow<'static, str>, String)> = named.collect();
        if let Some(trace) = &self.trace {
            headers.push(("traceparent".into(), trace.traceparent()));
            let state = trace.tracestate();
            headers.extend(state.map(|state| ("tracestate".into(), state.to_owned())));
        }
        for credential in self.reach.credentials(&url) {
            let value = credential.value.expose_secret().to_owned();
            headers.push((credential.header.clone().into(), value));
        }
        let request = WebRequest {
            url: url.clone(),
            headers,
            json: request.body,
        };
        // The gate was asked.
        let response = self.reach.client.open(request, None).await;
        let response = response.map_err(|unanswered| TransportError {
            is_unsent: unanswered.is_unsent,
            ..unsent(unanswered.error)
        })?;
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers.filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        let headers = headers.collect();
        let body = response.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| TransportError {
                is_unsent: false,
                ..unsent(unreachable(&url, &error.without_url()))
            })
        });
        Ok(HttpResponse {
            status,
            headers,
            body: body.boxed(),
        })
    }
}

fn unsent(error: ToolError) -> TransportError {
    TransportError {
        code: error.code(),
        message: error.message,
        is_unsent: true,
    }
}
