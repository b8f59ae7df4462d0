//! What a model is shown of a conversation.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;

use rune_runtime::Forking;
use rune_store_runtime::{
    Block, Compaction, Entry, EntryBody, ForkChanges, PageRequest, RequestStatus, SessionId,
    UsageFilter,
};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply, ToolCall, Usage};
use serde_json::{Value, json};

use super::harness::{Bot, Ended, Rig, script};

/// What a scripted model writes for a transcript, which has what an assistant said.
const NOTES: &str = "Instructions: be nice. Open: the roof.";

fn summarising(script: ModelScript) -> ModelScript {
    let usage = Usage {
        input: 60,
        output: 20,
        ..Usage::default()
    };
    script
        .on_text("Assistant: ")
        .reply(Reply::text(NOTES).usage(usage))
}

/// A text of 400 bytes, which are 100 tokens.
fn long(word: &str) -> String {
    let text = format!("{word} ").repeat(400 / (word.len() + 1));
    format!("{text:400}")
}

/// An input of 100 tokens that is echoed: a turn of 200.
async fn turns(rig: &Rig, session: &SessionId, numbers: Range<usize>) -> Vec<Ended> {
    let mut ended = Vec::new();
    for n in numbers {
        ended.push(rig.ask_in(session, &long(&format!("turn{n}"))).await);
    }
    ended
}

fn session() -> SessionId {
    SessionId::generate()
}

fn compactions(ended: &Ended) -> Vec<Compaction> {
    let entries = ended.journal.iter();
    let found = entries.filter_map(|entry| entry.body.compaction().cloned());
    found.collect()
}

