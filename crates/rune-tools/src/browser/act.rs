//! Clicking, typing and scrolling.

use serde::Deserialize;
use serde_json::{Value, json};

use super::element::Target;
use super::page::Page;
use super::turn::Turn;
use crate::ToolError;

/// Brings an element into view; says why it cannot be clicked.
const REACH: &str = "function() {
  if (!this.isConnected) return 'is not on the page any more; read it again with browser-read-page';
  const it = this.nodeType === 1 ? this : this.parentElement;
  it.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
  if (it.disabled) return 'is disabled';
  const box = Array.from(it.getClientRects()).find((box) => box.width > 0 && box.height > 0);
  if (!box) return 'is not visible';
  const hit = it.getRootNode().elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  if (!hit || it.contains(hit) || hit.contains(it)) return null;
  if (it.labels && Array.from(it.labels).some((label) => label.contains(hit))) return null;
  const name = hit.tagName.toLowerCase() + (hit.id ? '#' + hit.id : '');
  return 'is covered by <' + name + '>, which would be clicked instead';
}";
/// The same, except that it may be covered.
const SHOW: &str = "function() {
  if (!this.isConnected) return 'is not on the page any more; read it again with browser-read-page';
  const it = this.nodeType === 1 ? this : this.parentElement;
  it.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
  return it.getClientRects().length > 0 ? null : 'is not visible';
}";
/// Prepares an element to be typed into: `keys` where keys do the rest, `done` where nothing is left to do, else why not.
const PREPARE: &str = "function(text, clear) {
  if (!this.isConnected) return 'is not on the page any more; read it again with browser-read-page';
  const it = this.nodeType === 1 ? this : this.parentElement;
  it.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
  if (it.disabled) return 'is disabled';
  if (it.readOnly) return 'can only be read';
  const tell = () => {
    it.dispatchEvent(new Event('input', {bubbles: true}));
    it.dispatchEvent(new Event('change', {bubbles: true}));
  };
  if (it instanceof HTMLSelectElement) {
    const plain = (text) => text.trim().toLowerCase();
    const options = Array.from(it.options);
    const option = options.find((it) => it.label.trim() === text.trim()) ??
      options.find((it) => it.value === text) ?? options.find((it) => plain(it.label) === plain(text));
    if (!option) return 'has no option of this name; it has: ' + options.slice(0, 50).map((it) => it.label).join(', ');
    it.focus();
    it.value = option.value;
    option.selected = true;
    tell();
    return 'done';
  }
  if (it instanceof HTMLInputElement) {
    const type = it.type;
    if (type === 'file') return 'wants a file, and none can be given';
    if (['button', 'submit', 'reset', 'image', 'checkbox', 'radio', 'hidden'].includes(type)) return 'is not typed into; click it';
    if (['date', 'time', 'datetime-local', 'month', 'week', 'color', 'range'].includes(type)) {
      it.focus();
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(it, text);
      if (it.value !== text) return 'does not take this as a ' + type + ', it made it: ' + JSON.stringify(it.value);
      tell();
      return 'done';
    }
  } else if (!(it instanceof HTMLTextAreaElement) && !it.isContentEditable) return 'is not typed into';
  it.focus();
  if (clear) {
    if (it.select) it.select();
    else getSelection().selectAllChildren(it);
  } else if (it.setSelectionRange && it.type !== 'email' && it.type !== 'number') {
    it.setSelectionRange(it.value.length, it.value.length);
  } else if (it.isContentEditable) {
    getSelection().selectAllChildren(it);
    getSelection().collapseToEnd();
  }
  return 'keys';
}";
/// Scrolls what scrolls around an element, or the page.
const SCROLL: &str = "function(where, pixels) {
  let it = this.nodeType === 1 ? this : document.scrollingElement ?? document.documentElement;
  if (this.nodeType === 1) {
    const scrolls = (it) => {
      const style = getComputedStyle(it);
      return /auto|scroll/.test(style.overflowX + style.overflowY) &&
        (it.scrollHeight > it.clientHeight || it.scrollWidth > it.clientWidth);
    };
    while (it.parentElement && !scrolls(it)) it = it.parentElement;
    if (!it.parentElement) it = document.scrollingElement ?? document.documentElement;
  }
  const by = {up: [0, -1], down: [0, 1], left: [-1, 0], right: [1, 0]}[where];
  if (by) {
    const size = by[0] ? it.clientWidth : it.clientHeight;
    const far = pixels ?? Math.round(size * 0.8);
    it.scrollBy({left: by[0] * far, top: by[1] * far, behavior: 'instant'});
  } else {
    it.scrollTo({top: where === 'top' ? 0 : it.scrollHeight, behavior: 'instant'});
  }
  return {x: Math.round(it.scrollLeft), y: Math.round(it.scrollTop),
    max_x: Math.max(0, it.scrollWidth - it.clientWidth), max_y: Math.max(0, it.scrollHeight - it.clientHeight)};
}";

/// How something is typed.
#[derive(Debug)]
pub(crate) struct Typing {
    pub(crate) text: String,
    /// Whether what is there is replaced.
    pub(crate) clear: bool,
    /// Whether Enter is pressed afterwards.
    pub(crate) submit: bool,
}

/// Where to.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scroll {
    Up,
    Down,
    Left,
    Right,
    Top,
    Bottom,
}

