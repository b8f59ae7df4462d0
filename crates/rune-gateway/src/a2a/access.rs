//! How agents are shown to A2A clients.

use std::sync::Arc;

use http::HeaderMap;
use http::header::HOST;
use rune_a2a::{CardForm, CardSigner};
use rune_tools::EgressPolicy;

/// How agents are shown to A2A clients.
#[derive(Debug, Clone)]
pub struct A2aAccess {
    /// The public URL of the gateway, without a slash at the end; absent: the host that the
    /// client named.
    pub base_url: Option<String>,
    /// Whether cards have the fields of 0.3 beside those of 1.0.
    pub legacy_card: bool,
    /// Whether cards are shown to clients without credentials.
    pub public_cards: bool,
    /// Whose card stands at the root; absent: that of the only agent.
    pub default_agent: Option<String>,
    /// Where webhooks may be; absent: tasks have none.
    pub push: Option<EgressPolicy>,
    /// Signs cards.
    pub signer: Option<Arc<CardSigner>>,
}

impl Default for A2aAccess {
    fn default() -> Self {
        Self {
            base_url: None,
            legacy_card: true,
            public_cards: true,
            default_agent: None,
            push: Some(EgressPolicy::default()),
            signer: None,
        }
    }
}

impl A2aAccess {
    /// Which fields cards have.
    pub(crate) const fn form(&self) -> CardForm {
        match self.legacy_card {
            true => CardForm::Hybrid,
            false => CardForm::Clean,
        }
    }

    /// Where this gateway is, as the client sees it.
    pub(crate) fn base(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.base_url {
            return url.clone();
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let named = host.filter(|host| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
            !host.is_empty() && host.bytes().all(allowed)
        });
        format!("http://{}", named.unwrap_or("localhost"))
    }
}
