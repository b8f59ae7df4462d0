//! A conversation moves from one provider to another.

use rune_runtime::model::Protocol;
use rune_store_runtime::Message;

use super::suite::replies::{answer, serve, tool_loop, tool_script};
use super::{Shown, ask, calls, client};

#[tokio::test]
async fn a_history_of_one_protocol_is_accepted_by_the_others() {
    for from in Protocol::ALL {
        let server = serve(tool_script()).await;
        let mut request = ask("weather?");
        tool_loop(&*client(&server, from), &mut request).await;
        request.messages.push(Message::user("thanks"));
        for to in Protocol::ALL {
            let (shown, _) = Shown::output(&*client(&server, to), &request).await;
            assert_eq!(shown.text, "Echo: thanks", "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn the_next_provider_takes_over_within_a_tool_loop() {
    for from in Protocol::ALL {
        for to in Protocol::ALL {
            // Two vendors: what one has signed the other does not know.
            let (one, other) = (serve(tool_script()).await, serve(tool_script()).await);
            let mut request = ask("weather?");
            let (_, first) = Shown::output(&*client(&one, from), &request).await;
            answer(&mut request, first);
            let (_, second) = Shown::output(&*client(&other, to), &request).await;
            assert_eq!(calls(&second.blocks).len(), 1, "{from} to {to}");
        }
    }
}
