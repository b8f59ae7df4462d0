//! A part of the benchmark as a program of its own, as small as a bare axum server is, so
//! that its start and its memory are a fair floor. Its arguments are those of
//! [`rune_bench::serve`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let what: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let served = runtime.map_err(Into::into).and_then(|runtime| {
        runtime
            .block_on(rune_bench::serve(&what))
            .map_err(Box::<dyn std::error::Error>::from)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("rune-floor: {error}\n");
            // Without a stderr nobody is left to tell.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            ExitCode::FAILURE
        }
    }
}