fn notice(ended: &Ended, wanted: &str) -> Option<String> {
    ended.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::Notice { code, message } if code == wanted => Some(message.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn a_window_is_a_part_of_the_token_budget() {
    // Of earlier turns: 212 tokens with `standard`, 850 with `extended`.
    for (profile, shown) in [("minimal", 0), ("standard", 1), ("extended", 3)] {
        let server = ModelServer::start(ModelScript::new()).await.unwrap();
        let bot = Bot::on(&[(&server, Protocol::Openai)])
            .set("memory_profile", json!(profile))
            .set_in("models", "token_budget", json!(1_700));
        let rig = Rig::new(bot).await;
        let last = turns(&rig, &session(), 0..4).await.pop().unwrap();
        assert_eq!(last.row.status, RequestStatus::Completed);
        let body = server.requests().pop().unwrap().body.to_string();
        let seen: Vec<usize> = (0..4)
            .filter(|n| body.contains(&format!("turn{n} ")))
            .collect();
        assert_eq!(seen, (3 - shown..4).collect::<Vec<_>>(), "{profile}");
        let reply = last.journal.iter().find_map(|entry| match &entry.body {
            EntryBody::ModelReply(reply) => Some(reply.prompt),
            _ => None,
        });
        let prompt = reply.unwrap();
        assert_eq!(prompt.earlier_requests as usize, shown, "{profile}");
        let echo = 2; // "Echo: " of every turn, in tokens.
        assert_eq!(prompt.earlier, shown as u64 * (200 + echo), "{profile}");
        assert_eq!(prompt.own, 100);
    }
}

#[tokio::test]
async fn a_turn_that_is_too_large_is_shown_as_question_and_answer() {
    let script = script()
        .on_text("look")
        .reply(Reply::calls([ToolCall::new("big", json!({}))]))
        .then(Reply::text("It is big."));
    let server = ModelServer::start(script).await.unwrap();
    let bot = Bot::on(&[(&server, Protocol::Gemini)])
        .tool(
            "big",
            &json!({}),
            "cat >/dev/null; printf '\"'; head -c 9000 /dev/zero | tr '\\0' x; printf '\"'\n",
        )
        .set_in("models", "token_budget", json!(8_000));
    let rig = Rig::new(bot).await;
    let first = rig.ask("look").await;
    assert_eq!(first.output(), "It is big.", "{:?}", first.row.failure);
    let next = rig.ask_in(&first.row.session_id, "and now?").await;
    let body = server.requests().pop().unwrap().body.to_string();
    assert!(body.contains("look") && body.contains("It is big.") && !body.contains("xxxx"));
    let notice = notice(&next, "history_condensed").unwrap();
    assert!(notice.contains("1/8 of `token_budget`"), "{notice}");
}

/// A tool whose output has `lines` lines of about 50 bytes.
fn log_tool(bot: Bot, lines: u32) -> Bot {
    let program = format!(
        "import json, sys\njson.load(sys.stdin)\nprint(json.dumps('\\n'.join('line %05d of a log that is long, é' % n for n in range({lines}))))\n"
    );
    bot.tool("log", &json!({}), &program)
}

#[tokio::test]
async fn a_large_output_is_kept_apart_and_read_in_parts() {
    let script = script()
        .on_text("look")
        .reply(Reply::calls([ToolCall::new("log", json!({}))]))
        .then(Reply::text("seen"));
    let server = ModelServer::start(script).await.unwrap();
    let bot = log_tool(Bot::on(&[(&server, Protocol::Anthropic)]), 2_000);
    let rig = Rig::new(bot).await;
    let ended = rig.ask("look").await;
    let outcome = ended.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::ToolResult(outcome) => Some(outcome.clone()),
        _ => None,
    });
    let outcome = outcome.unwrap();
    let spilled = outcome.spilled.unwrap();
    let (first, last) = ("line 00000 of", "line 01999 of a log that is long, é");
    assert_eq!((outcome.output, outcome.failure), (None, None));
    let content = &outcome.content;
    assert!(content.starts_with(first) && content.ends_with(last));
    assert!(
        content.len() < 16 * 1024 && content.contains(&spilled.handle),
        "{content}"
    );
    assert!(!content.contains("line 01000"));
    let told = server.requests().pop().unwrap().body.to_string();
    assert!(told.contains(&spilled.handle) && !told.contains("line 01000"));
    let done = ended.events.iter().find_map(|event| {
        (event.event.name() == "tool_done").then(|| serde_json::to_value(&event.event).unwrap())
    });
    let done = done.unwrap();
    assert_eq!(done["spilled"]["handle"], spilled.handle.as_str());
    assert_eq!(done["output"], content.as_str());
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);

    // After a restart the same session reads what is in the middle, another one nothing.
    let offline = Rig::new(log_tool(Bot::new(), 1)).await;
    let rig = offline.over_the_data_of(&rig);
    let read = |offset: u64| {
        let input = json!({"handle": spilled.handle, "offset": offset, "length": 80});
        format!("/tool rune@output-read {input}")
    };
    let middle = u64::try_from(content.find("[…").unwrap()).unwrap() + 1;
    let part = rig.ask_in(&ended.row.session_id, &read(middle)).await;
    let (tool, text) = part.results().remove(0);
    assert_eq!(tool, "rune@output-read");
    let part: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(part["size"], spilled.bytes);
    assert!(
        part["content"].as_str().unwrap().contains("of a log"),
        "{text}"
    );
    let beyond = rig.ask_in(&ended.row.session_id, &read(1 << 40)).await;
    assert!(
        beyond.results()[0].1.contains("`offset`"),
        "{:?}",
        beyond.results()
    );
    let other = rig.ask(&read(0)).await;
    let unknown = other.results().remove(0).1;
    let nonsense = rig
        .ask("/tool rune@output-read {\"handle\": \"out-0\"}")
        .await;
    let expected = unknown.replace(&spilled.handle, "out-0");
    assert_eq!(nonsense.results().remove(0).1, expected);
    assert!(unknown.contains("there is no output"), "{unknown}");
}

