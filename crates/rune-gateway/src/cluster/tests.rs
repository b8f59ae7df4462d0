//! What clients of a node see that has another one answer.

mod rig;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{get as on_get, post};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use rune_http::{Auth, Metrics};
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use super::front::FrontLimits;
use rig::{Count, HOLD, Rig, endless, get, header, json, request, soon, text, until};

const INVOKE: &str = "/v1/agents/hello/invoke";
const EVENTS: &str = "/v1/requests/r/events";

/// An API that counts what it is asked, and does not answer.
fn silent(asked: &Count) -> Router {
    let asked = asked.clone();
    Router::new().fallback(move || {
        asked.add();
        std::future::pending::<()>()
    })
}

fn credentials() -> Auth {
    Auth::new(Some(&"key".to_owned().into()), None, None).unwrap()
}

fn events(body: Body) -> axum::response::Response {
    let response = http::Response::builder();
    let response = response.header("content-type", "text/event-stream");
    response.body(body).unwrap()
}

#[tokio::test]
async fn a_head_that_is_too_large_ends_nothing_but_its_request() {
    let rig = Rig::start().await;
    let (says, mut said) = mpsc::channel::<&str>(8);
    let said = stream::poll_fn(move |cx| said.poll_recv(cx)).map(Ok::<_, std::io::Error>);
    let said = Arc::new(Mutex::new(Some(Body::from_stream(said))));
    let followed = move || {
        let body = said.lock().unwrap().take();
        async move { body.unwrap() }
    };
    let length = |headers: HeaderMap| async move { headers["x-large"].len().to_string() };
    let routes = Router::new().route("/v1/sessions/s", on_get(followed));
    rig.lead_openly(routes.route("/v1/agents", on_get(length)));
    let mut stream = rig.follower.ask(get("/v1/sessions/s")).await.into_body();
    says.send("one").await.unwrap();
    let first = soon("a first part", stream.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one");

    let large = |size: usize| {
        let mut asked = get("/v1/agents");
        let value = "x".repeat(size).parse().unwrap();
        asked.headers_mut().insert("x-large", value);
        asked
    };
    // What a leader takes at its own socket it takes from another node.
    for side in [&rig.leader, &rig.follower] {
        assert_eq!(
            text(side.ask(large(30 << 10)).await).await,
            (30 << 10).to_string()
        );
        let refused = side.ask(large(60 << 10)).await;
        let status = refused.status();
        let body = json(refused).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (413, &json!("too_large"))
        );
        let long = side.ask(get(&format!("/{}", "x".repeat(65_000)))).await;
        assert_eq!(long.status(), 413);
    }
    says.send("two").await.unwrap();
    let second = soon("a second part", stream.frame())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(second.into_data().unwrap(), "two");
}