impl Scroll {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
            Self::Top => "top",
            Self::Bottom => "bottom",
        }
    }
}

impl Turn {
    /// Clicks an element.
    pub(crate) async fn click(&self, target: &Target, double: bool) -> Result<Value, ToolError> {
        let page = self.page()?;
        let element = self.element(&page, target).await?;
        let clicked = async {
            self.reach(&page, &element, target, REACH).await?;
            let (x, y) = self.middle(&page, &element, target).await?;
            self.mouse(&page, "mouseMoved", x, y, 0).await?;
            for count in 1..=if double { 2 } else { 1 } {
                self.mouse(&page, "mousePressed", x, y, count).await?;
                self.mouse(&page, "mouseReleased", x, y, count).await?;
            }
            Ok(())
        };
        let clicked: Result<(), ToolError> = clicked.await;
        self.release(&page);
        // A page that closes itself does not answer any more.
        if page.ended().is_none() {
            clicked?;
        }
        self.settle().await;
        self.report().await
    }

    /// Types into an element, or chooses an option of it.
    pub(crate) async fn enter(&self, target: &Target, typing: &Typing) -> Result<Value, ToolError> {
        let page = self.page()?;
        let element = self.element(&page, target).await?;
        let arguments = [typing.text.as_str().into(), typing.clear.into()];
        let prepared = self.apply(&page, &element, PREPARE, &arguments).await;
        self.release(&page);
        match prepared?.as_str().unwrap_or_default() {
            "done" => {}
            "keys" if typing.text.is_empty() && typing.clear => {
                self.key(&page, "Delete", "Delete", 46, None).await?;
            }
            "keys" => {
                let text = json!({"text": typing.text});
                self.ask(&page, "Input.insertText", text).await?;
            }
            why => return Err(ToolError::failed(format!("{target} {why}"))),
        }
        if typing.submit {
            self.key(&page, "Enter", "Enter", 13, Some("\r")).await?;
        }
        self.settle().await;
        self.report().await
    }

    /// Scrolls to an element, or in a direction: the page, or what scrolls around an element.
    pub(crate) async fn scroll(
        &self,
        target: Option<&Target>,
        direction: Option<Scroll>,
        pixels: Option<u32>,
    ) -> Result<Value, ToolError> {
        let page = self.page()?;
        let document = Target::Selector(":root".to_owned());
        let element = self.element(&page, target.unwrap_or(&document)).await?;
        let direction = match (target, direction) {
            (Some(target), None) => {
                let reached = self.reach(&page, &element, target, SHOW).await;
                self.release(&page);
                reached?;
                return self.report().await;
            }
            (_, direction) => direction.unwrap_or(Scroll::Down),
        };
        let arguments = [direction.as_str().into(), json!(pixels)];
        let place = self.apply(&page, &element, SCROLL, &arguments).await;
        self.release(&page);
        let place = place?;
        self.settle().await;
        let mut report = self.report().await?;
        report["position"] = place;
        Ok(report)
    }

    /// Brings an element into view.
    pub(super) async fn show(
        &self,
        page: &Page,
        element: &str,
        target: &Target,
    ) -> Result<(), ToolError> {
        self.reach(page, element, target, SHOW).await
    }

    async fn reach(
        &self,
        page: &Page,
        element: &str,
        target: &Target,
        how: &str,
    ) -> Result<(), ToolError> {
        match self.apply(page, element, how, &[]).await? {
            Value::String(why) => Err(ToolError::failed(format!("{target} {why}"))),
            _ => Ok(()),
        }
    }

    async fn middle(
        &self,
        page: &Page,
        element: &str,
        target: &Target,
    ) -> Result<(f64, f64), ToolError> {
        let quads = self.quads(page, element, target).await?;
        let first = quads.first().map_or(&[][..], Vec::as_slice);
        let middle = |axis: usize| first.iter().skip(axis).step_by(2).sum::<f64>() / 4.0;
        Ok((middle(0), middle(1)))
    }

    /// The corners of the parts of an element in the view: x, y, four times each.
    pub(super) async fn quads(
        &self,
        page: &Page,
        element: &str,
        target: &Target,
    ) -> Result<Vec<Vec<f64>>, ToolError> {
        let element = json!({ "objectId": element });
        let answer = self.ask(page, "DOM.getContentQuads", element).await?;
        let quads: Vec<Vec<f64>> =
            serde_json::from_value(answer["quads"].clone()).unwrap_or_default();
        if quads.first().is_none_or(|quad| quad.len() != 8) {
            return Err(ToolError::failed(format!("{target} is not visible")));
        }
        Ok(quads)
    }

    async fn mouse(
        &self,
        page: &Page,
        kind: &str,
        x: f64,
        y: f64,
        count: u32,
    ) -> Result<(), ToolError> {
        let button = if count == 0 { "none" } else { "left" };
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": count});
        self.ask(page, "Input.dispatchMouseEvent", event).await?;
        Ok(())
    }

    async fn key(
        &self,
        page: &Page,
        key: &str,
        code: &str,
        number: u32,
        text: Option<&str>,
    ) -> Result<(), ToolError> {
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number});
            if let (Some(text), "keyDown") = (text, kind) {
                event["text"] = text.into();
            }
            self.ask(page, "Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }
}
