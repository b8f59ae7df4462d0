//! What an A2A agent answers, and what a client says of its trace: a card, an answer and the events of a stream are read or
//! refused, whatever they are and however a stream is cut; a trace that is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rune_a2a::client::{RemoteCard, read_answer, read_events};
use rune_a2a::{Binding, ProtocolVersion, Task};
use rune_store_runtime::TraceContext;

fuzz_target!(|data: &[u8]| {
    if let Ok(card) = RemoteCard::parse(data) {
        assert!(!card.name.is_empty());
        match card.interface() {
            Ok(interface) => assert!(interface.url.starts_with("http")),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    for binding in [Binding::JsonRpc, Binding::HttpJson] {
        for status in [200, 302, 404, 500] {
            match read_answer(binding, status, data) {
                Ok(result) => {
                    for version in ProtocolVersion::ALL {
                        let _ = Task::decode(version, &result);
                    }
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        for version in ProtocolVersion::ALL {
            let whole = read_events(binding, version, [data]);
            let cut = read_events(binding, version, data.chunks(3));
            assert_eq!(whole, cut);
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(trace) = TraceContext::parse(text, Some(text))
    {
        let again = TraceContext::parse(&trace.traceparent(), trace.tracestate());
        assert_eq!(again, Some(trace));
    }
});
