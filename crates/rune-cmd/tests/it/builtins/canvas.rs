use serde_json::json;

use super::Rig;

#[tokio::test]
async fn a_canvas_is_shown_confined_and_only_under_its_id() {
    let rig = Rig::start().await;
    rig.deploy("painter", &["canvas-present"], "");
    let page = "<script>alert(1)</script><h1 style=\"color: red\">Hi</h1>";
    let drawing = "<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
    for (format, kind, content) in [
        ("html", "text/html; charset=utf-8", page),
        ("svg", "image/svg+xml", drawing),
        ("markdown", "text/plain; charset=utf-8", "# Hi"),
    ] {
        let input = json!({"title": "A page", "format": format, "content": content});
        let made = rig.call("painter", "canvas-present", input).await;
        let path = made["path"].as_str().unwrap();
        let shown = rig.api.get(path).send().await.unwrap();
        assert_eq!(shown.status(), 200);
        let header = |name: &str| shown.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), kind);
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("sandbox; default-src 'none'"),
            "{policy}"
        );
        assert!(shown.headers().get("set-cookie").is_none());
        assert_eq!(shown.text().await.unwrap(), content);
    }
    let unknown = rig.api.get("/canvas/0123456789abcdef0123456789abcdef");
    assert_eq!(unknown.send().await.unwrap().status(), 404);
}
