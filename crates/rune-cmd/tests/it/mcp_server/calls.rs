//! Calls of agents as tools: what they answer, how far they are, who leaves them, what a crash leaves of them.

use super::*;

#[tokio::test]
async fn agents_are_tools_and_calls_are_requests_in_both_eras() {
    let served = daemon().await;
    steps(&served);
    let more = "input_schema: {type: object, properties: {n: {$ref: '#/$defs/n'}}, $defs: {n: {type: integer}}}\n\
                output_schema: {type: object, properties: {sum: {type: integer}}, required: [sum]}\n";
    deploy(
        &served,
        "typed",
        more,
        "rules:\n  - respond: '{\"sum\": 5}'\n",
        &[],
    );
    let api = Api::of(&served.0);

    let discovered = Mcp::modern(&served).ask("server/discover", json!({})).await;
    let versions = &discovered["result"]["supportedVersions"];
    assert!(
        versions.as_array().unwrap().contains(&json!(MODERN)),
        "{discovered}"
    );

    for mut mcp in both(&served).await {
        let listed = mcp.ask("tools/list", json!({})).await["result"].clone();
        assert_eq!(mcp.is_legacy(), listed["resultType"].is_null(), "{listed}");
        let tools = listed["tools"].as_array().unwrap();
        assert_eq!(tools.len(), 2, "{listed}");
        assert_eq!(
            (&tools[0]["name"], &tools[0]["description"]),
            (&json!("steps"), &json!("The agent steps"))
        );
        assert_eq!(tools[0]["inputSchema"]["required"], json!(["input"]));
        let typed = &tools[1];
        let n = &typed["inputSchema"]["properties"]["input"]["properties"]["n"]["$ref"];
        assert_eq!(n, "#/properties/input/$defs/n", "{typed}");
        assert_eq!(typed["outputSchema"]["required"], json!(["sum"]), "{typed}");

        let session = format!("talk-{}", mcp.is_legacy());
        for input in ["one", "two"] {
            let result = mcp
                .call("steps", json!({"input": input, "session_id": session}))
                .await;
            assert_eq!(
                result["content"][0]["text"],
                format!("You said: {input}"),
                "{result}"
            );
            assert_ne!(result["isError"], true);
            assert_eq!(result.get("structuredContent"), None);
            assert_eq!(result["_meta"]["rune/session_id"], session.as_str());
            let row = row(&served, &request_of(&result)).await;
            assert_eq!(
                (&row["agent"], &row["status"], &row["session_id"]),
                (&json!("steps"), &json!("completed"), &json!(session)),
                "{row}"
            );
        }
        let path = format!("/v1/sessions/{session}/messages");
        let (_, messages) = answer(api.get(&path)).await.unwrap();
        let text = messages.to_string();
        assert!(
            text.contains("You said: one") && text.contains("You said: two"),
            "{text}"
        );

        let result = mcp.call("typed", json!({})).await;
        assert_eq!(result["structuredContent"], json!({"sum": 5}), "{result}");
        assert_eq!(result["content"][0]["text"], r#"{"sum":5}"#);

        // What is wrong with a call is for whoever has made it; a tool that is not there is not a tool.
        for (tool, arguments, part) in [
            ("steps", json!({}), "`input`"),
            (
                "steps",
                json!({"input": "a", "session_id": "a b"}),
                "`session_id`",
            ),
            ("typed", json!({"input": {"n": "x"}}), "integer"),
            ("steps", json!({"input": "nothing"}), "no model for this"),
        ] {
            let result = mcp.call(tool, arguments).await;
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(result["isError"] == true && text.contains(part), "{result}");
        }
        let params = json!({"name": "nobody", "arguments": {"input": "a"}});
        let unknown = mcp.ask("tools/call", params).await;
        assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
        assert!(
            unknown["error"]["message"].to_string().contains("nobody"),
            "{unknown}"
        );
    }
    assert_no_panic(&served);
}

#[tokio::test]
async fn the_url_names_the_namespace() {
    let served = daemon().await;
    steps(&served);
    served
        .rune(&["run", "steps", "--namespace", "prod", "--alias", "canary"])
        .ok();
    for (query, count) in [("", 1), ("?ns=prod", 0), ("?ns=prod&alias=canary", 1)] {
        let mut mcp = Mcp::modern(&served);
        mcp.url.push_str(query);
        assert_eq!(mcp.tools().await.len(), count, "{query}");
    }
    let mut mcp = Mcp::modern(&served);
    mcp.url.push_str("?namespace=prod");
    let refused = mcp.ask("tools/list", json!({})).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

#[tokio::test]
async fn an_older_handshake_is_answered_whatever_version_it_asks_for() {
    let served = daemon().await;
    for (asked, answered) in [
        (MODERN, LEGACY),
        ("1999-01-01", LEGACY),
        ("2025-03-26", "2025-03-26"),
    ] {
        let mut mcp = Mcp::modern(&served);
        mcp.session = Some(String::new());
        let params = json!({
            "protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        });
        let result = mcp.ask("initialize", params).await;
        assert_eq!(
            result["result"]["protocolVersion"], answered,
            "{asked}: {result}"
        );
    }
    // A session that is not there, such as one of before a restart, is begun again by the client.
    let mut mcp = Mcp::modern(&served);
    mcp.session = Some("00000000-0000-4000-8000-000000000000".to_owned());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 404);
    let mut mcp = Mcp::legacy(&served, json!({})).await;
    assert!(mcp.tools().await.is_empty());
    let ended = mcp.request(Method::DELETE).send().await.unwrap();
    assert!(ended.status().is_success());
    assert_eq!(mcp.send("tools/list", json!({})).await.status(), 404);
}

#[tokio::test]
async fn clients_are_told_when_agents_come_and_go() {
    let served = daemon().await;
    let mut modern = Mcp::modern(&served);
    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut subscribed = Stream::of(modern.send("subscriptions/listen", params).await);
    subscribed
        .told("notifications/subscriptions/acknowledged")
        .await;
    let mut legacy = Mcp::legacy(&served, json!({})).await;
    let mut listening = Stream::of(legacy.request(Method::GET).send().await.unwrap());
    assert!(legacy.tools().await.is_empty());

    steps(&served);
    for stream in [&mut subscribed, &mut listening] {
        stream.told("notifications/tools/list_changed").await;
    }
    for mcp in [&mut modern, &mut legacy] {
        assert_eq!(mcp.tools().await, ["steps"]);
    }
    served.rune(&["agent", "rm", "steps"]).ok();
    for stream in [&mut subscribed, &mut listening] {
        stream.told("notifications/tools/list_changed").await;
    }
    assert!(modern.tools().await.is_empty());

    // Streams of clients do not keep the daemon from ending.
    let mut served = served;
    assert!(served.0.terminate().await.unwrap().success());
}

#[tokio::test]
async fn a_call_tells_how_far_it_is() {
    let served = daemon().await;
    steps(&served);
    for mut mcp in both(&served).await {
        let params = json!({
            "name": "steps", "arguments": {"input": "go"}, "_meta": {"progressToken": 7},
        });
        let mut stream = Stream::of(mcp.send("tools/call", params).await);
        let (told, answered) = stream.until(mcp.next).await;
        assert_eq!(answered["result"]["content"][0]["text"], "You said: go");
        let progress: Vec<f64> = told
            .iter()
            .filter(|message| message["method"] == "notifications/progress")
            .map(|message| {
                assert_eq!(message["params"]["progressToken"], 7);
                message["params"]["progress"].as_f64().unwrap()
            })
            .collect();
        assert!(
            progress.len() >= 3 && progress.is_sorted_by(|a, b| a < b),
            "{told:?}"
        );
        let text = Value::from(told).to_string();
        assert!(text.contains("uses rune@system-time"), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_only_where_the_protocol_says_so() {
    let served = daemon().await;
    slow(&served);
    let mut modern = Mcp::modern(&served);
    let stream = modern.begin("slow", json!({})).await;
    let id = running(&served, "slow").await;
    drop(stream);
    until_status(&served, &id, "cancelled").await;

    // Before anything is said, too.
    let params = json!({"name": "slow", "arguments": {"input": "go"}});
    let sending = modern.message("tools/call", params).send();
    let id = tokio::select! {
        _ = sending => unreachable!("the tool waits"),
        id = running(&served, "slow") => id,
    };
    until_status(&served, &id, "cancelled").await;

    let mut legacy = Mcp::legacy(&served, json!({})).await;
    let stream = legacy.begin("slow", json!({})).await;
    let call = legacy.next;
    let id = running(&served, "slow").await;
    drop(stream);
    assert_eq!(legacy.ask("ping", json!({})).await["result"], json!({}));
    assert_eq!(row(&served, &id).await["status"], "running");
    legacy
        .notify("notifications/cancelled", json!({"requestId": call}))
        .await;
    until_status(&served, &id, "cancelled").await;
    assert_no_panic(&served);
}

#[tokio::test]
async fn who_leaves_a_call_with_a_key_leaves_it_to_the_others() {
    let served = daemon().await;
    slow(&served);
    let meta = json!({"rune/idempotency_key": "shared"});
    let mut leaving = Mcp::modern(&served);
    let stream = leaving.begin("slow", meta.clone()).await;
    let id = running(&served, "slow").await;
    let mut staying = Mcp::modern(&served);
    let staying_stream = staying.begin("slow", meta.clone()).await;
    drop(stream);
    // Once a call without a key that was left behind it is cancelled, it would be, too.
    let mut other = Mcp::modern(&served);
    let params =
        json!({"name": "slow", "arguments": {"input": "other"}, "_meta": {"progressToken": "p"}});
    let sending = Stream::of(other.send("tools/call", params).await);
    let api = Api::of(&served.0);
    let mut second = String::new();
    until("two requests run", async || {
        let (_, page) = answer(api.get("/v1/requests?agent=slow&status=running"))
            .await
            .unwrap();
        let items = page["items"].as_array().unwrap();
        second = items[0]["id"].as_str().unwrap().to_owned();
        items.len() == 2
    })
    .await;
    drop(sending);
    until_status(&served, &second, "cancelled").await;
    assert_eq!(row(&served, &id).await["status"], "running");
    std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    let answered = staying_stream.answer(staying.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
}

#[tokio::test]
async fn an_answer_that_is_no_object_is_text() {
    let served = daemon().await;
    let list = "output_schema: {type: array, items: {type: string}}\n";
    deploy(
        &served,
        "list",
        list,
        "rules:\n  - respond: '[\"a\"]'\n",
        &[],
    );
    let object = "output_schema: {type: object, properties: {a: {type: integer}}}\n";
    deploy(
        &served,
        "object",
        object,
        "rules:\n  - respond: '{\"a\": 1}'\n",
        &[],
    );
    for mut mcp in both(&served).await {
        let listed = mcp.ask("tools/list", json!({})).await;
        let tools = &listed["result"]["tools"];
        assert_eq!(tools[0].get("outputSchema"), None, "{listed}");
        assert_eq!(tools[1]["outputSchema"]["type"], "object", "{listed}");
        let answered = mcp.call("list", json!({"input": "go"})).await;
        assert_eq!(answered["content"][0]["text"], r#"["a"]"#, "{answered}");
        assert_eq!(answered.get("structuredContent"), None, "{answered}");
        let answered = mcp.call("object", json!({"input": "go"})).await;
        assert_eq!(answered["structuredContent"], json!({"a": 1}), "{answered}");
    }
}

#[tokio::test]
async fn an_answer_that_was_missed_is_sent_again_in_a_session() {
    let served = daemon().await;
    slow(&served);
    let mut mcp = Mcp::legacy(&served, json!({})).await;
    let params =
        json!({"name": "slow", "arguments": {"input": "go"}, "_meta": {"progressToken": 1}});
    let mut response = mcp.send("tools/call", params).await;
    let mut text = String::new();
    while !text.contains("notifications/progress") {
        let chunk = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let mut ids = text.lines().filter_map(|line| line.strip_prefix("id:"));
    let last = ids.next_back().unwrap().trim().to_owned();
    let id = running(&served, "slow").await;
    drop(response);
    let again = mcp.request(Method::GET).header("last-event-id", last);
    let mut stream = Stream::of(again.send().await.unwrap());
    std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    let (_, answered) = stream.until(mcp.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
}

#[tokio::test]
async fn a_call_survives_a_crash_of_the_daemon_and_can_be_sent_again() {
    let mut served = daemon().await;
    slow(&served);
    let mut mcp = Mcp::modern(&served);
    let meta = json!({"rune/idempotency_key": "once"});
    let mut stream = mcp.begin("slow", meta.clone()).await;
    let id = running(&served, "slow").await;
    served.0.kill9().unwrap();
    while stream.next().await.is_some() {}
    served.0.restart().await.unwrap();

    let mut mcp = Mcp::modern(&served);
    let params = json!({"name": "slow", "arguments": {"input": "go"}, "_meta": meta});
    let again = mcp.message("tools/call", params.clone()).send();
    let release = async {
        running(&served, "slow").await;
        std::fs::write(served.0.data_dir().join("workspaces/dev/slow/go"), "").unwrap();
    };
    let (response, ()) = tokio::join!(again, release);
    let answered = Stream::of(response.unwrap()).answer(mcp.next).await;
    assert_eq!(
        answered["result"]["content"][0]["text"], "waited",
        "{answered}"
    );
    assert_eq!(request_of(&answered["result"]), id);
    let row = row(&served, &id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(2)),
        "{row}"
    );

    // The key stands for this call and no other.
    let mut other = params;
    other["arguments"]["input"] = json!("something else");
    let refused = mcp.ask("tools/call", other).await;
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    assert!(refused.to_string().contains("idempotency"), "{refused}");
}
