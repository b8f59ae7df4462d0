//! Tests of what is not on this machine.

/// With this variable nothing may be missing.
const REQUIRE: &str = "RUNE_TEST_REQUIRE_ALL";

/// Says on standard error why a test, or a part of it, is skipped: a program or an image that it needs is not here.
///
/// # Panics
/// Where `RUNE_TEST_REQUIRE_ALL` is set, as where everything was installed: a test that does nothing has not passed then.
#[expect(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that is skipped says so; what may be missing is for who runs the tests"
)]
pub fn skip(missing: &str) {
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "{missing}, and {REQUIRE} is set"
    );
    eprintln!("skipped: {missing}");
}
