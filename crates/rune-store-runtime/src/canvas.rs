//! Canvases: what agents show in a browser. The content is in the object store, what names it in the cache.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a canvas is kept.
pub const CANVAS_WINDOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a canvas holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CanvasFormat {
    /// A page.
    Html,
    /// A drawing.
    Svg,
    /// Text; shown as it is.
    Markdown,
}

/// A canvas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canvas {
    /// What it is called.
    pub title: String,
    /// What it holds.
    pub format: CanvasFormat,
    /// Where the content is.
    pub digest: String,
}

impl Canvas {
    /// The key in the cache of the canvas with this id.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("canvas:{id}")
    }
}

impl CanvasFormat {
    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Svg => "image/svg+xml",
            Self::Markdown => "text/plain; charset=utf-8",
        }
    }
}
