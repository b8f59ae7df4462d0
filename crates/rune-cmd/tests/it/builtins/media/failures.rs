use rune_testkit::{CutAt, Fault, Garbage, ModelScript, Protocol, Reply, Stop};
use serde_json::json;

use super::{KEY, Studio, mp3, png, wav};

#[tokio::test]
async fn what_was_not_done_is_tried_again_and_what_may_have_been_is_not() {
    let image = || Reply::file("image/png", &png());
    let script = ModelScript::new()
        .on_text("<limited>")
        .fault_first(Fault::status(429).retry_after(0.0))
        .reply(image())
        .on_text("<broken>")
        .fault_first(Fault::status(500).retry_after(0.0))
        .reply(image())
        .on_text("<down>")
        .fault_first(Fault::status(500).retry_after(0.0).always())
        .on_text("<gateway>")
        .fault_first(Fault::status(504).retry_after(0.0).always())
        .on_text("<garbage>")
        .fault_first(Fault::garbage(Garbage::DataLine).always())
        .reply(image())
        .on_text("<cut>")
        .fault_first(Fault::cut(CutAt::AfterText).always())
        .reply(image())
        .on_text("<closed>")
        .fault_first(Fault::close().always())
        .reply(image())
        .on_text("<money>")
        .fault_first(Fault::status(429).error_code("insufficient_quota").always());
    let studio = Studio::start(Protocol::Openai, script, "").await;
    let asked = |prompt: &str| {
        let requests = studio.server.requests();
        let of_it = requests
            .iter()
            .filter(|request| request.body["prompt"] == prompt);
        of_it.count()
    };
    for prompt in ["<limited>", "<broken>"] {
        let drawn = studio
            .call("image-generate", json!({ "prompt": prompt }))
            .await;
        assert_eq!(drawn["media_type"], "image/png", "{prompt}");
        assert_eq!(asked(prompt), 2, "{prompt}");
    }
    for (prompt, times, is_unknown) in [
        ("<garbage>", 1, true),
        ("<cut>", 1, true),
        ("<closed>", 1, true),
        ("<gateway>", 1, true),
        ("<money>", 1, false),
        // Last, as it opens the provider's circuit.
        ("<down>", 3, false),
    ] {
        let input = json!({"prompt": prompt, "path": "never.png"});
        let refused = studio.refused("image-generate", input).await;
        assert_eq!(asked(prompt), times, "{prompt}: {refused}");
        assert_eq!(
            refused.contains("whether it was done, and is charged, is not known"),
            is_unknown,
            "{prompt}: {refused}"
        );
        assert!(!studio.file("never.png").exists(), "{prompt}");
    }
}

#[tokio::test]
async fn what_somebody_in_between_says_is_no_outcome() {
    let named = json!({"error": {"code": 502, "message": "bad gateway"}});
    let script = ModelScript::new()
        .on_text("<cloud>")
        .fault_first(Fault::status(520).retry_after(0.0).always())
        .on_text("<router>")
        .fault_first(Fault::status(200).body(named).always());
    let studio = Studio::start(Protocol::Openai, script, "").await;
    for (n, prompt) in ["<cloud>", "<router>"].into_iter().enumerate() {
        let input = json!({ "prompt": prompt });
        let refused = studio.refused("image-generate", input).await;
        assert!(
            refused.contains("whether it was done, and is charged, is not known"),
            "{prompt}: {refused}"
        );
        assert_eq!(studio.server.requests().len(), n + 1, "{prompt}");
    }
}

#[tokio::test]
async fn a_question_about_a_picture_is_paid_for_once() {
    let script = ModelScript::new()
        .on_text("<gateway>")
        .fault_first(Fault::status(504).retry_after(0.0).always())
        .on_text("<begun>")
        .fault_first(Fault::error_event().always())
        .reply(Reply::text("A cat"))
        .on_text("<limited>")
        .fault_first(Fault::status(429).retry_after(0.0))
        .reply(Reply::text("A cat"));
    let mut studio = Studio::start(Protocol::Openai, script, "").await;
    let script = ModelScript::new().reply(Reply::text("A dog"));
    let second = rune_testkit::ModelServer::start(script).await.unwrap();
    let endpoint = |server: &rune_testkit::ModelServer| json!({"protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": KEY});
    let models = json!({
        "providers": ["offline", "first", "second"],
        "endpoints": {"first": endpoint(&studio.server), "second": endpoint(&second)},
        "model_mapping": {
            "default": {"offline": "offline"},
            "vision": {"first": "a", "second": "b"},
        },
    });
    studio.write("critic", &models, "");
    studio.agent = "critic".to_owned();
    studio.put("cat.png", &png());
    let ask = |question: &str| json!({"source": "cat.png", "question": question});
    for question in ["<gateway>", "<begun>"] {
        let before = studio.server.requests().len();
        let refused = studio.refused("image-analyze", ask(question)).await;
        assert!(
            refused.contains("whether it was done, and is charged, is not known"),
            "{question}: {refused}"
        );
        assert_eq!(studio.server.requests().len(), before + 1, "{question}");
    }
    let seen = studio.call("image-analyze", ask("<limited>")).await;
    assert_eq!(
        (&seen["text"], &seen["provider"]),
        (&json!("A cat"), &json!("first"))
    );
    assert_eq!(second.requests().len(), 0);
}

