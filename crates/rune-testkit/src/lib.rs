//! Test support: scripted model server, fake store, store suite, daemon, virtual clock.