#[tokio::test]
async fn a_request_that_takes_every_leader_with_it_is_not_asked_for_ever() {
    let rig = Rig::start().await;
    let asked = Count::default();
    let crash = async {
        loop {
            let before = asked.get();
            let ended = rig.lead(silent(&asked));
            until("another try", || asked.get() > before).await;
            rig.depose(&ended);
        }
    };
    let answer = tokio::select! {
        answer = rig.follower.ask(get("/v1/agents")) => answer,
        () = crash => unreachable!(),
    };
    assert_eq!(answer.status(), 503);
    assert_eq!(header(&answer, "retry-after"), Some("2"));
    assert_eq!(asked.get(), 4);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_asked_again_and_clients_are_not_told_to() {
    let rig = Rig::start().await;
    let asked = Count::default();
    // What publishes an event does not know it again by its key.
    let mut publish = request("POST", "/v1/events", "{}");
    publish
        .headers_mut()
        .insert("idempotency-key", "one".parse().unwrap());
    let cancel = request("POST", "/v1/responses/r/cancel", "{}");
    for (request, code) in [(publish, "code"), (cancel, "type")] {
        let before = asked.get();
        let ended = rig.lead(silent(&asked));
        let end = async {
            until("the request", || asked.get() > before).await;
            rig.depose(&ended);
            rig.lead(silent(&asked))
        };
        let (answer, ended) = tokio::join!(rig.follower.ask(request), end);
        assert_eq!(answer.status(), 503);
        assert_eq!(header(&answer, "retry-after"), None);
        assert_eq!(header(&answer, "x-should-retry"), Some("false"));
        let body = json(answer).await;
        let codes = json!({"code": "unavailable", "type": "server_error"});
        assert_eq!(body["error"][code], codes[code], "{body}");
        assert_eq!(asked.get(), before + 1);
        rig.depose(&ended);
    }
}

#[tokio::test]
async fn what_begins_a_request_of_an_agent_is_asked_again_under_one_key() {
    let rig = Rig::start().await;
    let keys = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&keys);
    let note = move |headers: &HeaderMap| {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        noted.lock().unwrap().push(key);
    };
    let lost = note.clone();
    let routes = Router::new().route(
        INVOKE,
        post(move |headers: HeaderMap| {
            lost(&headers);
            std::future::pending::<()>()
        }),
    );
    let ended = rig.lead_openly(routes);
    let next = async {
        until("the request", || keys.lock().unwrap().len() == 1).await;
        rig.depose(&ended);
        let answer = move |headers: HeaderMap| {
            note(&headers);
            std::future::ready("done")
        };
        rig.lead_openly(Router::new().route(INVOKE, post(answer)))
    };
    let (answer, _) = tokio::join!(rig.follower.ask(request("POST", INVOKE, "{}")), next);
    assert_eq!(text(answer).await, "done");
    let keys = keys.lock().unwrap();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[tokio::test]
async fn what_an_engine_refuses_because_it_ends_is_asked_of_the_next_one() {
    let rig = Rig::start().await;
    let asked = Count::default();
    let (front, refused) = (rig.leader.front.clone(), asked.clone());
    // It was asked, and then told to end.
    let routes = Router::new().route(
        INVOKE,
        post(move || {
            front.lead(None);
            refused.add();
            std::future::ready(StatusCode::SERVICE_UNAVAILABLE)
        }),
    );
    rig.lead_openly(routes);
    let next = async {
        until("the request", || asked.get() == 1).await;
        tokio::time::sleep(HOLD / 10).await;
        let answer = || std::future::ready("done");
        rig.lead_openly(Router::new().route(INVOKE, post(answer)))
    };
    let (answer, _) = tokio::join!(rig.follower.ask(request("POST", INVOKE, "{}")), next);
    assert_eq!(text(answer).await, "done");
}

#[tokio::test]
async fn a_stream_that_ends_again_and_again_is_not_asked_for_without_end() {
    let rig = Rig::start().await;
    let asked = Count::default();
    let (counted, one) = (asked.clone(), "id: 1\nevent: started\ndata: {}\n\n");
    let ends = move |headers: HeaderMap| {
        counted.add();
        let told = headers.contains_key("last-event-id");
        std::future::ready(events(Body::from(if told { "" } else { one })))
    };
    rig.lead_openly(Router::new().route(EVENTS, on_get(ends)));
    let stream = rig.follower.ask(get(EVENTS)).await;
    assert_eq!(text(stream).await, one);
    // With a pause each time, for as long as requests are held.
    let most = HOLD.as_millis() / 200 + 2;
    assert!(
        asked.get() > 1 && asked.get() as u128 <= most,
        "{}",
        asked.get()
    );
}

#[tokio::test]
async fn a_stream_goes_on_behind_what_was_told() {
    let rig = Rig::start().await;
    let asked = Count::default();
    let counted = asked.clone();
    let ends = move |headers: HeaderMap| {
        let last = headers
            .get("last-event-id")
            .map_or(0, |id| id.to_str().unwrap().parse().unwrap());
        assert_eq!(counted.add(), last);
        let name = if last == 2 { "done" } else { "step" };
        let id = last + 1;
        std::future::ready(events(Body::from(format!(
            "id: {id}\nevent: {name}\ndata: {{}}\n\n"
        ))))
    };
    rig.lead_openly(Router::new().route(EVENTS, on_get(ends)));
    let told = text(rig.follower.ask(get(EVENTS)).await).await;
    let ids: Vec<&str> = told.lines().filter(|line| line.starts_with("id")).collect();
    assert_eq!(ids, ["id: 1", "id: 2", "id: 3"]);
}

#[tokio::test]
async fn without_credentials_no_body_is_read_and_the_leader_is_not_asked() {
    let rig = Rig::with(&credentials(), FrontLimits::default()).await;
    let asked = Count::default();
    let counted = asked.clone();
    // A leader whose settings let everybody in.
    rig.lead(Router::new().fallback(move || {
        counted.add();
        std::future::ready("answered")
    }));
    for side in [&rig.leader, &rig.follower] {
        for path in [INVOKE, "/v1/responses", "/v1/agents"] {
            let refused = side.ask(request("POST", path, endless())).await;
            assert_eq!(refused.status(), 401);
            assert_eq!(header(&refused, "www-authenticate"), Some("Bearer"));
            assert!(header(&refused, "x-request-id").is_some());
            let code = match path {
                "/v1/responses" => "invalid_api_key",
                _ => "unauthenticated",
            };
            assert_eq!(json(refused).await["error"]["code"], code);
        }
        assert_eq!(asked.get(), 0);
    }
    // What is for everybody is passed on, without what everybody may send with it.
    let wakeup = rig
        .follower
        .ask(request("POST", "/v1/wakeups/t", endless()))
        .await;
    assert_eq!(text(wakeup).await, "answered");
    let mut known = request("POST", "/v1/events", "{}");
    known
        .headers_mut()
        .insert("x-api-key", "key".parse().unwrap());
    assert_eq!(text(rig.follower.ask(known).await).await, "answered");
    assert_eq!(asked.get(), 2);
}

#[tokio::test]
async fn bodies_have_so_much_space_and_no_more() {
    let limits = FrontLimits {
        bodies: 1000,
        ..FrontLimits::default()
    };
    let rig = Rig::with(&Auth::Anonymous, limits).await;
    let (go_on, begun) = (Arc::new(Notify::new()), Count::default());
    let (waits, counted) = (Arc::clone(&go_on), begun.clone());
    rig.lead_openly(Router::new().route(
        "/v1/events",
        post(move |body: Bytes| {
            let waits = Arc::clone(&waits);
            counted.add();
            async move {
                waits.notified().await;
                body.len().to_string()
            }
        }),
    ));
    let body = "x".repeat(800);
    let publish = || request("POST", "/v1/events", body.clone());
    let second = async {
        until("the first request", || begun.get() == 1).await;
        let refused = rig.follower.ask(publish()).await;
        go_on.notify_one();
        refused
    };
    let (first, second) = tokio::join!(rig.follower.ask(publish()), second);
    assert_eq!(
        (first.status().as_u16(), second.status().as_u16()),
        (200, 429)
    );
    let third = async { go_on.notify_one() };
    let (third, ()) = tokio::join!(rig.follower.ask(publish()), third);
    assert_eq!(text(third).await, "800");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_hold_up_no_others() {
    let rig = Rig::start().await;
    let part = Bytes::from(vec![0; 64 << 10]);
    let flood = move || {
        let part = part.clone();
        let parts = stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone()));
        std::future::ready(Body::from_stream(parts))
    };
    let small = || std::future::ready("x".repeat(100 << 10));
    let routes = Router::new().route("/v1/sessions/s", on_get(flood));
    rig.lead_openly(routes.route("/v1/agents", on_get(small)));
    let mut unread = Vec::new();
    for _ in 0..16 {
        unread.push(rig.follower.ask(get("/v1/sessions/s")).await);
    }
    for _ in 0..100 {
        let answer = rig.follower.ask(get("/v1/agents")).await;
        assert_eq!(text(answer).await.len(), 100 << 10);
    }
}

