//! Fetching public web pages.

mod client;
mod content;

pub(crate) use client::{Fetched, WebClient, WebRequest, refused, unreachable};
pub(crate) use content::{Format, is_too_deep, render};