#[tokio::test]
async fn what_was_cut_says_so() {
    let script = || {
        let cut = Reply::text("A c").stop(Stop::MaxTokens);
        ModelScript::new().on_text("?").reply(cut)
    };
    let openai = Studio::start(Protocol::Openai, script(), "").await;
    let gemini = Studio::start(Protocol::Gemini, script(), "").await;
    for studio in [openai, gemini] {
        studio.put("cat.png", &png());
        studio.put("call.wav", &wav());
        for (tool, source) in [("image-analyze", "cat.png"), ("media-describe", "call.wav")] {
            let input = json!({"source": source, "question": "What?"});
            let said = studio.call(tool, input).await;
            assert_eq!(
                (&said["text"], &said["complete"]),
                (&json!("A c"), &json!(false)),
                "{tool}"
            );
        }
    }
}

#[tokio::test]
async fn a_picture_that_cannot_be_kept_is_there_all_the_same() {
    let script = ModelScript::new().reply(Reply::file("image/png", &png()));
    let studio = Studio::start(Protocol::Openai, script, "").await;
    let objects = studio.rig.served.0.data_dir().join("objects");
    std::fs::rename(&objects, objects.with_extension("away")).unwrap();
    std::fs::write(&objects, "no directory").unwrap();
    let input = json!({"prompt": "A cat", "path": "cat.png"});
    let drawn = studio.call("image-generate", input).await;
    assert_eq!(studio.read("cat.png"), png());
    assert!(drawn.get("handle").is_none(), "{drawn}");
    let why = drawn["not_shown"].as_str().unwrap();
    assert!(why.contains("has no handle and is not shown"), "{why}");
}