#[tokio::test]
async fn the_older_part_is_summarised_and_the_originals_stay() {
    let server = ModelServer::start(summarising(ModelScript::new()))
        .await
        .unwrap();
    let bot = Bot::on(&[(&server, Protocol::Anthropic)])
        .set("memory_profile", json!("extended"))
        .set_in("models", "token_budget", json!(1_600));
    let rig = Rig::new(bot).await;
    let session = session();
    let all = turns(&rig, &session, 0..5).await;
    assert!(all[..4].iter().all(|ended| compactions(ended).is_empty()));
    let last = &all[4];
    assert_eq!(last.output(), format!("Echo: {}", long("turn4")));
    let compaction = compactions(last).remove(0);
    let span = compaction.replaces.requests.unwrap();
    assert_eq!(
        (span.first, span.last, span.count),
        (all[0].row.id, all[2].row.id, 3)
    );
    assert_eq!(
        (compaction.replaces.steps, compaction.summary.as_str()),
        (0, NOTES)
    );
    assert!(compaction.tokens_before > 800 && compaction.tokens_after < 500);
    // It is a call like any other: counted, in the ledger, and no text of the answer.
    assert_eq!((last.row.model_calls, last.row.usage.input_tokens), (2, 70));
    let filter = UsageFilter {
        request_id: Some(last.row.id),
        ..UsageFilter::default()
    };
    let ledger = rig
        .store
        .usage(&filter, &PageRequest::default())
        .await
        .unwrap();
    assert_eq!(ledger.items.len(), 2);
    assert!(last.event_names().contains(&"compacted") && !last.text().contains(NOTES));
    let body = server.requests().pop().unwrap().body.to_string();
    assert!(body.contains(NOTES) && body.contains("turn3 ") && !body.contains("turn2 "));

    // The next request goes on from the summary; it is summarised once more in time.
    let more = turns(&rig, &session, 5..8).await;
    let bodies: Vec<String> = server
        .requests()
        .iter()
        .map(|r| r.body.to_string())
        .collect();
    assert!(bodies.last().unwrap().contains(NOTES));
    let again: Vec<_> = more.iter().flat_map(compactions).collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].replaces.requests.unwrap().first, all[3].row.id);
    let transcript = bodies
        .iter()
        .rfind(|body| body.contains("Summary so far"))
        .unwrap();
    assert!(transcript.contains(NOTES) && !transcript.contains("turn2 "));

    // What was said is all there, and every request replays.
    let page = PageRequest::first(1000);
    let messages = rig.store.messages(&session, &page).await.unwrap().items;
    let text: String = messages.iter().map(|row| row.message.text()).collect();
    assert!(
        text.contains("turn2 ")
            && messages
                .iter()
                .filter(|row| row.compaction.is_some())
                .count()
                == 2
    );
    for ended in all.iter().chain(&more) {
        let replayed = rig.engine.replay(ended.row.id).await.unwrap();
        assert!(replayed.equal, "{:?}", replayed.divergence);
    }
}

/// A model that takes eight turns with a tool, each with a result of about 90 tokens.
fn eight_steps(script: ModelScript) -> ModelScript {
    let script = (0..8).fold(summarising(script), |script, n| {
        let call = Reply::calls([ToolCall::new("t", json!({ "n": n }))]);
        // In the order they come: what was compacted cannot be counted by the server.
        script.on_text("work").reply(call.saying("hm")).times(1)
    });
    script.on_text("work").reply(Reply::text("done"))
}

fn worker(server: &ModelServer, protocol: Protocol) -> Bot {
    let program = "import json, sys\nn = json.load(sys.stdin)['n']\nprint(json.dumps(('step%d ' % n) * 60))\n";
    Bot::on(&[(server, protocol)]).tool("t", &json!({}), program)
}

#[tokio::test]
async fn a_single_long_request_is_compacted_between_its_steps() {
    for protocol in Protocol::ALL {
        let server = ModelServer::start(eight_steps(ModelScript::new()))
            .await
            .unwrap();
        let bot = worker(&server, protocol).set_in("models", "token_budget", json!(1_400));
        let rig = Rig::new(bot).await;
        let ended = rig.ask("work").await;
        let compactions = compactions(&ended);
        let failure = &ended.row.failure;
        assert_eq!(ended.output(), "done", "{protocol:?}: {failure:?}");
        assert!(!compactions.is_empty());
        for (one, next) in compactions.iter().zip(compactions.iter().skip(1)) {
            assert!(one.replaces.steps < next.replaces.steps);
        }
        for compaction in &compactions {
            assert!(compaction.tokens_after < compaction.tokens_before);
            assert!(
                compaction.effects[0].starts_with("t {\"n\":"),
                "{:?}",
                compaction.effects
            );
        }
        // The input is never replaced, a call never parted from its result.
        let asked = server.requests();
        assert!(
            asked.iter().all(|request| request.status == Some(200)),
            "{protocol:?}"
        );
        let replayed = rig.engine.replay(ended.row.id).await.unwrap();
        assert!(replayed.equal, "{protocol:?}: {:?}", replayed.divergence);
        rig.assert_usable(&ended.row.session_id).await;
    }
}

