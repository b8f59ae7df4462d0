//! One JSON object on standard input, one JSON value on standard output; standard error is for diagnostics.

use std::io;

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Input {
    text: String,
}

#[derive(Serialize)]
struct Output {
    text: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // An error ends the tool with an exit code that is not 0, and is told to the model.
    let input: Input = serde_json::from_reader(io::stdin())?;
    serde_json::to_writer(io::stdout(), &Output { text: input.text })?;
    Ok(())
}
