//! What a client that keeps the conversation itself sends: the whole of it, every time.
//!
//! An agent has a memory of its own, its session. So that nothing is said twice, a session that
//! holds the conversation already is given only what follows the last answer in it; a session
//! that is new is given everything, as one text that says who said what.

use rune_http::{ApiError, Caller};
use rune_runtime::{Agent, Engine};
use rune_store_runtime::{PageRequest, RequestFilter, RequestId, RequestRow, SessionId};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// The application that the user uses.
    Client,
    /// The user.
    User,
    /// The agent, or whatever model spoke before it.
    Assistant,
    /// A tool that was called.
    Tool,
}

/// Something that was said: parts as an input of the engine has them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub(crate) speaker: Speaker,
    pub(crate) parts: Vec<Value>,
}

impl Turn {
    pub(crate) fn text(speaker: Speaker, text: &str) -> Self {
        Self {
            speaker,
            parts: vec![text_part(text)],
        }
    }

    /// Its text, without what is no text.
    fn words(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| part["text"].as_str());
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// A part of text.
pub(crate) fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// The part for an image at a URL, which may hold the image itself.
pub(crate) fn image_part(url: &str) -> Result<Value, ApiError> {
    let Some(data) = url.strip_prefix("data:") else {
        return Ok(json!({"type": "image", "url": url}));
    };
    let parsed = data.split_once(',').and_then(|(head, data)| {
        let media_type = head.strip_suffix(";base64")?;
        Some(json!({"type": "image", "media_type": media_type, "data": data}))
    });
    parsed.ok_or_else(|| {
        ApiError::invalid("a `data:` URL of an image is `data:image/png;base64,…`, or such")
    })
}

/// What a client says of its conversation.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// What the client tells the agent with every call.
    pub(crate) instructions: Option<String>,
    /// All that was said, oldest first.
    pub(crate) turns: Vec<Turn>,
}

/// Where the agent remembers the conversation.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    /// In this session, whatever the client sends of it.
    Session(SessionId),
    /// In this session, unless the client's history is not that of it.
    Usual(SessionId),
    /// Nowhere: the client's history is all there is.
    Client,
}

impl Memory {
    /// The session of a name that a client gave, apart from those of other agents, and of those that
    /// other subjects of tokens give.
    pub(crate) fn session_of(
        caller: &Caller,
        namespace: &str,
        agent: &str,
        name: &str,
    ) -> SessionId {
        let place = format!("{namespace}.{agent}:");
        let hashed = |text: &str| -> String {
            let digest = Sha256::digest(text.as_bytes());
            digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
        };
        let plain = match caller.subject() {
            // Without control characters, so that nobody's name begins in another one's subject.
            Some(subject) => place.clone() + &hashed(&format!("{subject}\n{name}")),
            None => place.clone() + name,
        };
        let id = plain.parse().or_else(|_| hashed(&plain).parse());
        id.unwrap_or_else(|_| SessionId::generate())
    }
}

impl Conversation {
    /// The input of the request, and the session that it belongs to; a new one where that is none.
    ///
    /// `agent` is asked what it takes, where one runs here.
    pub(crate) async fn settle(
        self,
        engine: &Engine,
        memory: Memory,
        agent: Option<&Agent>,
    ) -> Result<(Value, Option<SessionId>), ApiError> {
        let (session, holds) = match memory {
            Memory::Client => (None, false),
            Memory::Session(id) => {
                let holds = has_messages(engine, &id).await?;
                (Some(id), holds)
            }
            Memory::Usual(id) => match (has_messages(engine, &id).await?, self.last_answer()) {
                (false, _) => (Some(id), false),
                (true, None) => (Some(id), true),
                (true, Some(said)) => match is_last_answer(engine, &id, &said).await? {
                    true => (Some(id), true),
                    false => (None, false),
                },
            },
        };
        Ok((self.input(holds, agent)?, session))
    }

    /// What the assistant said last.
    fn last_answer(&self) -> Option<String> {
        let mut turns = self.turns.iter().rev();
        let last = turns.find(|turn| turn.speaker == Speaker::Assistant);
        last.map(Turn::words)
    }