#[tokio::test]
async fn a_prompt_that_a_model_refuses_is_compacted_once() {
    for (faults, completes) in [(1, true), (2, false)] {
        let script = summarising(script())
            .on_text("turn3")
            .fault_first(Fault::context_overflow().times(faults))
            .reply(Reply::text("fits"));
        let server = ModelServer::start(script).await.unwrap();
        let bot = Bot::on(&[(&server, Protocol::Openai)])
            .set("memory_profile", json!("extended"))
            .set_in("models", "token_budget", json!(3_000));
        let rig = Rig::new(bot).await;
        let session = session();
        let last = turns(&rig, &session, 0..4).await.pop().unwrap();
        assert_eq!(compactions(&last).len(), 1, "{:?}", last.row.failure);
        if completes {
            assert_eq!(last.output(), "fits");
        } else {
            let failure = last.row.failure.clone().unwrap();
            assert_eq!(failure.code.as_str(), "too_large", "{failure}");
        }
        let failed = last
            .kinds()
            .iter()
            .filter(|kind| **kind == "model_failed")
            .count();
        assert_eq!(failed, faults as usize);
        let replayed = rig.engine.replay(last.row.id).await.unwrap();
        assert!(replayed.equal, "{:?}", replayed.divergence);
        rig.assert_usable(&session).await;
    }
}

#[tokio::test]
async fn a_prompt_that_cannot_be_made_shorter_fails_and_says_so() {
    let script = script()
        .on_text("long")
        .fault_first(Fault::context_overflow().always())
        .reply(Reply::text("never"));
    let server = ModelServer::start(script).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Gemini)])).await;
    let ended = rig.ask(&long("long")).await;
    assert_eq!(
        ended.row.failure.as_ref().unwrap().code.as_str(),
        "too_large"
    );
    assert!(compactions(&ended).is_empty());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn without_a_summary_the_list_of_calls_is_kept() {
    let script = ModelScript::new()
        .on_text("Assistant: ")
        .fault_first(Fault::status(401).always())
        .reply(Reply::text("never"));
    let server = ModelServer::start(eight_steps(script)).await.unwrap();
    let bot = worker(&server, Protocol::Openai).set_in("models", "token_budget", json!(1_400));
    let rig = Rig::new(bot).await;
    let ended = rig.ask("work").await;
    let compaction = compactions(&ended).remove(0);
    assert_eq!(
        (compaction.summary.as_str(), compaction.call.as_ref()),
        ("", None)
    );
    let text = compaction.text();
    assert!(
        text.contains("→ done: step") && text.contains("earlier calls"),
        "{text}"
    );
    assert!(notice(&ended, "not_summarised").is_some());
    let replayed = rig.engine.replay(ended.row.id).await.unwrap();
    assert!(replayed.equal, "{:?}", replayed.divergence);
}

#[tokio::test]
async fn a_request_cut_around_its_compaction_is_shown_the_same() {
    let server = ModelServer::start(eight_steps(ModelScript::new()))
        .await
        .unwrap();
    let bot = worker(&server, Protocol::Anthropic).set_in("models", "token_budget", json!(1_400));
    let rig = Rig::new(bot).await;
    let whole = rig.ask("work").await;
    let asked = |from: usize| -> Vec<Value> {
        let requests = server.requests();
        requests[from..]
            .iter()
            .map(|request| request.body["messages"].clone())
            .collect()
    };
    let all = asked(0);
    let at = whole
        .journal
        .iter()
        .position(|entry| entry.body.compaction().is_some())
        .unwrap();
    for cut in [at, at + 1] {
        let before = server.requests().len();
        let next = rig.cut(&whole.row, &whole.journal, cut).await;
        let ended = super::recovery::recovered(&next, &whole).await;
        let mut compaction = compactions(&ended).remove(0);
        let expected = compactions(&whole).remove(0);
        if let (Some(call), Some(before)) = (&mut compaction.call, &expected.call) {
            call.duration_ms = before.duration_ms;
        }
        assert_eq!(compaction, expected);
        let again = asked(before);
        let answered = whole.journal[..cut]
            .iter()
            .filter(|entry| entry.body.billed().is_some());
        let done = answered.count();
        assert_eq!(all[done..done + again.len()], again, "cut {cut}");
    }
}

