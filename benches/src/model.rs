//! A model with a fixed latency, in the wire format of OpenAI Chat Completions.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;

/// What the model answers; "pong" is looked for.
const TEXT: [&str; 4] = ["po", "ng ", "from the ", "model"];

/// Serves the model until the process ends. The first byte of a reply comes after `latency`.
///
/// # Errors
/// Where the listener fails.
pub(crate) async fn serve(listener: TcpListener, latency: Duration) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/chat/completions", post(reply))
        .with_state(latency);
    crate::floor::serve_router(listener, router).await
}

async fn reply(State(latency): State<Duration>, _request: Bytes) -> Response {
    tokio::time::sleep(latency).await;
    let mut chunks: Vec<Bytes> = TEXT
        .iter()
        .map(|text| {
            chunk(&format!(
                r#"[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]"#
            ))
        })
        .collect();
    chunks.push(chunk(r#"[{"index":0,"delta":{},"finish_reason":"stop"}]"#));
    chunks.push(Bytes::from_static(
        b"data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"m\",\
          \"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4,\"total_tokens\":9}}\n\n\
          data: [DONE]\n\n",
    ));
    let body = Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn chunk(choices: &str) -> Bytes {
    Bytes::from(format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"m\",\
         \"choices\":{choices}}}\n\n"
    ))
}
