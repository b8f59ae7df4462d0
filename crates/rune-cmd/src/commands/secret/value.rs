//! Where the value of a secret comes from: never from the command line.

use std::fs::File;
use std::io::{IsTerminal, Read, Stdin, Write};
use std::path::Path;

use rune_store_runtime::limits::MAX_SECRET_BYTES;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;

use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// More than any value has: what is longer is refused before all of it is read.
const MAX_READ: u64 = MAX_SECRET_BYTES as u64 + 3;

/// The value of a variable of the environment.
pub(super) fn of_variable(context: &Context, variable: &str) -> Outcome<SecretString> {
    let value = context.config.variable(variable);
    value.map(SecretString::from).ok_or_else(|| {
        Failure::usage(format!("the variable `{variable}` is not set"))
            .help("export it first, or leave --from-env out to be asked for the value")
    })
}

/// What a file holds.
pub(super) fn of_file(path: &Path) -> Outcome<SecretString> {
    let file = File::open(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    read(file, &path.display().to_string())
}

/// What a person types unseen, or a program writes.
pub(super) fn typed(output: Output, name: &str) -> Outcome<SecretString> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return read(stdin.lock(), "standard input");
    }
    // Written to standard error, and nothing to standard output.
    let prompt = format!("value of {name} (it is not shown): ");
    let _ = std::io::stderr().write_all(prompt.as_bytes());
    let typed = Hidden::new(&stdin).and_then(|hidden| hidden.line());
    output.note("");
    match typed {
        Ok(Some(line)) => Ok(line),
        Ok(None) => Err(Failure::silent(Exit::Interrupted)),
        Err(error) => Err(Failure::because("cannot read the value", &error)),
    }
}

/// The whole of a source, without one line end behind it.
fn read(source: impl Read, what: &str) -> Outcome<SecretString> {
    let mut bytes = Vec::new();
    source
        .take(MAX_READ)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("cannot read {what}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!("{what} holds something else than UTF-8 text"))
            .help("encode it, in Base64 for example, and let the tool decode it")
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned().into())
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(stdin: &'a Stdin) -> std::io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut hidden = before.clone();
        // Ctrl-C is read as a character, too: whoever types it finds the terminal as it was.
        hidden.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(stdin, OptionalActions::Flush, &hidden)?;
        Ok(Self { stdin, before })
    }

    /// One line; `None` where it was given up with Ctrl-C or Ctrl-D.
    fn line(&self) -> std::io::Result<Option<SecretString>> {
        let mut line = Vec::new();
        let mut byte = [0];
        let mut input = self.stdin.lock();
        loop {
            if input.read(&mut byte)? == 0 {
                return Ok(None);
            }
            match byte {
                [b'\r' | b'\n'] => break,
                [0x03 | 0x04] => return Ok(None),
                // Backspace takes a character, Ctrl-U the line.
                [0x08 | 0x7f] => while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
                [0x15] => line.clear(),
                [byte] if line.len() as u64 <= MAX_READ => line.push(byte),
                _ => {}
            }
        }
        let line = String::from_utf8(line).map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text")
        })?;
        Ok(Some(line.into()))
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing is left to do where this fails.
        let _ = tcsetattr(self.stdin, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn one_line_end_is_dropped() {
        for (given, value) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("a\nb\n\n", "a\nb\n"),
            (" abc ", " abc "),
        ] {
            let read = read(given.as_bytes(), "the test").unwrap();
            assert_eq!(read.expose_secret(), value);
        }
        assert!(read(&b"\xff\xfe"[..], "the test").is_err());
    }
}