/// A fork of a request up to its entry `at`, followed to its end.
async fn forked(rig: &Rig, origin: &Ended, at: usize) -> Ended {
    let forking = Forking {
        origin: origin.row.id,
        at: at as u64,
        changes: ForkChanges::default(),
        metadata: BTreeMap::new(),
        caller: "test".to_owned(),
        idempotency: None,
    };
    rig.end(rig.engine.fork(forking).await.unwrap()).await
}

/// Forks a request before and after its first compaction: the models are shown what they were shown
/// then, and what was copied is not spent again.
async fn fork_around_its_compaction(rig: &Rig, server: &ModelServer, origin: &Ended, asked: usize) {
    let shown = |from: usize| -> Vec<Value> {
        let requests = server.requests();
        let shown = requests[from..].iter();
        shown
            .map(|request| request.body["messages"].clone())
            .collect()
    };
    let then = shown(asked);
    let entries = origin.journal.iter();
    let is_compacted = |entry: &Entry| entry.body.compaction().is_some();
    let before = entries.clone().position(is_compacted).unwrap();
    let replaced = compactions(origin)[0].replaces;
    for at in [before, before + 1] {
        let billed = |entry: &&Entry| entry.body.billed().is_some();
        let copied = entries.clone().take(at).filter(billed).count();
        let earlier = server.requests().len();
        let fork = forked(rig, origin, at).await;
        assert_eq!(fork.output(), origin.output(), "{:?}", fork.row.failure);
        // The script has come to its end, so the fork of a long request is answered earlier.
        let again = shown(earlier);
        assert_eq!(again, then[copied..][..again.len()], "fork at {at}");
        let calls = usize::try_from(fork.row.model_calls).unwrap();
        assert_eq!(calls, again.len());
        assert_eq!(compactions(&fork)[0].replaces, replaced);
        let usage = |journal: &[Entry]| {
            let mut usage = rune_store_runtime::Usage::default();
            let calls = journal.iter().filter_map(|entry| entry.body.billed());
            calls.for_each(|call| usage.add(call.usage));
            usage
        };
        assert_eq!(fork.row.usage, usage(&fork.journal[at..]));
        let Some(EntryBody::Accepted {
            forked_from: Some(from),
            ..
        }) = fork.journal.first().map(|entry| &entry.body)
        else {
            unreachable!("{:?}", fork.journal[0])
        };
        assert_eq!(from.model_calls as usize, copied);
        assert_eq!(from.usage, usage(&origin.journal[..at]));
        let replayed = rig.engine.replay(fork.row.id).await.unwrap();
        assert!(replayed.equal, "{:?}", replayed.divergence);
        rig.assert_usable(&fork.row.session_id).await;
    }
}

#[tokio::test]
async fn a_fork_around_a_compaction_of_earlier_requests_is_shown_the_same() {
    let server = ModelServer::start(summarising(ModelScript::new()))
        .await
        .unwrap();
    let bot = Bot::on(&[(&server, Protocol::Anthropic)])
        .set("memory_profile", json!("extended"))
        .set_in("models", "token_budget", json!(1_600));
    let rig = Rig::new(bot).await;
    let all = turns(&rig, &session(), 0..5).await;
    fork_around_its_compaction(&rig, &server, &all[4], 4).await;
}

#[tokio::test]
async fn a_fork_around_a_compaction_of_its_own_steps_is_shown_the_same() {
    let server = ModelServer::start(eight_steps(ModelScript::new()))
        .await
        .unwrap();
    let bot = worker(&server, Protocol::Anthropic).set_in("models", "token_budget", json!(1_400));
    let rig = Rig::new(bot).await;
    let origin = rig.ask("work").await;
    fork_around_its_compaction(&rig, &server, &origin, 0).await;
}

