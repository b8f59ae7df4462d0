use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Response, StatusCode, header, request::Parts},
};
use hyper::{body::Incoming as Wire, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answer,
    check::{self, Incoming, Rejection},
    conversation::Conversation,
    copilot,
    delivery::{self, Pace},
    fault::{FaultKind, Garbage},
    frame::{Frame, FrameKind},
    media,
    protocol::{Protocol, Route},
    record::{Exchange, RecordedRequest},
    reply::Reply,
    state::{Decision, State},
    wire,
};
use crate::task;

/// The largest request body taken.
const MAX_BODY: usize = 64 << 20;
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";
const HTML_PAGE: &str = "<!DOCTYPE html>\n<html><body><h1>502 Bad Gateway</h1></body></html>\n";

/// Takes connections until the task is stopped; each ends with `stop` too.
pub(crate) async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                task::spawn_until(stop.clone(), connection(socket, Arc::clone(&state)));
            }
            // Out of file descriptors, mostly: others must close first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) {
    // Only latency depends on it.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| handle(request, Arc::clone(&state)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    // An error here is a client that left, or a break that the script asked for.
    let _ = builder
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// An error closes the connection without an answer.
async fn handle(request: hyper::Request<Wire>, state: Arc<State>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/__requests") => {
            return Ok(plain(200, JSON, json!(state.recorder.all()).to_string()));
        }
        (&Method::GET, "/__open") => {
            return Ok(plain(
                200,
                JSON,
                json!({"open": state.recorder.open()}).to_string(),
            ));
        }
        _ => {}
    }
    let bytes = axum::body::to_bytes(Body::new(body), MAX_BODY)
        .await
        .map_err(io::Error::other)?;
    let route = Route::parse(parts.uri.path(), parts.uri.query().unwrap_or_default());
    let parsed: Result<Value, _> = serde_json::from_slice(&bytes);
    let body = parsed.unwrap_or_else(|_| {
        let form = media::form(&parts.headers, &bytes);
        form.unwrap_or_else(|| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
    });
    let exchange = state
        .recorder
        .begin(recorded(&parts, route.as_ref(), body.clone()));
    if (&parts.method, parts.uri.path()) == (&Method::GET, copilot::EXCHANGE) {
        return Ok(exchange_token(&state, &parts.headers, exchange).await);
    }
    let Some(route) = route.filter(|_| parts.method == Method::POST) else {
        let rejection = Rejection::new(
            404,
            format!("no such endpoint: {} {}", parts.method, parts.uri.path()),
        );
        return Ok(refuse(Protocol::Openai, &rejection, exchange));
    };
    let is_copilot = parts.uri.path() == copilot::COMPLETIONS;
    if is_copilot
        && let Err(rejection) = state
            .copilot_tokens
            .check(&state.script.copilot, &parts.headers)
    {
        return Ok(refuse(route.protocol, &rejection, exchange));
    }
    let key = state.script.api_key.as_deref();
    let incoming = Incoming {
        route: &route,
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body: &body,
        // Copilot's token was checked already.
        api_key: key.filter(|_| !is_copilot),
        issuer: &state.issuer,
    };
    let checked = match route.media {
        Some(media) => media::check(media, &incoming),
        None => check::check(&incoming),
    };
    let conversation = match checked {
        Ok(conversation) => conversation,
        Err(rejection) => return Ok(refuse(route.protocol, &rejection, exchange)),
    };
    answer(&state, &route, &body, &conversation, exchange).await
}

/// GitHub's part.
async fn exchange_token(
    state: &State,
    headers: &HeaderMap,
    mut exchange: Exchange,
) -> Response<Body> {
    let account = &state.script.copilot;
    if account.exchange_ms > 0 {
        tokio::time::sleep(Duration::from_millis(account.exchange_ms)).await;
    }
    match state
        .copilot_tokens
        .exchange(account, headers, &state.issuer)
    {
        Ok(body) => {
            exchange.status(200);
            exchange.complete();
            plain(200, JSON, body.to_string())
        }
        Err(rejection) => refuse(Protocol::Openai, &rejection, exchange),
    }
}

async fn answer(
    state: &State,
    route: &Route,
    asked: &Value,
    conversation: &Conversation,
    mut exchange: Exchange,
) -> io::Result<Response<Body>> {
    let protocol = route.protocol;
    let Decision { reply, fault } = state.decide(protocol, conversation);
    let fault = fault.as_ref();
    if fault == Some(&FaultKind::Close) {
        exchange.complete();
        return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    }
    state.gate.pass().await;
    wait(state, reply.as_ref(), fault).await;
    if let Some(rejection) = fault.and_then(|fault| wire::scripted_error(protocol, fault)) {
        return Ok(scripted(protocol, &rejection, fault, exchange));
    }
    if fault == Some(&FaultKind::Garbage(Garbage::Html)) {
        exchange.status(200);
        exchange.complete();
        return Ok(plain(200, "text/html", HTML_PAGE.to_owned()));
    }
    let Some(reply) = reply else {
        let rejection = Rejection::bad(format!(
            "the script has no answer to {:?}",
            conversation.last_user_text()
        ));
        return Ok(refuse(protocol, &rejection, exchange));
    };
    let answer = Answer::new(
        &reply,
        fault,
        protocol,
        conversation,
        &state.issuer,
        state.script.gemini_call_ids,
    );
    let sse = route.gemini.as_ref().is_none_or(|gemini| gemini.sse);
    let made = route
        .media
        .map(|media| media::answer(media, &reply, &answer, asked));
    let (frames, content_type) = match (conversation.stream, sse) {
        _ if made.is_some() => {
            let (kind, bytes) = made.unwrap_or_default();
            (vec![spoilt(bytes, protocol, fault)], kind)
        }
        (true, true) => (wire::stream(protocol, &answer), EVENT_STREAM),
        (true, false) => (vec![json_array(&wire::stream(protocol, &answer))], JSON),
        (false, _) => (vec![whole(protocol, &answer, fault)], JSON),
    };
    let pace = Pace {
        between_content: Duration::from_millis(reply.chunk_ms),
        piece_bytes: reply.piece_bytes,
    };
    // In a whole body the place of a fault is not an event: half of it is what comes.
    let (frames, fault) = if conversation.stream && sse {
        (frames, fault)
    } else {
        halve(frames, fault)
    };
    exchange.status(200);
    let body = delivery::body(frames, fault, &wire::spoilers(protocol), pace, exchange);
    Ok(respond(200, content_type, body))
}