#[tokio::test]
async fn the_next_provider_is_asked_where_one_has_not_done_it() {
    let broken = ModelScript::new()
        .on_text("A cat")
        .fault_first(Fault::status(404).always())
        .on_text("A dog")
        .fault_first(Fault::cut(CutAt::AfterText).always())
        .reply(Reply::file("image/png", &png()));
    let studio = Studio::start(Protocol::Openai, broken, "").await;
    let script = ModelScript::new().reply(Reply::file("image/png", &png()));
    let second = rune_testkit::ModelServer::start(script).await.unwrap();
    let endpoint = |server: &rune_testkit::ModelServer| json!({"protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": KEY});
    let models = json!({
        "providers": ["offline", "first", "second"],
        "endpoints": {"first": endpoint(&studio.server), "second": endpoint(&second)},
        "model_mapping": {
            "default": {"offline": "offline"},
            "image": {"first": "a", "second": "b"},
            "speech": {"anthropic": "c"},
        },
    });
    studio.write("painter", &models, "");
    let cat = json!({"prompt": "A cat"});
    let drawn = studio.rig.call("painter", "image-generate", cat).await;
    assert_eq!(
        (&drawn["provider"], &drawn["model"]),
        (&json!("second"), &json!("b"))
    );
    // It may have been paid for: nobody else is paid, too.
    let dog = json!({"prompt": "A dog"});
    let refused = studio.rig.try_call("painter", "image-generate", dog).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(second.requests().len(), 1);
    // Nobody has named a model for it.
    let refused = studio
        .rig
        .try_call("painter", "text-to-speech", json!({"text": "Hi"}));
    let refused = refused.await.unwrap_err();
    assert!(
        refused.contains("`first` has no model for it (`speech` in `models.model_mapping`)"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_cannot_be_sent_or_written_costs_nothing() {
    let studio = Studio::start(Protocol::Openai, ModelScript::new(), "").await;
    studio.put("page.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    studio.put("cat.png", &png());
    studio.put("call.wav", &wav());
    studio.put("song.mp3", &mp3());
    studio.put("dir/file.txt", b"x");
    let mut large = png();
    large.resize(5 * 1024 * 1024 + 1, 0);
    studio.put("large.png", &large);
    let mut huge = wav();
    huge.resize(25 * 1024 * 1024 + 1, 0);
    studio.put("huge.wav", &huge);
    let look = |source: &str| json!({"source": source, "question": "What?"});
    for (tool, input, says) in [
        ("image-analyze", look("page.png"), "its bytes are not PNG"),
        (
            "image-analyze",
            look("call.wav"),
            "is audio/wav; the tool takes image",
        ),
        ("image-analyze", look("large.png"), "5242880 are allowed"),
        ("image-analyze", look("none.png"), "does not exist"),
        (
            "image-analyze",
            look("../../secrets"),
            "outside the workspace",
        ),
        (
            "image-analyze",
            look("img-0123456789abcdef"),
            "there is no output",
        ),
        (
            "image-analyze",
            look("file:///etc/passwd"),
            "does not exist",
        ),
        (
            "speech-to-text",
            json!({"source": "cat.png"}),
            "the tool takes audio or video",
        ),
        (
            "speech-to-text",
            json!({"source": "huge.wav"}),
            "26214400 are allowed",
        ),
        (
            "image-generate",
            json!({"prompt": "x", "path": "../x.png"}),
            "outside the workspace",
        ),
        (
            "image-generate",
            json!({"prompt": "x", "path": "dir"}),
            "is a directory",
        ),
        (
            "text-to-speech",
            json!({"text": "x", "path": "/etc/x.mp3"}),
            "outside the workspace",
        ),
        (
            "media-transcribe",
            json!({"source": "call.wav", "path": "../x.txt"}),
            "outside the workspace",
        ),
        (
            "text-to-speech",
            json!({"text": "x".repeat(4097)}),
            "(at `/text`)",
        ),
    ] {
        let refused = studio.refused(tool, input.clone()).await;
        assert!(refused.contains(says), "{tool} {says}: {refused}");
    }
    assert_eq!(studio.server.requests().len(), 0);
}

#[tokio::test]
async fn what_a_provider_answers_is_looked_at_before_it_is_written() {
    let script = ModelScript::new()
        .on_text("<page>")
        .reply(Reply::file("image/png", b"<html>"))
        .on_text("<sound>")
        .reply(Reply::file("image/png", &mp3()))
        .on_text("<nothing>")
        .reply(Reply::text(""));
    let studio = Studio::start(Protocol::Openai, script, "").await;
    for (prompt, says) in [
        ("<page>", "that are no picture or sound"),
        (
            "<sound>",
            "answered audio/mpeg where a picture was asked for",
        ),
        ("<nothing>", "the answer has no picture"),
    ] {
        let input = json!({"prompt": prompt, "path": "never.png"});
        let refused = studio.refused("image-generate", input).await;
        assert!(refused.contains(says), "{prompt}: {refused}");
    }
    assert!(!studio.file("never.png").exists());
}

#[tokio::test]
async fn the_key_is_nowhere_but_on_the_wire() {
    let echo = |status| {
        let body = json!({"error": {"message": format!("wrong key {KEY}"), "type": "x"}});
        Fault::status(status).body(body).always()
    };
    let script = ModelScript::new()
        .on_text("A cat")
        .fault_first(echo(401))
        .on_text("A dog")
        .fault_first(echo(200))
        .on_text("Hi")
        .reply(Reply::file("audio/mpeg", &mp3()));
    let studio = Studio::start(Protocol::Openai, script, "").await;
    let mut seen = Vec::new();
    for prompt in ["A cat", "A dog"] {
        let input = json!({ "prompt": prompt });
        let refused = studio.refused("image-generate", input).await;
        assert!(refused.contains("wrong key [key]"), "{prompt}: {refused}");
        seen.push(refused);
    }
    studio.call("text-to-speech", json!({"text": "Hi"})).await;
    assert!(studio.sent().headers["authorization"].contains(KEY));
    let listed = studio.rig.api.get("/v1/requests").send().await.unwrap();
    let listed: serde_json::Value = listed.json().await.unwrap();
    seen.extend([studio.rig.served.0.log(), listed.to_string()]);
    for request in listed["items"].as_array().unwrap() {
        let id = request["id"].as_str().unwrap();
        let events = studio.rig.api.get(&format!("/v1/requests/{id}/events"));
        seen.push(events.send().await.unwrap().text().await.unwrap());
    }
    assert!(seen.len() > 6);
    for text in seen {
        assert!(!text.contains(KEY), "{text}");
    }
}

#[tokio::test]
async fn policy_is_asked_about_the_model_and_its_word_is_in_the_audit_trail() {
    let script = ModelScript::new().reply(Reply::file("image/png", &png()));
    let mut studio = Studio::start(Protocol::Openai, script, "").await;
    let dir = studio.rig.served.0.home().join("tame");
    std::fs::create_dir_all(&dir).unwrap();
    let cedar = "@reason(\"no pictures\")\n\
                 forbid(principal, action == Action::\"model\", resource == Model::\"studio/scripted\");\n";
    std::fs::write(dir.join("policy.cedar"), cedar).unwrap();
    studio.deploy("tame", Protocol::Openai, "policy: {file: policy.cedar}\n");
    studio.agent = "tame".to_owned();
    let refused = studio
        .refused("image-generate", json!({"prompt": "A cat"}))
        .await;
    assert!(
        refused.contains("policy denies the model `studio/scripted`"),
        "{refused}"
    );
    assert_eq!(studio.server.requests().len(), 0);
    let requests = studio
        .rig
        .served
        .rune(&["requests", "ls", "--agent", "tame", "-o", "json"]);
    let requests = requests.json();
    let id = requests[0]["id"].as_str().unwrap();
    let events = studio.rig.served.rune(&["requests", "events", id]).ok();
    assert!(events.contains("studio/scripted"), "{events}");
    let replayed = studio.rig.served.rune(&["requests", "replay", id]).ok();
    assert!(replayed.contains("replays the same"), "{replayed}");
}