#[tokio::test]
async fn a_fork_reads_the_outputs_that_were_kept_apart() {
    let script = script()
        .on_text("look")
        .reply(Reply::calls([ToolCall::new("log", json!({}))]))
        .then(Reply::text("seen"));
    let server = ModelServer::start(script).await.unwrap();
    let bot = log_tool(Bot::on(&[(&server, Protocol::Anthropic)]), 2_000);
    let rig = Rig::new(bot).await;
    let ended = rig.ask("look").await;
    let is_result = |entry: &&Entry| matches!(entry.body, EntryBody::ToolResult(_));
    let result = ended.journal.iter().find(is_result).unwrap();
    let EntryBody::ToolResult(outcome) = &result.body else {
        unreachable!()
    };
    let handle = outcome.spilled.clone().unwrap().handle;
    let fork = forked(&rig, &ended, usize::try_from(result.seq).unwrap()).await;
    let kept = rig.engine.spilled_output(&fork.row.session_id, &handle);
    let kept = kept.await.unwrap().unwrap();
    assert!(kept.0.starts_with(b"line 00000 of"));
}

#[tokio::test]
async fn the_prefix_of_a_prompt_stays_the_same_byte_for_byte() {
    for protocol in Protocol::ALL {
        let script = script()
            .on_text("work")
            .reply(Reply::calls([ToolCall::new("a", json!({"z": 1, "b": 2}))]))
            .then(Reply::calls([ToolCall::new("b", json!({}))]))
            .then(Reply::text("done"));
        let server = ModelServer::start(script).await.unwrap();
        let tool = "cat >/dev/null; echo 1\n";
        let bot = Bot::on(&[(&server, protocol)])
            .builtin("rune@system-time")
            .tool("b", &json!({}), tool)
            .tool("a", &json!({}), tool);
        let rig = Rig::new(bot).await;
        let ended = rig.ask("work").await;
        assert_eq!(ended.output(), "done", "{:?}", ended.row.failure);
        rig.assert_usable(&ended.row.session_id).await;
        let bodies: Vec<Value> = server.requests().into_iter().map(|r| r.body).collect();
        assert_eq!(bodies.len(), 4);
        for pair in bodies.windows(2) {
            let (one, next) = (prefix(protocol, &pair[0]), prefix(protocol, &pair[1]));
            let fixed = ["tools", "system", "systemInstruction", "instructions"];
            for name in fixed {
                assert_eq!(one.0.get(name), next.0.get(name), "{protocol:?} {name}");
            }
            assert!(next.1.len() > one.1.len());
            assert_eq!(next.1[..one.1.len()], one.1, "{protocol:?}");
        }
        let tools = bodies[0]["tools"].to_string();
        let at = |name: &str| tools.find(name).unwrap();
        assert!(
            at("\"a\"") < at("\"b\"") && at("\"b\"") < at("rune__system-time"),
            "{tools}"
        );
    }
}

/// What a provider caches of a body: the text of its fixed parts, and of each message.
fn prefix(protocol: Protocol, body: &Value) -> (BTreeMap<String, String>, Vec<String>) {
    let list = match protocol {
        Protocol::Gemini => "contents",
        Protocol::Responses => "input",
        Protocol::Anthropic | Protocol::Openai => "messages",
    };
    let mut body = body.clone();
    // Where a cached prefix ends is no part of it.
    unmark(&mut body[list]);
    let messages = body[list].as_array().unwrap().iter().map(Value::to_string);
    let messages = messages.collect();
    let fields = body.as_object().unwrap().iter();
    let fields = fields.map(|(name, value)| (name.clone(), value.to_string()));
    (fields.collect(), messages)
}

fn unmark(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("cache_control");
            map.values_mut().for_each(unmark);
        }
        Value::Array(items) => items.iter_mut().for_each(unmark),
        _ => {}
    }
}

