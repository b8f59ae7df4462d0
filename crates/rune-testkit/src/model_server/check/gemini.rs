use serde_json::Value;

use super::{
    Incoming, Rejection, duplicate, is_base64, list, text, unknown_field, valid_tool_name,
};
use crate::model_server::{
    conversation::{Conversation, Step},
    issuer::{call_key, sign},
};

/// What the vendor documents for histories that come from another model.
const SKIP_VALIDATION: [&str; 2] = [
    "skip_thought_signature_validator",
    "context_engineering_is_the_way_to_go",
];
const KNOWN: [&str; 14] = [
    "contents",
    "systemInstruction",
    "system_instruction",
    "tools",
    "toolConfig",
    "tool_config",
    "safetySettings",
    "safety_settings",
    "cachedContent",
    "cached_content",
    "generationConfig",
    "generation_config",
    "serviceTier",
    "labels",
];

pub(super) fn check(incoming: &Incoming<'_>) -> Result<Conversation, Rejection> {
    let body = incoming.body;
    key(incoming)?;
    if let Some(field) = unknown_field(body, &KNOWN) {
        let message =
            format!("Invalid JSON payload received. Unknown name \"{field}\": Cannot find field.");
        return Err(Rejection::bad(message));
    }
    tools(body)?;
    let contents = list(body, "contents");
    if contents.is_empty() {
        let message = "* GenerateContentRequest.contents: contents is not specified\n";
        return Err(Rejection::bad(message));
    }
    for (index, content) in contents.iter().enumerate() {
        parts(index, content)?;
    }
    pairs(contents)?;
    signatures(incoming, contents)?;
    let route = incoming.route.gemini.as_ref();
    Ok(Conversation {
        model: route.map(|route| route.model.clone()).unwrap_or_default(),
        stream: route.is_some_and(|route| route.stream),
        include_usage: true,
        include_reasoning: false,
        steps: contents.iter().map(step).collect(),
    })
}

fn key(incoming: &Incoming<'_>) -> Result<(), Rejection> {
    let in_query = incoming
        .query
        .split('&')
        .find_map(|pair| pair.strip_prefix("key="))
        .filter(|key| !key.is_empty());
    match incoming
        .header("x-goog-api-key")
        .or_else(|| incoming.bearer())
        .or(in_query)
    {
        None => {
            let message = "Request is missing required authentication credential. Expected an API key or an OAuth 2 \
                           access token.";
            Err(Rejection::new(401, message))
        }
        // This vendor calls a wrong key an invalid argument.
        Some(key) if !incoming.accepts(key) => Err(Rejection::bad(
            "API key not valid. Please pass a valid API key.",
        )),
        Some(_) => Ok(()),
    }
}

fn tools(body: &Value) -> Result<(), Rejection> {
    let declarations: Vec<&Value> = list(body, "tools")
        .iter()
        .flat_map(|tool| list(tool, "functionDeclarations"))
        .collect();
    for (index, declaration) in declarations.iter().enumerate() {
        let name = text(declaration, "name");
        let starts_well =
            name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !valid_tool_name(name) || !starts_well {
            return Err(Rejection::bad(format!(
                "* GenerateContentRequest.tools[0].function_declarations[{index}].name: Invalid function name. Must \
                 start with a letter or an underscore. Must be alphameric (a-z, A-Z, 0-9), underscores (_) or dashes \
                 (-), with a maximum length of 64.\n"
            )));
        }
    }
    match duplicate(
        declarations
            .iter()
            .map(|declaration| text(declaration, "name")),
    ) {
        Some(name) => Err(Rejection::bad(format!(
            "Duplicate function declaration found: {name}"
        ))),
        None => Ok(()),
    }
}

