//! The `dcbuild` binary: reads the command line, composes the roles, prints what they say.
//!
//! Every role is a subcommand; nothing is decided here. Start with [`run`].

mod args;
mod build;
mod cache;
mod columns;
mod doctor;
mod door;
mod drain;
mod explain;
mod foreign;
mod json;
mod local;
mod pick;
mod prune;
mod registries;
mod remote;
mod roles;
mod secure;
mod silence;
mod state;
mod stores;
mod typed;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use clap_complete::generate;
use dcbuild_process::{Config, Env, signals, start_tracing};

use crate::args::{Arguments, Command};
use crate::state::{Detail, Format, State};
use crate::typed::Typed;

fn main() -> ExitCode {
    // The sandbox's helper is this same binary: it must come first, in one thread, before anything else is set up.
    if std::env::args_os().nth(1).is_some_and(|word| word == dcbuild_sandbox::CELL_ARGUMENT) {
        return dcbuild_sandbox::cell_main();
    }
    let typed = Typed::read(std::env::args_os().collect());
    if let Some(said) = foreign::said_of(&typed) {
        complain(&said);
        return ExitCode::from(build::USAGE);
    }
    let arguments = Arguments::parse_from(&typed.words);
    match run(arguments, typed.env(Env::capture())) {
        Ok(code) => code,
        Err(error) => {
            complain(&dcbuild_process::report(error.as_ref()));
            ExitCode::from(1)
        }
    }
}

fn run(arguments: Arguments, env: Env) -> anyhow::Result<ExitCode> {
    let config =
        Config::load(arguments.config.as_deref(), &env).context("the configuration is wrong")?;
    let level = match (&arguments.log, &arguments.command) {
        (Some(level), _) => level,
        (None, Command::Coordinator(_) | Command::Worker(_)) => &config.log.level,
        (None, command) if command.is_debugged() => "debug",
        // It says itself what goes wrong, and no library before it.
        (None, Command::Doctor(_)) => "off",
        // What a person reads is the progress: only trouble may come between its lines.
        (None, _) => "warn",
    };
    start_tracing(level, config.log.format).context("the log could not be started")?;
    let state = State::at(&config.build.state_dir)?;
    match arguments.command {
        Command::Completion(flags) => {
            let mut script = Vec::new();
            generate(flags.shell, &mut Arguments::command(), "dcbuild", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
        Command::ConfigReference => say(&dcbuild_process::config::reference()),
        Command::Version(flags) => say(&version(flags.format)),
        Command::Du(flags) => {
            let detail = if flags.verbose { Detail::Full } else { Detail::Sums };
            say(&state.usage(flags.format, detail)?)
        }
        Command::Prune(flags) => say(&state.prune(&flags.request(config.build.keep_storage))?),
        command => {
            dcbuild_sandbox::raise_open_files();
            // Only the roles that talk to somebody need a runtime, and TLS.
            drop(rustls::crypto::ring::default_provider().install_default());
            let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
            let code = runtime.block_on(talk(command, config, env, state));
            // All that matters has been waited for; a thread that still reads a file holds up nobody.
            be_quiet_of_the_end();
            runtime.shutdown_timeout(LINGER);
            code
        }
    }
}

/// A thread that waits for something in the runtime panics when that is taken down: what it waits for is wanted by nobody.
fn be_quiet_of_the_end() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_of_the_end = panic
            .payload_as_str()
            .is_some_and(|text| text.contains("context was found, but it is being shutdown"));
        if !is_of_the_end {
            usual(panic);
        }
    }));
}

/// How long threads may go on that nobody waits for.
const LINGER: std::time::Duration = std::time::Duration::from_millis(300);

async fn talk(
    command: Command,
    config: Config,
    env: Env,
    state: State,
) -> anyhow::Result<ExitCode> {
    let stop = signals().context("could not watch for signals")?;
    let app = build::App { config, env, state, stop };
    match command {
        Command::Build(flags) => Box::pin(build::build(&app, *flags)).await,
        Command::Plan(flags) => Box::pin(build::plan(&app, *flags)).await,
        Command::Doctor(flags) => until_stopped(&app, doctor::doctor(&app, flags)).await,
        Command::Submit(flags) => remote::submit(&app, *flags).await,
        Command::Attach(flags) => remote::attach(&app, flags).await,
        Command::Logs(flags) => remote::logs(&app, flags).await,
        Command::Ps(flags) => until_stopped(&app, remote::ps(&app, flags)).await,
        Command::Workers(flags) => until_stopped(&app, remote::workers(&app, flags)).await,
        Command::Cancel(flags) => until_stopped(&app, remote::cancel(&app, flags)).await,
        Command::Cache(flags) => until_stopped(&app, cache::cache(&app, flags)).await,
        Command::Explain(flags) => until_stopped(&app, explain::explain(&app, flags)).await,
        Command::Images(flags) => until_stopped(&app, remote::images(&app, flags)).await,
        Command::Rmi(flags) => until_stopped(&app, remote::rmi(&app, flags)).await,
        Command::Coordinator(flags) => {
            roles::coordinator(flags, &app).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Worker(flags) => {
            roles::worker(flags, &app).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Du(_)
        | Command::Prune(_)
        | Command::Completion(_)
        | Command::ConfigReference
        | Command::Version(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Does what one asks and waits for; the first signal ends it wherever it is, for it may be killed at any time as well.
async fn until_stopped(
    app: &build::App,
    asked: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let ended = app.stop.run_until_cancelled(Box::pin(asked)).await;
    ended.unwrap_or_else(|| Ok(ExitCode::from(build::INTERRUPTED)))
}

fn version(format: Format) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Text => format!("dcbuild {version}\n"),
        Format::Json => {
            let platform = dcbuild_model::Platform::host().to_string();
            format!(
                "{}\n",
                serde_json::json!({ "version": version, "platform": platform, "dockerfile": "1.20" })
            )
        }
    }
}

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
fn say(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("could not print")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn complain(text: &str) {
    // There is nowhere to say that standard error cannot be written to.
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}