#[tokio::test]
async fn the_offline_model_summarises_what_the_user_said() {
    let bot = Bot::new().set("memory_profile", json!("extended")).set_in(
        "models",
        "token_budget",
        json!(1_600),
    );
    let rig = Rig::new(bot).await;
    let last = turns(&rig, &session(), 0..5).await.pop().unwrap();
    let compaction = compactions(&last).remove(0);
    assert!(
        compaction.summary.contains("- User: turn0 turn0"),
        "{}",
        compaction.summary
    );
    let first = last.journal.iter().find_map(|entry| match &entry.body {
        EntryBody::ModelReply(reply) => Some(reply.blocks.clone()),
        _ => None,
    });
    let Some(Block::Text { text, .. }) = first.unwrap().pop() else {
        panic!("no text");
    };
    assert!(text.starts_with("Echo: turn4"), "{text}");
}

/// Turns, then a request with tools that may be cancelled and, up to a part of its journal, cut.
#[derive(Debug, Clone)]
struct Course {
    turns: usize,
    steps: Vec<usize>,
    cancel_at: Option<usize>,
    cut: Option<usize>,
    overflows: bool,
    protocol: Protocol,
}

fn any_course() -> impl Strategy<Value = Course> {
    let protocol = prop_oneof![
        Just(Protocol::Anthropic),
        Just(Protocol::Openai),
        Just(Protocol::Responses),
        Just(Protocol::Gemini),
    ];
    (
        0..5_usize,
        proptest::collection::vec(1..4_usize, 0..7),
        proptest::option::of(1..14_usize),
        proptest::option::of(1..100_usize),
        any::<bool>(),
        protocol,
    )
        .prop_map(
            |(turns, steps, cancel_at, cut, overflows, protocol)| Course {
                turns,
                steps,
                cancel_at,
                cut,
                overflows,
                protocol,
            },
        )
}

/// However a conversation was compacted, cut and cancelled, no provider refuses what is left.
async fn no_history_is_refused(course: Course) {
    let mut script = summarising(script());
    let mut n = 0;
    for calls in &course.steps {
        let calls = (0..*calls).map(|_| {
            n += 1;
            ToolCall::new("t", json!({ "n": n }))
        });
        let reply = Reply::calls(calls.collect::<Vec<_>>()).saying("hm");
        script = script.on_text("work").reply(reply).times(1);
    }
    let last = script.on_text("work");
    let last = if course.overflows {
        last.fault_first(Fault::context_overflow())
    } else {
        last
    };
    let server = ModelServer::start(last.reply(Reply::text("done")))
        .await
        .unwrap();
    let bot = worker(&server, course.protocol)
        .set("memory_profile", json!("extended"))
        .set_in("models", "token_budget", json!(1_600));
    let rig = Rig::new(bot).await;
    let session = session();
    turns(&rig, &session, 0..course.turns).await;
    let before = rig.spy.commands().len();
    let invoked = rig.invoke_in(&session, "work").await;
    let id = invoked.request_id;
    if let Some(commands) = course.cancel_at {
        let ended = async {
            while rig.engine.active() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { () = rig.spy.wait_for(before + commands) => {}, () = ended => {} }
        rig.engine.cancel(id, "test").await.unwrap();
    }
    let ended = rig.end(invoked).await;
    let mut rigs = vec![];
    if let Some(percent) = course.cut {
        let len = (ended.journal.len() * percent / 100).max(1);
        if len < ended.journal.len() {
            let next = rig.cut(&ended.row, &ended.journal, len).await;
            super::recovery::recovered(&next, &ended).await;
            rigs.push(next);
        }
    }
    rigs.push(rig);
    for rig in rigs {
        let next = rig.ask_in(&session, "and now?").await;
        assert_eq!(
            next.row.status,
            RequestStatus::Completed,
            "{:?}",
            next.row.failure
        );
    }
    let overflows = usize::from(course.overflows);
    let refused = server
        .requests()
        .into_iter()
        .filter(|request| request.status == Some(400));
    let refused: Vec<Value> = refused.map(|request| request.body).collect();
    assert!(refused.len() <= overflows, "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_compacted_conversation_is_refused(course in any_course()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(no_history_is_refused(course));
    }
}