fn parts(index: usize, content: &Value) -> Result<(), Rejection> {
    let role = text(content, "role");
    if !matches!(role, "user" | "model" | "function") {
        return Err(Rejection::bad("Please use a valid role: user, model."));
    }
    let parts = list(content, "parts");
    if parts.is_empty() {
        return Err(Rejection::bad(format!(
            "* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty.\n"
        )));
    }
    for (at, part) in parts.iter().enumerate() {
        let place = format!("* GenerateContentRequest.contents[{index}].parts[{at}]");
        let data = [
            "text",
            "inlineData",
            "fileData",
            "functionCall",
            "functionResponse",
            "executableCode",
            "codeExecutionResult",
        ];
        if !data
            .iter()
            .any(|kind| part.get(kind).is_some_and(|value| !value.is_null()))
        {
            let message = format!(
                "{place}.data: required oneof field 'data' must have one initialized field\n"
            );
            return Err(Rejection::bad(message));
        }
        if let Some(data) = part.get("inlineData")
            && !(["image/", "audio/", "video/"]
                .iter()
                .any(|kind| text(data, "mimeType").starts_with(kind))
                && is_base64(text(data, "data")))
        {
            let message = format!("{place}.inline_data: Unable to process input image.");
            return Err(Rejection::bad(message));
        }
        let call_outside_model = part.get("functionCall").is_some() && role != "model";
        let response_in_model = part.get("functionResponse").is_some() && role == "model";
        if call_outside_model || response_in_model {
            return Err(Rejection::bad(format!(
                "{place}: role '{role}' cannot hold this part\n"
            )));
        }
        for kind in ["functionCall", "functionResponse"] {
            if part
                .get(kind)
                .is_some_and(|call| !valid_tool_name(text(call, "name")))
            {
                return Err(Rejection::bad(format!(
                    "{place}.{kind}.name: Name cannot be empty.\n"
                )));
            }
        }
        let response = part.pointer("/functionResponse/response");
        if part.get("functionResponse").is_some() && !response.is_some_and(Value::is_object) {
            return Err(Rejection::bad(format!(
                "{place}.function_response.response: must be an object\n"
            )));
        }
    }
    Ok(())
}

fn inner<'a>(content: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(content, "parts")
        .iter()
        .filter_map(|part| part.get(kind))
        .collect()
}

/// A content with calls is followed by one with exactly their responses.
fn pairs(contents: &[Value]) -> Result<(), Rejection> {
    let calls = contents
        .iter()
        .flat_map(|content| inner(content, "functionCall"));
    if let Some(id) = duplicate(
        calls
            .map(|call| text(call, "id"))
            .filter(|id| !id.is_empty()),
    ) {
        return Err(Rejection::bad(format!("Duplicate function call id: {id}")));
    }
    let mut open: Vec<&Value> = Vec::new();
    for content in contents {
        let responses = inner(content, "functionResponse");
        if open.is_empty() && !responses.is_empty() {
            let message = "Please ensure that function response turn comes immediately after a function call turn.";
            return Err(Rejection::bad(message));
        }
        if open.len() != responses.len() {
            return Err(uneven());
        }
        for response in responses {
            let same = |call: &&Value| {
                text(call, "name") == text(response, "name")
                    && text(call, "id") == text(response, "id")
            };
            let Some(position) = open.iter().position(same) else {
                let message = format!(
                    "Function response '{}' with id '{}' does not belong to a function call of the turn before.",
                    text(response, "name"),
                    text(response, "id")
                );
                return Err(Rejection::bad(message));
            };
            open.remove(position);
        }
        open = inner(content, "functionCall");
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(uneven())
    }
}

fn uneven() -> Rejection {
    Rejection::bad(
        "Please ensure that the number of function response parts is equal to the number of function call parts of \
         the function call turn.",
    )
}

/// A signature comes back unchanged, in its own part; that of a call of the current turn must come back.
fn signatures(incoming: &Incoming<'_>, contents: &[Value]) -> Result<(), Rejection> {
    let current = contents
        .iter()
        .rposition(|content| matches!(step(content), Step::User(_)))
        .unwrap_or(0);
    for (index, content) in contents
        .iter()
        .enumerate()
        .filter(|(_, content)| text(content, "role") == "model")
    {
        for (at, part) in list(content, "parts").iter().enumerate() {
            let call = part.get("functionCall");
            let (key, signed_over) = call.map_or_else(
                || (String::new(), text(part, "text").to_owned()),
                |call| {
                    let over =
                        call_key(text(call, "name"), call.get("args").unwrap_or(&Value::Null));
                    (
                        if text(call, "id").is_empty() {
                            over.clone()
                        } else {
                            text(call, "id").to_owned()
                        },
                        over,
                    )
                },
            );
            let given = text(part, "thoughtSignature");
            if !given.is_empty() && !SKIP_VALIDATION.contains(&given) && given != sign(&signed_over)
            {
                let message =
                    format!("contents[{index}].parts[{at}]: Corrupted thought signature.");
                return Err(Rejection::bad(message));
            }
            if given.is_empty() && index > current && incoming.issuer.signature_of(&key).is_some() {
                return Err(Rejection::bad(format!(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools \
                     to work correctly, and missing thought_signature may lead to degraded model performance. \
                     Function call `{}`, position {at}.",
                    call.map_or("", |call| text(call, "name"))
                )));
            }
        }
    }
    Ok(())
}

fn step(content: &Value) -> Step {
    if text(content, "role") == "model" {
        return Step::Assistant;
    }
    match inner(content, "functionResponse").len() {
        0 => {
            let texts = list(content, "parts")
                .iter()
                .filter_map(|part| part.get("text")?.as_str());
            Step::User(texts.collect::<Vec<_>>().join("\n"))
        }
        responses => Step::Results(responses),
    }
}
