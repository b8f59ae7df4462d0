use rune_tools::ToolErrorKind;
use serde_json::{Value, json};

use crate::support::Sandbox;

async fn graph() -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, kind, known) in [
        ("Ada", "person", json!({"field": "computing"})),
        ("Grace", "person", json!({"field": "compilers"})),
        ("Acme", "company", json!({"city": "London"})),
        ("London", "city", json!({})),
        ("Mars", "planet", json!({})),
    ] {
        let input = json!({"name": name, "type": kind, "properties": known});
        sandbox.call("knowledge-add-entity", input).await.unwrap();
    }
    for (from, kind, to) in [
        ("Ada", "works_at", "Acme"),
        ("Grace", "works_at", "Acme"),
        ("Acme", "is_in", "London"),
    ] {
        let input = json!({"from": from, "type": kind, "to": to});
        sandbox.call("knowledge-add-relation", input).await.unwrap();
    }
    sandbox
}

async fn query(sandbox: &Sandbox, input: Value) -> Value {
    sandbox.call("knowledge-query", input).await.unwrap()
}

fn lines(rows: &Value) -> Vec<String> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| {
        let word = |name: &str| row[name].as_str().unwrap().to_owned();
        [word("from"), word("type"), word("to")].join(" ")
    })
    .collect()
}

fn names(answer: &Value) -> Vec<&str> {
    let rows = answer["entities"].as_array().unwrap().iter();
    rows.map(|row| row["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_entity_comes_with_its_relations() {
    let sandbox = graph().await;
    let answer = query(&sandbox, json!({"entity": "Acme"})).await;
    assert_eq!(
        answer["entity"],
        json!({"name": "Acme", "type": "company", "properties": {"city": "London"}})
    );
    assert_eq!(
        lines(&answer["relations"]),
        [
            "Acme is_in London",
            "Ada works_at Acme",
            "Grace works_at Acme"
        ]
    );
    let nothing = query(&sandbox, json!({"entity": "Nobody"})).await;
    assert_eq!(nothing, json!({"entity": null, "relations": []}));
    let answer = query(
        &sandbox,
        json!({"relation": {"type": "works_at"}, "limit": 1}),
    )
    .await;
    assert_eq!(lines(&answer["relations"]), ["Ada works_at Acme"]);
    let next = json!({"relation": {"type": "works_at"}, "cursor": answer["cursor"]});
    let answer = query(&sandbox, next).await;
    assert_eq!(lines(&answer["relations"]), ["Grace works_at Acme"]);
}

#[tokio::test]
async fn entities_are_found_by_words_and_listed_by_type() {
    let sandbox = graph().await;
    assert_eq!(
        names(&query(&sandbox, json!({"text": "comp person"})).await),
        ["Ada", "Grace"]
    );
    assert_eq!(
        names(&query(&sandbox, json!({"text": "comp", "type": "company"})).await),
        ["Acme"]
    );
    assert_eq!(
        names(&query(&sandbox, json!({"type": "city"})).await),
        ["London"]
    );
    assert_eq!(names(&query(&sandbox, json!({})).await).len(), 5);
}

#[tokio::test]
async fn a_path_is_a_shortest_one_within_its_depth() {
    let sandbox = graph().await;
    let path = |from: &str, to: &str, depth: u32, directed: bool| json!({"path": {"from": from, "to": to, "max_depth": depth, "directed": directed}});
    let found = query(&sandbox, path("Ada", "London", 4, true)).await;
    assert_eq!(
        lines(&found["path"]),
        ["Ada works_at Acme", "Acme is_in London"]
    );
    let found = query(&sandbox, path("Ada", "Grace", 4, false)).await;
    assert_eq!(
        lines(&found["path"]),
        ["Ada works_at Acme", "Grace works_at Acme"]
    );
    for (to, depth, directed) in [("London", 1, true), ("Grace", 4, true), ("Mars", 8, false)] {
        let found = query(&sandbox, path("Ada", to, depth, directed)).await;
        assert_eq!(
            found,
            json!({"found": false, "path": [], "complete": true}),
            "{to}"
        );
    }
    let same = query(&sandbox, path("Ada", "Ada", 1, false)).await;
    assert_eq!(same["found"], true);
}

#[tokio::test]
async fn rows_that_do_not_fit_come_with_the_cursor() {
    let mut sandbox = graph().await;
    for n in 0..5 {
        let known = json!({"text": "x".repeat(2000)});
        let input = json!({"name": format!("big {n}"), "type": "big", "properties": known});
        sandbox.call("knowledge-add-entity", input).await.unwrap();
    }
    sandbox.context.output_limit = 6000;
    let (mut seen, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut input = json!({"type": "big"});
        if !cursor.is_null() {
            input["cursor"] = cursor;
        }
        let answer = query(&sandbox, input).await;
        assert!(answer.to_string().len() <= 6000);
        seen.extend(names(&answer).into_iter().map(str::to_owned));
        cursor = answer["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(seen, ["big 0", "big 1", "big 2", "big 3", "big 4"]);
}

#[tokio::test]
async fn another_agent_knows_nothing_of_it() {
    let mut sandbox = graph().await;
    sandbox.context.scope.agent = "somebody-else".to_owned();
    assert_eq!(query(&sandbox, json!({})).await, json!({"entities": []}));
    assert_eq!(
        names(&query(&sandbox, json!({"text": "ada"})).await),
        [""; 0]
    );
    let relation = json!({"from": "Ada", "type": "knows", "to": "Grace"});
    let message = sandbox
        .refused("knowledge-add-relation", relation, ToolErrorKind::NotFound)
        .await;
    assert!(message.contains("knowledge-add-entity"), "{message}");
}

#[tokio::test]
async fn one_question_is_asked_at_a_time() {
    let sandbox = graph().await;
    let both = json!({"entity": "Ada", "text": "ada"});
    sandbox
        .refused("knowledge-query", both, ToolErrorKind::InvalidInput)
        .await;
    let unknown = json!({"path": {"from": "Ada", "to": "Nobody"}});
    sandbox
        .refused("knowledge-query", unknown, ToolErrorKind::NotFound)
        .await;
}