    /// The input; `holds` says that the session has everything up to the last answer.
    fn input(mut self, holds: bool, agent: Option<&Agent>) -> Result<Value, ApiError> {
        let answered = self
            .turns
            .iter()
            .rposition(|turn| turn.speaker == Speaker::Assistant)
            .map_or(0, |last| last + 1);
        let mut new = self.turns.split_off(answered);
        let asked = |turn: &Turn| turn.speaker == Speaker::User;
        if !new.iter().any(asked) {
            return Err(ApiError::invalid(
                "there is nothing to answer: no message of the user follows the last one of the assistant",
            ));
        }
        let mut earlier = if holds { Vec::new() } else { self.turns };
        // What the application says stands before the conversation, wherever it was said.
        let told: Vec<String> = self
            .instructions
            .into_iter()
            .chain(take(&mut earlier, Speaker::Client))
            .chain(take(&mut new, Speaker::Client))
            .collect();
        let question: Vec<Value> = new.into_iter().flat_map(|turn| turn.parts).collect();
        let alone = joined(question.clone());
        if told.is_empty() && earlier.is_empty() {
            return Ok(agent.map_or(alone.clone(), |agent| agent.fit_input(alone)));
        }
        let whole = joined(transcript(&told, earlier, question));
        match agent {
            // Where it takes no text there is no place for a conversation.
            Some(agent) if agent.check_input(&whole).is_err() => Ok(agent.fit_input(alone)),
            _ => Ok(whole),
        }
    }
}

/// Takes out what a speaker said.
fn take(turns: &mut Vec<Turn>, speaker: Speaker) -> Vec<String> {
    let said = turns.extract_if(.., |turn| turn.speaker == speaker);
    said.map(|turn| turn.words()).collect()
}

/// A conversation as one message of the user.
fn transcript(told: &[String], earlier: Vec<Turn>, question: Vec<Value>) -> Vec<Value> {
    let mut parts = Vec::new();
    if !told.is_empty() {
        parts.push(text_part(&format!(
            "The application that you are used through says:\n{}",
            told.join("\n\n")
        )));
    }
    if !earlier.is_empty() {
        parts.push(text_part("The conversation so far:"));
    }
    for turn in earlier {
        let speaker = match turn.speaker {
            Speaker::Assistant => "You",
            Speaker::Tool => "Tool",
            Speaker::User | Speaker::Client => "User",
        };
        let mut named = false;
        for part in turn.parts {
            match part["text"].as_str() {
                Some(text) if !named => {
                    named = true;
                    parts.push(text_part(&format!("{speaker}: {text}")));
                }
                _ => parts.push(part),
            }
        }
    }
    parts.push(text_part("Now the user says:"));
    parts.extend(question);
    parts
}

/// Parts that are all text as one text.
fn joined(parts: Vec<Value>) -> Value {
    let texts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
    match texts {
        Some(texts) => Value::String(texts.join("\n\n")),
        None => Value::Array(parts),
    }
}

async fn has_messages(engine: &Engine, id: &SessionId) -> Result<bool, ApiError> {
    let row = engine.store().session(id).await?;
    Ok(row.is_some_and(|row| row.messages > 0))
}

/// What a person is asked, in a place that has only text.
pub(crate) fn approval_notice(
    tool: &str,
    reason: &str,
    approval: &str,
    request: RequestId,
) -> String {
    let end = notice_end(request);
    format!("[Waiting for approval of `{tool}`: {reason}. Approval {approval}{end}")
}

fn notice_end(request: RequestId) -> String {
    format!(" of {request}.]")
}

/// Whether this is how the session ends.
async fn is_last_answer(engine: &Engine, id: &SessionId, said: &str) -> Result<bool, ApiError> {
    let filter = RequestFilter {
        session_id: Some(id.clone()),
        ..RequestFilter::default()
    };
    let page = PageRequest::first(1);
    let newest = engine.store().requests(&filter, &page).await?;
    let newest = newest.items.first();
    Ok(newest.is_some_and(|row| answers(row, said)))
}

