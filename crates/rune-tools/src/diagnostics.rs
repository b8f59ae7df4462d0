//! What tools say beside their answers.

use std::fmt;
use std::sync::Arc;

/// Who is told what tools say.
type Listener = Arc<dyn Fn(&str) + Send + Sync>;

/// Takes what a call that succeeded has written to standard error, without the secrets that it was granted. It is
/// logged; where somebody listens, they are told.
#[derive(Clone, Default)]
pub struct Diagnostics(Option<Listener>);

impl Diagnostics {
    /// The same with a listener.
    #[must_use]
    pub fn to(listener: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        Self(Some(listener))
    }

    /// Takes the text of a call; `tool` is what the log calls it.
    pub fn take(&self, tool: &dyn fmt::Display, text: &str) {
        if text.is_empty() {
            return;
        }
        tracing::debug!(%tool, stderr = text, "tool wrote diagnostics");
        if let Some(listener) = &self.0 {
            listener(text);
        }
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Diagnostics")
            .field(&self.0.is_some())
            .finish()
    }
}
