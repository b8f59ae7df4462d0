//! The verbs, one file each.

pub(crate) mod agent;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod chaos;
pub(crate) mod chat;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod compose;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod debug;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod doctor;
mod duration;
mod embedded;
pub(crate) mod eval;
pub(crate) mod event;
pub(crate) mod init;
pub(crate) mod key;
mod known_secrets;
pub(crate) mod mcp;
pub(crate) mod policy;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod replica;
pub(crate) mod requests;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod sessions;
pub(crate) mod sign;
mod since;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod task;
pub(crate) mod test;
pub(crate) mod token;
pub(crate) mod tool;
pub(crate) mod usage;
pub(crate) mod validate;
pub(crate) mod verify;
pub(crate) mod workflow;

use rune_env::Overrides;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::failure::Outcome;

/// Runs what was typed.
pub(crate) fn run(mut cli: Cli) -> Outcome {
    let overrides = match &cli.command {
        Command::Daemon(daemon) => daemon.overrides(),
        Command::Dev(dev) => dev.overrides(),
        _ => Overrides::new(),
    };
    // A broken config.toml must not keep anybody from the schema that repairs it.
    match cli.command {
        Command::Schema(args) => return schema::run(&args),
        Command::Completions(args) => return completions::run(&args),
        // It has its configuration from the daemon.
        Command::Replica(_) => return replica::run(),
        _ => {}
    }
    // Removed when the command ends.
    let _data_dir = match &cli.command {
        Command::Dev(_) => dev::own_data_dir(&mut cli.global)?,
        _ => None,
    };
    let context = Context::new(cli.global, overrides)?;
    match cli.command {
        Command::Init(args) => init::run(&context, &args),
        Command::Validate(args) => validate::run(&context, &args),
        Command::Run(args) => run::run(&context, args),
        Command::Deploy(args) => deploy::run(&context, &args),
        Command::Rollout(command) => context.block_on(rollout::run(&context, command)),
        Command::Test(args) => test::run(&context, &args),
        Command::Eval(args) => eval::run(&context, &args),
        Command::Build(args) => build::run(&context, &args),
        Command::Push(args) => context.block_on(push::run(&context, &args)),
        Command::Pull(args) => context.block_on(pull::run(&context, &args)),
        Command::Sign(args) => context.block_on(sign::run(&context, &args)),
        Command::Verify(args) => context.block_on(verify::run(&context, &args)),
        Command::Key(command) => key::run(&context, command),
        Command::Chat(args) => context.block_on(chat::run(&context, &args)),
        Command::Agent(command) => context.block_on(agent::run(&context, command)),
        Command::Status(_) => context.block_on(status::run(&context)),
        Command::Sessions(args) => context.block_on(sessions::run(&context, &args)),
        Command::Requests(command) => context.block_on(requests::run(&context, command)),
        Command::Usage(args) => context.block_on(usage::run(&context, &args)),
        Command::Policy(command) => context.block_on(policy::run(&context, command)),
        Command::Tool(command) => tool::run(&context, command),
        Command::Mcp(command) => context.block_on(mcp::run(&context, command)),
        Command::Schedule(command) => context.block_on(schedule::run(&context, command)),
        Command::Secret(command) => secret::run(&context, command),
        Command::Event(command) => context.block_on(event::run(&context, command)),
        Command::Task(command) => context.block_on(task::run(&context, command)),
        Command::Token(command) => context.block_on(token::run(&context, command)),
        Command::Workflow(command) => workflow::run(&context, command),
        Command::Compose(args) => context.block_on(compose::run(&context, args)),
        Command::Stop(args) => context.block_on(stop::run(&context, &args)),
        Command::Rm(args) => context.block_on(rm::run(&context, &args)),
        Command::Daemon(command) => daemon::run(&context, command),
        Command::Cluster(command) => context.block_on(cluster::run(&context, command)),
        Command::Dev(args) => dev::run(&context, &args),
        Command::Debug(args) => debug::run(&context, &args),
        Command::Config(command) => config::run(&context, &command),
        Command::Bench(args) => bench::run(&context, args),
        Command::Chaos(args) => context.block_on(Box::pin(chaos::run(&context, args))),
        Command::Backup(args) => context.block_on(backup::run(&context, args)),
        Command::Restore(args) => context.block_on(restore::run(&context, &args)),
        Command::Doctor(_) => context.block_on(doctor::run(&context)),
        Command::Replica(_) => replica::run(),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