/// Whether this is what a client has of the answer of a request: the answer, behind what it was
/// streamed before; or the notice in its place that a person is asked.
fn answers(row: &RequestRow, said: &str) -> bool {
    let Some(output) = &row.output else {
        return false;
    };
    let (answer, said) = (output_text(output), said.trim_end());
    let answer = answer.trim_end();
    let is_answer = said
        .strip_suffix(answer)
        .is_some_and(|before| before.is_empty() || before.ends_with("\n\n"));
    let is_notice = said.ends_with(&notice_end(row.id));
    (!answer.is_empty() && is_answer) || is_notice
}

/// An answer as text: what is no text is JSON.
pub(crate) fn output_text(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(turns: &[(Speaker, &str)]) -> Conversation {
        let turns = turns.iter().map(|(who, text)| Turn::text(*who, text));
        Conversation {
            instructions: None,
            turns: turns.collect(),
        }
    }

    const CHAT: [(Speaker, &str); 4] = [
        (Speaker::Client, "Be kind."),
        (Speaker::User, "My name is Ada."),
        (Speaker::Assistant, "Hello Ada."),
        (Speaker::User, "Who am I?"),
    ];

    #[test]
    fn a_question_alone_is_the_input() {
        let input = said(&CHAT[1..2]).input(false, None).unwrap();
        assert_eq!(input, "My name is Ada.");
    }

    #[test]
    fn a_session_that_holds_the_conversation_is_told_only_what_is_new() {
        assert_eq!(said(&CHAT).input(true, None).unwrap(), "Who am I?");
    }

    #[test]
    fn a_new_session_is_told_everything_in_order() {
        let input = said(&CHAT).input(false, None).unwrap();
        let expected = "The application that you are used through says:\nBe kind.\n\n\
                        The conversation so far:\n\nUser: My name is Ada.\n\nYou: Hello Ada.\n\n\
                        Now the user says:\n\nWho am I?";
        assert_eq!(input, expected);
    }

    #[test]
    fn images_keep_their_place() {
        let mut conversation = said(&CHAT);
        let image = image_part("data:image/png;base64,AAAA").unwrap();
        conversation.turns[1].parts.push(image.clone());
        let input = conversation.input(false, None).unwrap();
        let parts = input.as_array().unwrap();
        assert_eq!(parts[3], image);
        assert_eq!(parts[2]["text"], "User: My name is Ada.");
    }

    #[test]
    fn an_answer_is_no_question() {
        assert!(said(&CHAT[..3]).input(false, None).is_err());
        assert!(said(&[]).input(false, None).is_err());
        assert!(said(&CHAT[..1]).input(false, None).is_err());
    }

    #[test]
    fn sessions_of_names_are_apart() {
        let of = |caller: &str, agent: &str, name: &str| {
            let id = Memory::session_of(&Caller::new(caller), "dev", agent, name);
            id.as_str().to_owned()
        };
        let one = of("anonymous", "hello", "ada");
        assert_eq!(one, "dev.hello:ada");
        assert_eq!(of("api-key", "hello", "ada"), one);
        assert_ne!(of("anonymous", "other", "ada"), one);
        let odd = of("anonymous", "hello", "Ada Lovelace <ada@example.org>");
        assert_eq!(odd.len(), 32);
        let (ada, bob) = (of("jwt:ada", "hello", "x"), of("jwt:bob", "hello", "x"));
        assert!(ada.starts_with("dev.hello:"), "{ada}");
        assert_ne!(ada, bob);
        assert_eq!(of("jwt:ada", "hello", "x"), ada);
    }

    #[test]
    fn a_data_url_is_the_image_and_another_one_is_fetched() {
        let data = image_part("data:image/png;base64,AAAA").unwrap();
        let expected = json!({"type": "image", "media_type": "image/png", "data": "AAAA"});
        assert_eq!(data, expected);
        let url = image_part("https://example.org/a.png").unwrap();
        assert_eq!(url["url"], "https://example.org/a.png");
        assert!(image_part("data:image/png,plain").is_err());
    }
}
