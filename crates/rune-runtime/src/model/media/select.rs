//! Which models of an agent can do something.

use rune_tools::MediaType;

use super::{MediaClient, MediaRequest, MediaTask, Wired};
use crate::model::providers::client;
use crate::model::wire::{Protocol, WireClient};
use crate::model::{
    CLAUDE_CODE_PROVIDER, COPILOT_PROVIDER, GuardedClient, ModelIds, OFFLINE_PROVIDER, Price,
    ProviderPool, ProvidersConfig, ProvidersError,
};

/// Bytes of the largest file that Gemini takes in a request: in base64 they are nearly the 20 MB of one.
const MAX_GEMINI_BYTES: usize = 14 << 20;

/// A model that can do what is asked.
#[derive(Clone)]
pub(crate) struct MediaCandidate {
    /// The provider, as named in the Runefile.
    pub(crate) provider: String,
    /// Its id of the model.
    pub(crate) model: String,
    /// What the call costs, where that can be told by its tokens.
    pub(crate) price: Option<Price>,
    /// Whether its provider says how many tokens the call has used.
    pub(crate) is_counted: bool,
    pub(super) client: MediaClient,
}

impl MediaCandidate {
    pub(crate) fn is_offline(&self) -> bool {
        matches!(self.client, MediaClient::Offline)
    }
}

impl MediaTask {
    /// Its alias in `models.model_mapping`.
    pub(crate) const fn alias(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Image => "image",
            Self::Speech => "speech",
            Self::Transcription | Self::TimedTranscription => "transcription",
        }
    }

    /// What a model does that is asked.
    const fn verb(self) -> &'static str {
        match self {
            Self::Vision => "look at pictures",
            Self::Audio => "listen to recordings",
            Self::Video => "watch films",
            Self::Image => "make pictures",
            Self::Speech => "speak",
            Self::Transcription => "transcribe recordings",
            Self::TimedTranscription => "transcribe recordings with times",
        }
    }

    /// The providers that can, and a mapping that makes one of them do it.
    const fn help(self) -> (&'static str, &'static str) {
        match self {
            Self::Vision => (
                "anthropic, openai, gemini and copilot",
                "vision: {openai: MODEL}",
            ),
            Self::Audio => ("openai and gemini", "audio: {gemini: gemini-3.8-flash}"),
            Self::Video => ("gemini", "video: {gemini: gemini-3.8-flash}"),
            Self::Image => ("openai and gemini", "image: {openai: gpt-image-2.5-flare}"),
            Self::Speech => ("openai and gemini", "speech: {openai: gpt-4o-mini-tts}"),
            Self::Transcription => (
                "openai and gemini",
                "transcription: {openai: gpt-transcribe}",
            ),
            Self::TimedTranscription => ("openai", "transcription: {openai: whisper-1}"),
        }
    }

    /// The model of a vendor where nobody has named one.
    const fn default_model(self, protocol: Protocol) -> Option<&'static str> {
        match (protocol, self) {
            (Protocol::OpenAi | Protocol::Responses, task) => match task {
                Self::Audio => Some("gpt-audio-1.5"),
                Self::Image => Some("gpt-image-2.5-flare"),
                Self::Speech => Some("gpt-4o-mini-tts"),
                Self::Transcription => Some("gpt-transcribe"),
                Self::TimedTranscription => Some("whisper-1"),
                Self::Vision | Self::Video => None,
            },
            (Protocol::Gemini, task) => match task {
                Self::Audio | Self::Video | Self::Transcription => Some("gemini-3.8-flash"),
                Self::Image => Some("gemini-3.1-flash-image"),
                Self::Speech => Some("gemini-3.8-flash-tts"),
                Self::Vision | Self::TimedTranscription => None,
            },
            (Protocol::Anthropic, _) => None,
        }
    }
}

/// The models that can do it, in order of preference.
///
/// # Errors
/// Why there is none, and what to do, for the model and whoever runs the agent.
pub(crate) fn candidates(
    config: &ProvidersConfig,
    pool: &ProviderPool,
    request: &MediaRequest,
) -> Result<Vec<MediaCandidate>, String> {
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for name in config.order_for_media() {
        match candidate(config, pool, request, name) {
            Ok(candidate) => found.push(candidate),
            Err(reason) => reasons.push(format!("`{name}` {reason}")),
        }
    }
    if found.is_empty() {
        let task = request.task();
        let (who, how) = task.help();
        return Err(format!(
            "no model of this agent can {}: {}. {who} can, and endpoints of their protocols: list one in `models.providers` \
             with its key, and name its model in `models.model_mapping`, such as `{how}` (docs/tools.md, Media)",
            task.verb(),
            reasons.join("; "),
        ));
    }
    Ok(found)
}

