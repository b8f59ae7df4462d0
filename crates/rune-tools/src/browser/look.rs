//! Reading a page and taking its picture.

use std::collections::HashMap;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::cdp::CdpError;
use super::chrome::{VIEWPORT, text};
use super::element::Target;
use super::outline::{Tree, outline, render};
use super::page::Page;
use super::turn::Turn;
use crate::image::MAX_IMAGE_BYTES;
use crate::{ToolContext, ToolError};

/// Frames of a page that are read.
const MAX_FRAMES: usize = 20;
/// The largest picture of a whole page, in pixels.
const MAX_HEIGHT: f64 = 4000.0;
const MAX_WIDTH: f64 = 2000.0;
/// How well pictures are kept: first, and where that is too large.
const QUALITIES: [u32; 2] = [80, 40];
/// How often one is tried.
const TRIES: u32 = 3;
/// How long a picture may take.
const PICTURE: Duration = Duration::from_secs(20);

/// What is on a picture.
#[derive(Debug)]
pub(crate) enum Shot {
    /// What is in view.
    View,
    /// The whole page.
    Page,
    /// One element.
    Element(Target),
}

impl Turn {
    /// The page as text from an offset on.
    pub(crate) async fn read(&self, offset: usize, max_bytes: usize) -> Result<Value, ToolError> {
        let page = self.page()?;
        let main = self.tree(&page, None).await?;
        let mut inner = HashMap::new();
        let frames = self.ask(&page, "Page.getFrameTree", json!({})).await?;
        let mut waiting: Vec<&Value> = frames
            .pointer("/frameTree/childFrames")
            .into_iter()
            .collect();
        while let Some(children) = waiting.pop() {
            for child in children.as_array().into_iter().flatten() {
                if inner.len() == MAX_FRAMES {
                    break;
                }
                let frame = json!({"frameId": text(child, "/frame/id")});
                // A frame may go while it is looked at.
                let Ok(owner) = self.ask(&page, "DOM.getFrameOwner", frame).await else {
                    continue;
                };
                let tree = self.tree(&page, Some(text(child, "/frame/id"))).await;
                if let (Some(owner), Ok(tree)) = (owner["backendNodeId"].as_i64(), tree) {
                    inner.insert(owner, tree);
                }
                waiting.extend(child.get("childFrames"));
            }
        }
        let lines = outline(&main, &inner);
        let numbers = page.number(lines.iter().filter_map(|line| line.node));
        let whole = render(&lines, &numbers);
        let part = whole
            .get(whole.ceil_char_boundary(offset)..)
            .unwrap_or_default();
        let mut shown = crate::text::prefix(part, max_bytes);
        if shown.len() < part.len() {
            // Whole lines, where one fits.
            shown = shown.rfind('\n').map_or(shown, |end| &shown[..=end]);
        }
        let mut report = self.report().await?;
        report["text"] = shown.into();
        let next = whole.len() - part.len() + shown.len();
        if next < whole.len() {
            report["next_offset"] = next.into();
            report["total"] = whole.len().into();
        }
        Ok(report)
    }

    async fn tree(&self, page: &Page, frame: Option<&str>) -> Result<Tree, ToolError> {
        let of = frame.map_or_else(|| json!({}), |frame| json!({ "frameId": frame }));
        let tree = self.ask(page, "Accessibility.getFullAXTree", of).await?;
        serde_json::from_value(tree).map_err(|error| {
            ToolError::failed(format!(
                "the browser describes the page in an unknown way: {error}"
            ))
        })
    }

    /// Takes a picture and shows it to the model.
    pub(crate) async fn picture(
        &self,
        call: &ToolContext,
        shot: &Shot,
    ) -> Result<Value, ToolError> {
        let page = self.page()?;
        let (clip, cut) = self.clip(&page, shot).await?;
        let mut bytes = Vec::new();
        for quality in QUALITIES {
            let picture = json!({
                "format": "jpeg",
                "quality": quality,
                "captureBeyondViewport": !matches!(shot, Shot::View),
                "clip": clip,
            });
            let taken = self.take(&page, picture).await?;
            bytes = BASE64_STANDARD
                .decode(text(&taken, "/data"))
                .map_err(|error| {
                    ToolError::failed(format!("the browser sends no picture: {error}"))
                })?;
            if bytes.len() <= MAX_IMAGE_BYTES {
                break;
            }
        }
        let image = call.images.add("image/jpeg", bytes).await?;
        let mut report = self.report().await?;
        report["image"] = json!({
            "media_type": image.media_type,
            "bytes": image.bytes,
            "width": clip["width"],
            "height": clip["height"],
            "handle": image.handle(),
        });
        if cut {
            report["cut"] = true.into();
        }
        Ok(report)
    }

    async fn take(&self, page: &Page, picture: Value) -> Result<Value, CdpError> {
        // One that another page covers is not drawn.
        self.tell(page, "Page.bringToFront", json!({}));
        let mut tries = 1;
        loop {
            let taken = self
                .ask_within(page, "Page.captureScreenshot", picture.clone(), PICTURE)
                .await;
            match taken {
                // Between two documents there is nothing to see.
                Err(CdpError::Refused { .. }) if tries < TRIES => tries += 1,
                taken => return taken,
            }
            self.settle().await;
        }
    }

    /// The part of the page that is on a picture, and whether it is less than was asked for.
    async fn clip(&self, page: &Page, shot: &Shot) -> Result<(Value, bool), ToolError> {
        let metrics = self.ask(page, "Page.getLayoutMetrics", json!({})).await?;
        let number = |pointer: &str| {
            metrics
                .pointer(pointer)
                .and_then(Value::as_f64)
                .unwrap_or_default()
        };
        let (left, top) = (
            number("/cssVisualViewport/pageX"),
            number("/cssVisualViewport/pageY"),
        );
        let (x, y, width, height) = match shot {
            Shot::View => (left, top, f64::from(VIEWPORT.0), f64::from(VIEWPORT.1)),
            Shot::Page => {
                let (width, height) = (
                    number("/cssContentSize/width"),
                    number("/cssContentSize/height"),
                );
                (0.0, 0.0, width, height)
            }
            Shot::Element(target) => {
                let element = self.element(page, target).await?;
                let quads = async {
                    self.show(page, &element, target).await?;
                    self.quads(page, &element, target).await
                };
                let quads = quads.await;
                self.release(page);
                let metrics = self.ask(page, "Page.getLayoutMetrics", json!({})).await?;
                let scrolled = |pointer: &str| {
                    metrics
                        .pointer(pointer)
                        .and_then(Value::as_f64)
                        .unwrap_or_default()
                };
                let corners = quads?.concat();
                let ends = |axis: usize| {
                    let of = || corners.iter().copied().skip(axis).step_by(2);
                    (of().fold(f64::MAX, f64::min), of().fold(f64::MIN, f64::max))
                };
                let ((x, right), (y, bottom)) = (ends(0), ends(1));
                (
                    x + scrolled("/cssVisualViewport/pageX"),
                    y + scrolled("/cssVisualViewport/pageY"),
                    right - x,
                    bottom - y,
                )
            }
        };
        let (shown_width, shown_height) =
            (width.clamp(1.0, MAX_WIDTH), height.clamp(1.0, MAX_HEIGHT));
        let cut = shown_width < width || shown_height < height;
        let whole = |number: f64| number.ceil();
        let clip = json!({
            "x": x.max(0.0),
            "y": y.max(0.0),
            "width": whole(shown_width),
            "height": whole(shown_height),
            "scale": 1,
        });
        Ok((clip, cut))
    }
}
