use rune_tools::ToolErrorKind;
use serde_json::json;

use crate::support::Sandbox;

#[tokio::test]
async fn tells_the_time_of_the_store_in_any_zone() {
    let sandbox = Sandbox::new();
    let utc = sandbox.call("system-time", json!({})).await.unwrap();
    assert_eq!(
        utc,
        json!({"time": "2026-11-22T21:12:27+00:00", "unix_seconds": 1_795_381_947,
               "weekday": "Sunday", "timezone": "UTC", "utc_offset": "+00:00"})
    );
    let tokyo = sandbox
        .call("system-time", json!({"timezone": "Asia/Tokyo"}))
        .await
        .unwrap();
    assert_eq!(tokyo["time"], "2026-11-23T06:12:27+09:00");
    assert_eq!(tokyo["weekday"], "Monday");
    let message = sandbox
        .refused(
            "system-time",
            json!({"timezone": "Mars/Base"}),
            ToolErrorKind::InvalidInput,
        )
        .await;
    assert!(message.contains("Mars/Base"), "{message}");
}
