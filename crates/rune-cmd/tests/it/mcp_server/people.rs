//! A person is asked in the client.

use super::*;

#[tokio::test]
async fn a_person_is_asked_in_the_client() {
    let served = daemon().await;
    ask(&served);
    for (decision, lines) in [("approve", 1), ("deny", 1)] {
        let mut mcp = Mcp::modern(&served).asking_people();
        let params = json!({"name": "ask", "arguments": {"input": "go"}});
        let asked = mcp.ask("tools/call", params.clone()).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        let requests = asked["inputRequests"].as_object().unwrap();
        let (approval, form) = requests.iter().next().unwrap();
        assert_eq!(form["method"], "elicitation/create", "{asked}");
        assert!(
            form["params"]["message"].to_string().contains("touch"),
            "{asked}"
        );
        let id = request_of(&asked);
        until_status(&served, &id, "input-required").await;

        // An answer that is none is asked for again.
        let mut again = params.clone();
        again["requestState"] = asked["requestState"].clone();
        again["inputResponses"] =
            json!({approval.as_str(): {"action": "accept", "content": {"decision": "maybe"}}});
        let asked = mcp.ask("tools/call", again.clone()).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{asked}");

        again["inputResponses"] =
            json!({approval.as_str(): {"action": "accept", "content": {"decision": decision}}});
        let done = mcp.ask("tools/call", again).await["result"].clone();
        assert_eq!(
            (&done["content"][0]["text"], &done["resultType"]),
            (&json!("done"), &json!("complete")),
            "{done}"
        );
        assert_eq!(request_of(&done), id);
        assert_eq!(lines_of(&served, "ask", "log").len(), lines);

        let mut made_up = params.clone();
        made_up["requestState"] = json!("req_1@1");
        assert_eq!(
            mcp.ask("tools/call", made_up).await["error"]["code"],
            -32602
        );
    }

    // The older protocol asks on the stream of the call.
    let mut mcp = Mcp::legacy(&served, json!({"elicitation": {}})).await;
    let params = json!({"name": "ask", "arguments": {"input": "go"}});
    let mut stream = Stream::of(mcp.send("tools/call", params).await);
    let asked = stream.told("elicitation/create").await;
    let id = &asked["id"];
    let said = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {"decision": "approve"}}});
    let taken = mcp.request(Method::POST).json(&said).send().await.unwrap();
    assert_eq!(taken.status(), 202);
    let (_, done) = stream.until(mcp.next).await;
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
    assert_eq!(lines_of(&served, "ask", "log").len(), 2);
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_client_that_cannot_ask_is_told_who_can() {
    let served = daemon().await;
    ask(&served);
    steps(&served);
    for mut mcp in both(&served).await {
        let result = mcp.call("ask", json!({"input": "go"})).await;
        let id = request_of(&result);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(
            text.contains("touch") && text.contains(&format!("rune requests approve {id}")),
            "{text}"
        );
        assert_eq!(result["_meta"]["rune/status"], "input-required");
        until_status(&served, &id, "input-required").await;
        served.rune(&["requests", "approve", &id]).ok();
        until_status(&served, &id, "completed").await;
    }
    // What a client has got about one agent is of no use with another.
    let mut mcp = Mcp::modern(&served).asking_people();
    let asked = mcp
        .ask(
            "tools/call",
            json!({"name": "ask", "arguments": {"input": "go"}}),
        )
        .await;
    let params = json!({
        "name": "steps", "arguments": {"input": "go"}, "requestState": asked["result"]["requestState"],
    });
    let refused = mcp.ask("tools/call", params).await;
    assert_eq!(refused["result"]["isError"], true, "{refused}");
}
