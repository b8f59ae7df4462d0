//! SQLite implementation of the store and the content-addressed object store.
