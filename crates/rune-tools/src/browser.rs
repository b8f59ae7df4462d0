//! The browser behind the `browser-*` tools: one Chromium per daemon, driven over the DevTools protocol.
//!
//! * [`Browsers`] starts the browser at the first use and gives each conversation a context of its own in it: cookies,
//!   storage and cache of one are nothing to another. Dropped, it ends the browser.
//! * A `Turn` is the right of one call to use the context of its conversation; calls take turns.
//! * A context has a proxy of its own, through which everything it loads goes; the browser itself can reach nothing else.
//! * `outline` makes text of a page's accessibility tree.
//!
//! The protocol is spoken over two named pipes, which nobody else can open, not over a port.

mod act;
mod cdp;
mod chrome;
mod context;
mod directory;
mod element;
mod look;
mod outline;
mod page;
mod pool;
mod program;
mod turn;

pub(crate) use act::{Scroll, Typing};
pub(crate) use element::Target;
pub(crate) use look::Shot;
pub use outline::page_outline;
pub(crate) use pool::Browsers;
pub use program::{BrowserConfig, find_browser};
pub(crate) use turn::Condition;
