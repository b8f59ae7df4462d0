//! `rune token`

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Span, SpanRelativeTo};
use rune_http::{TokenScope, sign_user_token};
use rune_remote_store::InternalTokens;
use rune_runtime::SecretKeySource;
use rune_store_runtime::{Clock as _, SystemClock};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::context::Context;
use crate::daemon::node::internal_key;
use crate::failure::{Exit, Failure, Outcome};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a token is valid where nothing is said.
const USER_VALIDITY: Duration = DAY.saturating_mul(30);
const GATEWAY_VALIDITY: Duration = DAY.saturating_mul(365);
/// The longest that one is.
const MAX_VALIDITY: Duration = DAY.saturating_mul(3650);

/// Tokens that open the APIs.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, and print it
    ///
    /// A token for a user is signed with RUNE_JWT_SECRET, which the daemon has, too. One for a gateway that runs apart from its
    /// control plane is signed with the key of the control plane: RUNE_SECRET_KEY, or internal.key in its data directory.
    /// Nothing is stored, so a token is valid until it expires or its key changes.
    #[command(
        after_help = "Scopes:\n  read    looking: GET on both APIs\n  invoke  the gateway: ask agents, follow and answer them\n  admin   everything\n\n\
Examples:\n  export RUNE_JWT_SECRET=$(openssl rand -hex 32)\n  rune token create --subject ada --scope invoke --expires 7d\n  \
rune token create --subject ci --scope read --scope invoke -o json\n  \
rune token create --for gateway --subject west --expires 90d"
    )]
    Create(CreateArgs),
}

/// What `rune token create` takes.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Who shows it
    #[arg(long = "for", value_enum, default_value = "user")]
    holder: Holder,
    /// Its name: callers are recorded as `jwt:NAME`
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// What it is for; may be given more than once [default: admin]
    #[arg(long, value_enum, value_name = "SCOPE")]
    scope: Vec<Scope>,
    /// How long it is valid, such as `12h` or `90d` [default: 30d, of a gateway 365d]
    #[arg(long, value_name = "TIME", value_parser = validity)]
    expires: Option<Duration>,
}

/// Who shows a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Holder {
    /// A caller of the APIs.
    User,
    /// A gateway that runs apart from its control plane, as its RUNE_INTERNAL_TOKEN.
    Gateway,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Looking: GET on both APIs.
    Read,
    /// The gateway.
    Invoke,
    /// Everything.
    Admin,
}

impl From<Scope> for TokenScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Invoke => Self::Invoke,
            Scope::Admin => Self::Admin,
        }
    }
}

pub(crate) async fn run(context: &Context, command: TokenCommand) -> Outcome {
    let TokenCommand::Create(args) = command;
    let valid_for = args.expires.unwrap_or(match args.holder {
        Holder::User => USER_VALIDITY,
        Holder::Gateway => GATEWAY_VALIDITY,
    });
    let expires_at = SystemClock.now().plus(valid_for);
    let mut scopes: Vec<TokenScope> = args.scope.iter().copied().map(Into::into).collect();
    if scopes.is_empty() && args.holder == Holder::User {
        scopes.push(TokenScope::Admin);
    }
    let token = match args.holder {
        Holder::User => user_token(context, &args.subject, &scopes, valid_for)?,
        Holder::Gateway => gateway_token(context, &args, valid_for).await?,
    };
    let scopes: Vec<&str> = scopes.into_iter().map(TokenScope::as_str).collect();
    let data = json!({
        "token": token.expose_secret(),
        "for": match args.holder { Holder::User => "user", Holder::Gateway => "gateway" },
        "subject": args.subject,
        "scopes": scopes,
        "expires_at": expires_at.to_string(),
    });
    context
        .output
        .data(&data, |_| token.expose_secret().to_owned())?;
    context.output.note(&match args.holder {
        Holder::User => format!(
            "for {} ({}) until {expires_at}, as `authorization: Bearer TOKEN`",
            args.subject,
            scopes.join(", ")
        ),
        Holder::Gateway => format!(
            "for the gateway {} until {expires_at}, as its RUNE_INTERNAL_TOKEN",
            args.subject
        ),
    });
    Ok(Exit::Ok)
}

fn user_token(
    context: &Context,
    subject: &str,
    scopes: &[TokenScope],
    valid_for: Duration,
) -> Outcome<SecretString> {
    let gateway = &context.config.gateway;
    let secret = gateway.jwt_secret.as_ref();
    let secret = secret.filter(|secret| !secret.expose_secret().is_empty());
    let Some(secret) = secret else {
        return Err(Failure::usage("there is no secret to sign a token with")
            .help("set RUNE_JWT_SECRET as the daemon has it; `openssl rand -hex 32` makes one"));
    };
    let audience = gateway.jwt_audience.as_deref();
    sign_user_token(secret, audience, subject, scopes, valid_for)
        .map_err(|why| Failure::usage(format!("there can be no such token: {why}")))
}

async fn gateway_token(
    context: &Context,
    args: &CreateArgs,
    valid_for: Duration,
) -> Outcome<SecretString> {
    if !args.scope.is_empty() {
        let message = "a gateway's token has no `--scope`: it opens what gateways ask of their control plane, and nothing else";
        return Err(Failure::usage(message));
    }
    let source = internal_key(&context.config);
    if let SecretKeySource::File(path) = &source
        && !path.exists()
    {
        let message = format!(
            "there is no key to sign with: {} is not there",
            path.display()
        );
        return Err(Failure::new(Exit::Failed, message).help(
            "run this where the data directory of the control plane is, once that has been started \
             (`rune daemon start --role control-plane`), or set RUNE_SECRET_KEY as it has it",
        ));
    }
    let now = SystemClock.now();
    let issued = InternalTokens::for_gateway(&source, &args.subject, now, valid_for).await;
    let issued = issued.map_err(|error| {
        Failure::because("cannot sign a token", &error).help(
            "the key is RUNE_SECRET_KEY, or internal.key in the control plane's data directory",
        )
    })?;
    Ok(issued.token)
}

/// `7d` or `12h`.
fn validity(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time from 1s to 3650d, such as `12h` or `90d`".to_owned();
    let span: Span = text.parse().map_err(|_| expected())?;
    let length: Result<SignedDuration, _> = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let length = length.map_err(|_| expected())?;
    let length = Duration::try_from(length).map_err(|_| expected())?;
    match (DAY / 86_400..=MAX_VALIDITY).contains(&length) {
        true => Ok(length),
        false => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validity_is_a_length_within_its_bounds() {
        assert_eq!(validity("12h"), Ok(DAY / 2));
        assert_eq!(validity("90d"), Ok(DAY * 90));
        assert_eq!(validity("1s"), Ok(Duration::from_secs(1)));
        for wrong in ["", "0s", "500ms", "-1d", "3651d", "1y", "soon", "7"] {
            assert!(validity(wrong).is_err(), "{wrong}");
        }
    }
}
