//! Who may call: credentials, hosts, origins, and whose a call is.

use super::*;

#[tokio::test]
async fn callers_hosts_and_origins_are_checked() {
    let builder = TestDaemon::builder(RUNE)
        .env("RUNE_API_KEY", KEY)
        .env("RUNE_ALLOWED_HOSTS", "rune.lan")
        .env("RUNE_ALLOWED_ORIGINS", "https://chat.example.org");
    let served = Served(builder.start().await.unwrap());
    let mut mcp = Mcp::modern(&served);
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let refused = mcp.request(method).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    }
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/register",
    ] {
        for method in [Method::GET, Method::POST] {
            let url = format!("{}{path}", served.0.gateway());
            let absent = mcp.client.request(method, url).send().await.unwrap();
            assert_eq!(absent.status(), 404, "{path}");
        }
    }
    mcp.key = Some("wrong".to_owned());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 401);
    mcp.key = Some(KEY.to_owned());
    assert!(mcp.tools().await.is_empty());
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://chat.example.org", 403),
        ("origin", "https://chat.example.org", 200),
        ("origin", "http://localhost:6274", 200),
        ("host", "evil.example", 403),
        ("host", "rune.lan:8080", 200),
        ("host", "localhost:1", 200),
    ] {
        let request = mcp.message("tools/list", json!({})).header(header, value);
        let answered = request.send().await.unwrap();
        assert_eq!(answered.status(), status, "{header}: {value}");
    }

    let home = Home::new();
    for (name, value) in [
        ("RUNE_ALLOWED_HOSTS", "http://a"),
        ("RUNE_ALLOWED_ORIGINS", "a.example"),
    ] {
        let mut command = home.command(&["daemon", "start", "--foreground"]);
        command.env(name, value);
        let refused = Ran::new(command).ends(2);
        assert!(refused.stderr.contains(value), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_call_and_a_session_are_of_the_caller_that_began_them() {
    let builder = TestDaemon::builder(RUNE).env("RUNE_JWT_SECRET", SECRET);
    let served = Served(builder.start().await.unwrap());
    write_asking(&served);
    let mut run = served.command(&["run", "ask"]);
    run.env("RUNE_JWT_SECRET", SECRET);
    Ran::new(run).ok();
    let of = |subject: &str| {
        let mut mcp = Mcp::modern(&served).asking_people();
        mcp.key = Some(token(subject));
        mcp
    };
    let params = json!({"name": "ask", "arguments": {"input": "go"}});
    let asked = of("ada").ask("tools/call", params.clone()).await["result"].clone();
    let (approval, _) = asked["inputRequests"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let mut again = params.clone();
    again["requestState"] = asked["requestState"].clone();
    again["inputResponses"] =
        json!({approval.as_str(): {"action": "accept", "content": {"decision": "approve"}}});
    let refused = of("bob").ask("tools/call", again.clone()).await["result"].clone();
    assert_eq!(
        (&refused["isError"], &refused["_meta"]["rune/code"]),
        (&json!(true), &json!("not_found")),
        "{refused}"
    );
    let done = of("ada").ask("tools/call", again).await["result"].clone();
    assert_eq!(done["content"][0]["text"], "done", "{done}");

    let mut ada = of("ada").shaking_hands(json!({"elicitation": {}})).await;
    let mut stream = Stream::of(ada.send("tools/call", params).await);
    let asked = stream.told("elicitation/create").await;
    let said = json!({
        "jsonrpc": "2.0", "id": asked["id"],
        "result": {"action": "accept", "content": {"decision": "approve"}},
    });
    let own = ada.key.replace(token("bob"));
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let foreign = ada.request(method).json(&said).send().await.unwrap();
        assert_eq!(foreign.status(), 404);
    }
    ada.key = own;
    let taken = ada.request(Method::POST).json(&said).send().await.unwrap();
    assert_eq!(taken.status(), 202);
    let (_, done) = stream.until(ada.next).await;
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
    assert_no_panic(&served);
}

#[tokio::test]
async fn without_credentials_web_pages_are_kept_out() {
    let served = daemon().await;
    let mut mcp = Mcp::modern(&served);
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("host", "evil.example", 403),
        ("origin", "http://127.0.0.1:9", 200),
    ] {
        let request = mcp.message("tools/list", json!({})).header(header, value);
        let answered = request.send().await.unwrap();
        assert_eq!(answered.status(), status, "{header}: {value}");
    }
}