fn candidate(
    config: &ProvidersConfig,
    pool: &ProviderPool,
    request: &MediaRequest,
    name: &str,
) -> Result<MediaCandidate, String> {
    let task = request.task();
    let wire = config.wire(name);
    let way = way(name, wire.as_ref().map(|(protocol, _)| *protocol), task)?;
    check(way, request)?;
    let protocol = wire.as_ref().map(|(protocol, _)| *protocol);
    // The models of somebody else's server are not the vendor's.
    let vendor = protocol.filter(|_| !config.endpoints.contains_key(name));
    let model = match config.model_mapping.get(task.alias()) {
        Some(ModelIds::Same(id)) => Some(id.clone()),
        Some(ModelIds::ByProvider(ids)) => ids.get(name).cloned(),
        None if task == MediaTask::Vision => config.model_for(name),
        None => vendor
            .and_then(|vendor| task.default_model(vendor))
            .map(str::to_owned),
    };
    let guard = || pool.guard(name, config.base_url(name));
    let wired = |protocol| {
        let (_, client) = config.wire(name)?;
        let wire = WireClient::new(protocol, client, pool.http().clone());
        let guard = guard();
        Some(Wired { wire, guard })
    };
    let no_model = || {
        format!(
            "has no model for it (`{}` in `models.model_mapping`)",
            task.alias()
        )
    };
    if way == Way::Offline {
        let mapped = config.model_mapping.get(task.alias());
        if matches!(mapped, Some(ModelIds::ByProvider(ids)) if !ids.contains_key(name)) {
            return Err(no_model());
        }
        return Ok(MediaCandidate {
            provider: name.to_owned(),
            model: OFFLINE_PROVIDER.to_owned(),
            price: Some(Price::FREE),
            is_counted: true,
            client: MediaClient::Offline,
        });
    }
    let model = model.ok_or_else(no_model)?;
    let made = match way {
        Way::Chat => {
            let client = client(config, name, &model, pool);
            let client = client.map_err(|error: ProvidersError| error.to_string())?;
            Some(MediaClient::Chat(
                GuardedClient::new(client, guard()).paid_once(),
            ))
        }
        Way::OpenAi => wired(Protocol::OpenAi).map(MediaClient::OpenAi),
        Way::Gemini => wired(Protocol::Gemini).map(MediaClient::Gemini),
        Way::Offline => None,
    };
    // Recordings are answered without a count of tokens.
    let is_counted = !(way == Way::OpenAi && task == MediaTask::Speech);
    Ok(MediaCandidate {
        provider: name.to_owned(),
        price: pool.prices().price(name, &model).filter(|_| is_counted),
        is_counted,
        model,
        client: made.ok_or_else(no_model)?,
    })
}

/// How a model is asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Chat,
    OpenAi,
    Gemini,
    Offline,
}

fn way(name: &str, protocol: Option<Protocol>, task: MediaTask) -> Result<Way, String> {
    use MediaTask::{Image, TimedTranscription, Video, Vision};
    let cannot = || Err("cannot do it".to_owned());
    match (protocol, task) {
        (Some(_), Vision) => Ok(Way::Chat),
        (Some(Protocol::OpenAi | Protocol::Responses), Video) => cannot(),
        (Some(Protocol::OpenAi | Protocol::Responses), _) => Ok(Way::OpenAi),
        (Some(Protocol::Gemini), TimedTranscription) => {
            Err("does not tell the times of what is said".to_owned())
        }
        (Some(Protocol::Gemini), _) => Ok(Way::Gemini),
        (Some(Protocol::Anthropic), Image) => Err("makes no pictures".to_owned()),
        (Some(Protocol::Anthropic), _) => Err("takes pictures and no sound".to_owned()),
        (None, _) if name == OFFLINE_PROVIDER => Ok(Way::Offline),
        (None, Vision) if name == COPILOT_PROVIDER => Ok(Way::Chat),
        (None, _) if name == CLAUDE_CODE_PROVIDER => {
            Err("is a program that is shown no files".to_owned())
        }
        (None, _) => cannot(),
    }
}

/// Whether this file or this format is among those that are taken there.
fn check(way: Way, request: &MediaRequest) -> Result<(), String> {
    let file = match request {
        MediaRequest::Describe(question) => Some(&question.file),
        MediaRequest::Transcribe(wanted) => Some(&wanted.file),
        MediaRequest::Draw(_) | MediaRequest::Speak(_) => None,
    };
    let wav_only = |who: &str| match request {
        MediaRequest::Speak(wanted) if wanted.format.is_some_and(|it| it != MediaType::Wav) => {
            Err(format!("{who} WAV and no other format"))
        }
        _ => Ok(()),
    };
    match (way, file) {
        (Way::OpenAi, Some(file)) => {
            let is_question = matches!(request, MediaRequest::Describe(_));
            let taken = match file.media_type {
                MediaType::Wav | MediaType::Mp3 => true,
                MediaType::Aac | MediaType::Quicktime => false,
                _ => !is_question,
            };
            taken
                .then_some(())
                .ok_or_else(|| format!("does not take {} for it", file.media_type.mime()))
        }
        (Way::Gemini, Some(file)) if file.bytes.len() > MAX_GEMINI_BYTES => Err(format!(
            "takes files of up to {MAX_GEMINI_BYTES} bytes, and this one has {}",
            file.bytes.len()
        )),
        (Way::Gemini, _) => wav_only("makes"),
        (Way::Offline, _) => wav_only("makes"),
        (Way::Chat | Way::OpenAi, _) => Ok(()),
    }
}
