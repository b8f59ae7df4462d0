//! Messages that wait for a channel.

use rune_store_runtime::{MessageId, OutboxFilter, PageRequest, QueueMessage, Reject, RequestId};

use super::fixture::Fixture;
use crate::store::TestStore;

fn message(channel: &str, text: &str) -> QueueMessage {
    QueueMessage {
        message_id: MessageId::generate(),
        namespace: "dev".to_owned(),
        agent: "echo".to_owned(),
        channel: channel.to_owned(),
        recipient: "#team".to_owned(),
        text: text.to_owned(),
        request_id: RequestId::generate(),
    }
}

pub async fn messages_wait_in_their_order(test: TestStore) {
    let f = Fixture::new(test);
    let first = message("irc", "one");
    f.write(first.clone()).await;
    f.write(message("mail", "two")).await;
    f.write(message("irc", "three")).await;
    // Queued again it is the same one.
    f.write(first).await;
    let list = async |channel: Option<&str>, page: PageRequest| {
        let filter = OutboxFilter {
            namespace: Some("dev".to_owned()),
            channel: channel.map(str::to_owned),
        };
        let page = f.store.outbox(&filter, &page).await.unwrap();
        let texts = page.items.into_iter().map(|row| row.text);
        (texts.collect::<Vec<_>>(), page.next)
    };
    let (texts, next) = list(None, PageRequest::first(2)).await;
    assert_eq!(texts, ["one", "two"]);
    let rest = PageRequest {
        limit: 2,
        cursor: next,
    };
    assert_eq!(list(None, rest).await, (vec!["three".to_owned()], None));
    let irc = list(Some("irc"), PageRequest::default()).await;
    assert_eq!(irc.0, ["one", "three"]);
    for bad in [
        message("", "x"),
        message("irc", ""),
        message("irc", &"x".repeat(40_000)),
    ] {
        let refused = f.rejected(bad).await;
        assert!(matches!(refused, Reject::Invalid { .. }), "{refused:?}");
    }
}