#[tokio::test]
async fn so_many_requests_are_under_way_at_the_leader_and_no_more() {
    let limits = FrontLimits {
        forwarded: 2,
        ..FrontLimits::default()
    };
    let rig = Rig::with(&Auth::Anonymous, limits).await;
    let route = |_: Request| std::future::ready(endless());
    rig.lead_openly(Router::new().route("/v1/agents", on_get(route)));
    let first = rig.follower.ask(get("/v1/agents")).await;
    let _second = rig.follower.ask(get("/v1/agents")).await;
    let third = rig.follower.ask(get("/v1/agents")).await;
    assert_eq!(third.status(), 503);
    assert_eq!(header(&third, "retry-after"), Some("2"));
    drop(first);
    assert_eq!(rig.follower.ask(get("/v1/agents")).await.status(), 200);
}

#[tokio::test]
async fn a_node_is_ready_once_the_leader_answers() {
    let rig = Rig::start().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let last = |told: &Mutex<Vec<bool>>| told.lock().unwrap().last().copied();
    let watch = rig.follower.front.watch({
        let told = Arc::clone(&told);
        move |is_answered| told.lock().unwrap().push(is_answered)
    });
    let check = async {
        until("a first look", || last(&told) == Some(false)).await;
        let health = || std::future::ready("ok");
        let ended = rig.lead_openly(Router::new().route("/health", on_get(health)));
        until("an engine", || last(&told) == Some(true)).await;
        rig.depose(&ended);
        until("its end", || last(&told) == Some(false)).await;
    };
    tokio::select! {
        () = watch => unreachable!(),
        () = check => {}
    }
}

#[tokio::test]
async fn what_the_front_does_not_have_answered_is_counted_and_named() {
    let metrics = Metrics::default();
    metrics.install().unwrap();
    let rig = Rig::start().await;
    let answer = rig.follower.ask(get("/v1/tasks")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(header(&answer, "retry-after"), Some("2"));
    assert!(header(&answer, "x-request-id").is_some());
    let shown = metrics.render();
    let has = |parts: &[&str]| {
        let mut lines = shown.lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let counted = ["http_requests_total{", "gateway", "/v1/tasks", "503"];
    assert!(has(&counted), "{shown}");
    let refused = ["rune_cluster_forwarded_total{", "refused"];
    assert!(has(&refused), "{shown}");
}
