//! Asks the linker for packed relative relocations where the C library of this machine can load them.
//!
//! Every start reads the whole relocation table, and its pages stay in memory: 1.5 MB as a plain table, 18 KB packed.

#![expect(
    clippy::disallowed_methods,
    reason = "this is how cargo talks to a build script"
)]

use std::process::Command;

/// The first glibc whose loader understands them.
const GLIBC: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name| std::env::var(name).unwrap_or_default();
    // A binary for another machine may meet an older loader than the one that is here.
    let is_native = var("TARGET") == var("HOST");
    let is_glibc = var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu";
    if is_native && is_glibc && glibc_version().is_some_and(|version| version >= GLIBC) {
        // A linker that does not know the option says so and goes on.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// From `glibc 2.36`.
fn glibc_version() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
