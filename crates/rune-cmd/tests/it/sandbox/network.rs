//! What a tool may connect to.

use super::*;

#[tokio::test]
async fn nothing_is_connected_to_that_is_not_granted() {
    let rig = Rig::start(&[("try", "py", TRY, "")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let steps = json!([
        ["tcp", "127.0.0.1", port],
        ["tcp", "localhost", port],
        ["udp", "127.0.0.1", udp.local_addr().unwrap().port()],
        // netlink, packet, vsock, ALG.
        ["family", 16, 3],
        ["family", 17, 3],
        ["family", 40, 1],
        ["family", 38, 5],
        ["fetch", format!("http://127.0.0.1:{port}/")],
    ]);
    assert_refused(&steps, &rig.tries("try", steps.clone()).await);
    assert!(listener.accept().is_err());
    assert!(udp.recv(&mut [0; 16]).is_err());
}

#[tokio::test]
async fn a_granted_host_is_reached_through_the_filter_and_others_are_not() {
    let (port, other) = (echo_server(), echo_server());
    let granted = format!("capabilities: [\"network:localhost:{port}\"]\n");
    let open = "capabilities: [network]\n";
    let rig = Rig::with(
        TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "localhost"),
        &[
            ("try", "py", TRY, granted.as_str()),
            ("open", "py", TRY, open),
            (
                "fails",
                "py",
                &format!("{TRY}\nsys.exit(3)"),
                granted.as_str(),
            ),
            (
                "hidden",
                "py",
                TRY,
                &format!("capabilities: [\"network:127.0.0.1:{port}\"]\n"),
            ),
        ],
    )
    .await;
    let steps = json!([
        ["fetch", format!("http://localhost:{port}/by/url")],
        ["tunnel", "localhost", port]
    ]);
    let answers = rig.tries("try", steps).await;
    assert_eq!(answers, [json!({"ok": "/by/url"}), json!({"ok": "/"})]);
    let refused = json!([
        ["fetch", format!("http://localhost:{other}/")],
        ["tunnel", "localhost", other],
        ["tunnel", "example.org", 443],
        ["fetch", format!("http://127.0.0.1:{port}/")],
        // Past the filter.
        ["tcp", "127.0.0.1", port],
        ["udp", "127.0.0.1", port],
        ["family", 16, 3],
    ]);
    assert_refused(&refused, &rig.tries("try", refused.clone()).await);
    // The journal names what was refused where the tool failed.
    let steps = json!([["fetch", format!("http://localhost:{other}/")]]);
    let error = rig.error("fails", json!({"steps": steps})).await;
    assert!(
        error.contains("sandbox:")
            && error.contains(&format!("`localhost:{other}` is not granted")),
        "{error}"
    );
    // Granted by the tool, and not opened by the operator.
    let steps = json!([["fetch", format!("http://127.0.0.1:{port}/")]]);
    let answers = rig.tries("hidden", steps.clone()).await;
    assert_refused(&steps, &answers);
    // Every host: nothing is in between.
    let steps = json!([
        ["tcp", "127.0.0.1", port],
        ["fetch", format!("http://127.0.0.1:{port}/direct")]
    ]);
    assert_done(&steps, &rig.tries("open", steps.clone()).await);
}