async fn wait(state: &State, reply: Option<&Reply>, fault: Option<&FaultKind>) {
    let slow = match fault {
        Some(FaultKind::SlowFirstByte { ms }) => *ms,
        _ => 0,
    };
    let ms = state.script.latency_ms + reply.map_or(0, |reply| reply.first_byte_ms) + slow;
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn whole(protocol: Protocol, answer: &Answer, fault: Option<&FaultKind>) -> Frame {
    let body = wire::whole(protocol, answer).to_string();
    spoilt(body.into_bytes(), protocol, fault)
}

/// A whole body, or what a fault makes of it.
fn spoilt(body: Vec<u8>, protocol: Protocol, fault: Option<&FaultKind>) -> Frame {
    let body = match fault {
        Some(FaultKind::Garbage(_)) => b"{this is not JSON".to_vec(),
        Some(FaultKind::ErrorEvent) => {
            let error = wire::error(protocol, &Rejection::new(500, "Overloaded"));
            error.to_string().into_bytes()
        }
        _ => body,
    };
    Frame::new(FrameKind::Text, body)
}

/// Gemini without `alt=sse`: the same objects as an array.
fn json_array(frames: &[Frame]) -> Frame {
    let text = |frame: &Frame| {
        String::from_utf8_lossy(&frame.bytes)
            .trim_start_matches("data: ")
            .trim()
            .to_owned()
    };
    let objects: Vec<String> = frames.iter().map(text).collect();
    Frame::new(FrameKind::Text, format!("[{}]", objects.join(",\r\n")))
}

/// A body that breaks off comes by half; the other faults of a whole body are in its content.
fn halve(mut frames: Vec<Frame>, fault: Option<&FaultKind>) -> (Vec<Frame>, Option<&FaultKind>) {
    match fault {
        Some(FaultKind::Cut(at)) if *at != super::CutAt::InUtf8 => {
            for frame in &mut frames {
                frame.bytes.truncate(frame.bytes.len() / 2);
            }
            (frames, Some(&FaultKind::Cut(super::CutAt::AfterText)))
        }
        Some(FaultKind::Stall { .. }) => {
            for frame in &mut frames {
                frame.bytes.truncate(frame.bytes.len() / 2);
            }
            (
                frames,
                Some(&FaultKind::Stall {
                    after_chunks: 1,
                    ping_ms: None,
                }),
            )
        }
        Some(FaultKind::Cut(_)) => (frames, fault),
        _ => (frames, None),
    }
}

fn recorded(parts: &Parts, route: Option<&Route>, body: Value) -> RecordedRequest {
    RecordedRequest {
        seq: 0,
        protocol: route.map(|route| route.protocol),
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers(&parts.headers),
        body,
        arrived_ms: 0,
        status: None,
        answered_ms: None,
        client_closed_ms: None,
    }
}

fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        named
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert(value);
    }
    named
}

fn refuse(protocol: Protocol, rejection: &Rejection, mut exchange: Exchange) -> Response<Body> {
    exchange.status(rejection.status);
    exchange.complete();
    plain(
        rejection.status,
        JSON,
        wire::error(protocol, rejection).to_string(),
    )
}

/// A status the script asks for, with its headers and, maybe, a body of its own.
fn scripted(
    protocol: Protocol,
    rejection: &Rejection,
    fault: Option<&FaultKind>,
    exchange: Exchange,
) -> Response<Body> {
    let mut response = refuse(protocol, rejection, exchange);
    let Some(FaultKind::Status {
        body,
        retry_after,
        retry_after_ms,
        should_retry,
        ..
    }) = fault
    else {
        return response;
    };
    match body {
        Some(Value::String(text)) => response = plain(rejection.status, "text/plain", text.clone()),
        Some(value) => response = plain(rejection.status, JSON, value.to_string()),
        None => {}
    }
    let mut set = |name, value: Option<String>| {
        if let Some(value) = value.and_then(|value| header::HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    };
    // Gemini says it in the body.
    if protocol != Protocol::Gemini {
        set(
            "retry-after",
            retry_after.map(|seconds| seconds.to_string()),
        );
        set("retry-after-ms", retry_after_ms.map(|ms| ms.to_string()));
        set(
            "x-should-retry",
            should_retry.map(|retry| retry.to_string()),
        );
    }
    response
}

fn plain(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    respond(status, content_type, Body::from(Bytes::from(body)))
}

fn respond(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-cache"),
    );
    for name in ["request-id", "x-request-id"] {
        headers.insert(name, header::HeaderValue::from_static("req_scripted"));
    }
    response
}
