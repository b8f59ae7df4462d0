use serde_json::json;

use super::{TOOLS, png, wav};
use crate::builtins::Rig;
use crate::readme::{Tour, run_page};

#[tokio::test]
async fn without_a_key_everything_can_be_tried_and_says_that_there_is_no_model() {
    let rig = Rig::start().await;
    rig.deploy("artist", &TOOLS, "");
    let workspace = rig.served.0.data_dir().join("workspaces/dev/artist");
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::write(workspace.join("cat.png"), png()).unwrap();
    std::fs::write(workspace.join("call.wav"), wav()).unwrap();
    let notice = "offline model: no language model is configured";
    let draw = |path: &str| json!({"prompt": "A cat", "path": path});
    for (tool, input) in [
        ("image-generate", draw("one.png")),
        ("image-generate", draw("two.png")),
        (
            "text-to-speech",
            json!({"text": "Good morning", "path": "said.wav"}),
        ),
        ("speech-to-text", json!({"source": "said.wav"})),
        ("media-describe", json!({"source": "cat.png"})),
        (
            "image-analyze",
            json!({"source": "one.png", "question": "What?"}),
        ),
        (
            "media-transcribe",
            json!({"source": "call.wav", "format": "vtt", "path": "call.vtt"}),
        ),
    ] {
        let answer = rig.call("artist", tool, input).await;
        assert_eq!(answer["notice"], notice, "{tool}");
        assert_eq!(answer["provider"], "offline", "{tool}");
    }
    let read = |name: &str| std::fs::read(workspace.join(name)).unwrap();
    assert_eq!(read("one.png"), read("two.png"));
    assert!(read("one.png").starts_with(b"\x89PNG"));
    assert!(read("said.wav").starts_with(b"RIFF"));
    let subtitles = String::from_utf8(read("call.vtt")).unwrap();
    assert!(
        subtitles.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\n[offline model"),
        "{subtitles}"
    );
    let described = rig
        .call("artist", "media-describe", json!({"source": "cat.png"}))
        .await;
    let text = described["text"].as_str().unwrap();
    assert!(
        text.contains("image/png, 20 x 10 pixels, 29 bytes"),
        "{text}"
    );
}

#[test]
fn the_illustrator_works_as_its_readme_says() {
    let tour = Tour::new();
    let printed = run_page(&tour, "examples/illustrator/README.md").concat();
    for part in [
        "The drawing is in pictures/drawing.png",
        "drawing.png\n",
        "drawing.wav\n",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}
