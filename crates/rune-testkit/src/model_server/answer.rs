use serde_json::{Value, json};

use super::{
    conversation::Conversation,
    fault::{CutAt, FaultKind},
    issuer::{Issuer, call_key, sign},
    protocol::Protocol,
    reply::{Reply, ReplyFile, Stop, ToolCall, Usage, split},
};

/// Fragments a call's arguments are streamed in.
const ARGUMENT_FRAGMENTS: usize = 3;

/// A reply with everything decided: what a protocol renders.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) text: Vec<String>,
    pub(crate) reasoning: Vec<String>,
    /// Of the reasoning.
    pub(crate) signature: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) usage: Usage,
    pub(crate) stop: Stop,
    /// OpenAI: send the usage chunk.
    pub(crate) include_usage: bool,
    /// Responses: send the reasoning encrypted.
    pub(crate) include_reasoning: bool,
    /// Leave out finish reason and terminal event in a whole answer too.
    pub(crate) unfinished: bool,
    /// Gemini: a picture or a sound as a part.
    pub(crate) file: Option<ReplyFile>,
}

/// A tool call with its id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// None only for Gemini, by the script's wish.
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) input: Value,
    /// The arguments as sent.
    pub(crate) arguments: String,
    /// They are not what the vendor would take back.
    pub(crate) malformed: bool,
    /// Gemini: the part is signed.
    pub(crate) signature: Option<String>,
}

impl Call {
    pub(crate) fn fragments(&self) -> Vec<String> {
        split(&self.arguments, ARGUMENT_FRAGMENTS)
    }
}

impl Answer {
    pub(crate) fn new(
        reply: &Reply,
        fault: Option<&FaultKind>,
        protocol: Protocol,
        conversation: &Conversation,
        issuer: &Issuer,
        gemini_call_ids: bool,
    ) -> Self {
        let empty = fault == Some(&FaultKind::Empty);
        let mut text = if reply.echo {
            super::reply::split(
                &format!("Echo: {}", conversation.last_user_text()),
                reply.chunks.max(1),
            )
        } else {
            reply.text.pieces(reply.chunks)
        };
        let mut reasoning = reply.reasoning.pieces(1);
        let mut calls = reply.tool_calls.clone();
        match fault {
            Some(FaultKind::Cut(CutAt::InUtf8))
                if text.iter().chain(&reasoning).all(|piece| piece.is_ascii()) =>
            {
                text.push(" ✓".to_owned());
            }
            Some(FaultKind::Cut(CutAt::InToolCall)) if calls.is_empty() => {
                calls.push(ToolCall::new(
                    "lookup",
                    json!({"query": "what the script does not say"}),
                ));
            }
            Some(FaultKind::Empty) => {
                text.clear();
                reasoning.clear();
                calls.clear();
            }
            _ => {}
        }
        let signature = sign(&reasoning.concat());
        let issue = |(index, call): (usize, ToolCall)| {
            issue(&call, index, protocol, issuer, gemini_call_ids)
        };
        let calls: Vec<Call> = calls.into_iter().enumerate().map(issue).collect();
        remember(
            &calls,
            (!reasoning.is_empty()).then_some(&signature),
            protocol,
            issuer,
        );
        let by_content = if calls.is_empty() {
            Stop::EndTurn
        } else {
            Stop::ToolUse
        };
        Self {
            id: match protocol {
                Protocol::Anthropic => issuer.id("msg_01", 22),
                Protocol::Openai => issuer.id("chatcmpl-", 29),
                Protocol::Responses => issuer.id("resp_", 48),
                Protocol::Gemini => issuer.id("", 23),
            },
            model: conversation.model.clone(),
            text,
            reasoning,
            signature,
            calls,
            usage: reply.usage,
            stop: if empty {
                Stop::EndTurn
            } else {
                reply.stop.unwrap_or(by_content)
            },
            include_usage: conversation.include_usage,
            include_reasoning: conversation.include_reasoning,
            unfinished: fault == Some(&FaultKind::NoTerminal),
            file: reply.file.clone(),
        }
    }
}

fn issue(
    call: &ToolCall,
    index: usize,
    protocol: Protocol,
    issuer: &Issuer,
    gemini_call_ids: bool,
) -> Call {
    let id = match protocol {
        Protocol::Anthropic => Some(issuer.id("toolu_01", 22)),
        Protocol::Openai | Protocol::Responses => Some(issuer.id("call_", 24)),
        Protocol::Gemini => gemini_call_ids.then(|| issuer.id("", 16)),
    };
    // Of parallel calls Gemini signs the first only.
    let signed = protocol == Protocol::Gemini && index == 0;
    Call {
        id,
        name: call.name.clone(),
        input: call.input.clone(),
        arguments: call
            .raw_arguments
            .clone()
            .unwrap_or_else(|| call.input.to_string()),
        malformed: call.raw_arguments.is_some(),
        signature: signed.then(|| sign(&call_key(&call.name, &call.input))),
    }
}

/// Notes what must come back with the calls: Gemini's signed part, Anthropic's signed thinking,
/// the encrypted reasoning of Responses.
fn remember(calls: &[Call], thinking: Option<&String>, protocol: Protocol, issuer: &Issuer) {
    for call in calls {
        match (protocol, &call.signature, &call.id, thinking) {
            (Protocol::Gemini, Some(signature), id, _) => {
                let key = id
                    .clone()
                    .unwrap_or_else(|| call_key(&call.name, &call.input));
                issuer.signed(key, signature.clone());
            }
            (Protocol::Anthropic | Protocol::Responses, _, Some(id), Some(signature)) => {
                issuer.signed(id.clone(), signature.clone());
            }
            _ => {}
        }
    }
}
