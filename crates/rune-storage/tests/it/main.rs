//! Integration tests of the SQLite store.

mod apply;
mod crash;
mod store;
