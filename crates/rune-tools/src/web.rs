//! Fetching public web pages.

mod client;
mod content;

pub(crate) use client::{Fetched, WebClient};
pub(crate) use content::{Format, render};
