//! Builds on this machine: what is asked, and what comes of it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use dcbuild_client::{
    BuildFlags, BuildRequest, Caches, Console, Ended, FlagError, Gathered, Handover, Method, Place,
    PrepareError, Prepared, Purpose, Reach, Wanted, describe, docker_logins, gather, prepare,
    variables,
};
use dcbuild_model::BuildId;
use dcbuild_plan::{Plan, show};
use dcbuild_process::{Clock as _, Config, Env, Hint, SystemClock, new_bits, report_with_hint};
use dcbuild_progress::Mode;
use dcbuild_proto::document::Outcome;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::args::{LocalBuild, PlanFlags, PlanFormat};
use crate::local::Local;
use crate::registries::registries;
use crate::state::{ELSEWHERE, State};
use crate::stores::StoreFlags;
use crate::{complain, say};

/// What every command that talks to somebody has at hand.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) state: State,
    /// Cancelled by the first Ctrl-C.
    pub(crate) stop: CancellationToken,
}

/// `dcbuild build`.
pub(crate) async fn build(app: &App, flags: LocalBuild) -> anyhow::Result<ExitCode> {
    let LocalBuild { store, cache_upload, scope, detach, build: flags } = flags;
    if detach {
        let instead =
            "`dcbuild submit --detach` leaves a build to a cluster; `build` stays to its end";
        let (flag, value) = ("detach", "true".to_owned());
        return Ok(refused(&FlagError::Unsupported { flag, value, instead }, USAGE));
    }
    let handover = Handover { purpose: Purpose::Build, in_place: true, ..Handover::default() };
    let request = match request(app, &flags, handover).await? {
        Ok(request) => request,
        Err(code) => return Ok(code),
    };
    let (mode, kept) = (request.mode, request.kept.clone());
    let local = Local::start(app, &store, cache_upload, scope).await?;
    let ended = local.client.build(request, &mut Console::stderr(&app.env), &app.stop).await;
    local.stop(&app.stop, mode).await;
    drop(kept);
    let keep = app.config.build.keep_storage;
    if has_grown(&ended)
        && let Err(error) = app.state.hold_ceiling(keep)
    {
        tracing::warn!(error = %format!("{error:#}"), "the state folder was not pruned");
    }
    finish(ended)
}

/// Whether a build may have added to the state folder; to look costs a walk through all of it.
fn has_grown(ended: &Result<Ended, dcbuild_client::ClientError>) -> bool {
    let outcome = ended.as_ref().ok().and_then(|ended| ended.outcome.as_ref());
    !matches!(outcome, Some(Outcome::Done { summary, .. }) if summary.ran == 0)
}

/// `dcbuild plan`: the same path, which ends when the plan is there.
pub(crate) async fn plan(app: &App, flags: PlanFlags) -> anyhow::Result<ExitCode> {
    let handover = Handover { purpose: Purpose::Plan, in_place: true, ..Handover::default() };
    let mut build = flags.build;
    // The plan is what is printed; how it came about is only worth showing where somebody asks for it.
    build.progress.get_or_insert_with(|| "none".into());
    let request = match request(app, &build, handover).await? {
        Ok(request) => request,
        Err(code) => return Ok(code),
    };
    let local = Local::start(app, &StoreFlags::default(), None, None).await?;
    let ended = local.client.build(request, &mut Console::stderr(&app.env), &app.stop).await;
    local.stop(&app.stop, Mode::None).await;
    match ended {
        Ok(Ended { outcome: Some(Outcome::Planned { plan }), .. }) => {
            say(&print(&plan, flags.format))
        }
        other => finish(other),
    }
}

fn print(plan: &Plan, format: PlanFormat) -> String {
    match format {
        PlanFormat::Text => show::text(plan),
        PlanFormat::Json => show::json(plan),
        PlanFormat::Dot => show::dot(plan),
        PlanFormat::Svg => show::svg(plan),
    }
}

/// What is kept of files that ADD fetched.
pub(crate) const FETCHED_BYTES_MAX: u64 = 2 << 30;

/// What a shell reports of a command line that is not understood, and of a command that Ctrl-C ended.
pub(crate) const USAGE: u8 = 2;
pub(crate) const INTERRUPTED: u8 = 130;

/// Reads flags and what they name on disk; an exit code if something was wrong, which is said already.
pub(crate) async fn request(
    app: &App,
    flags: &BuildFlags,
    handover: Handover,
) -> anyhow::Result<Result<BuildRequest, ExitCode>> {
    for flag in flags.without_effect() {
        complain(&format!("warning: --{flag} has no effect, as with `docker buildx build`\n"));
    }
    for skipped in flags.skipped() {
        complain(&format!("warning: {skipped}\n"));
    }
    let wanted = match Wanted::new(flags, &app.env) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Err(refused(&error, USAGE))),
    };
    for warning in wanted.warnings() {
        complain(&format!("warning: {warning}\n"));
    }
    for skipped in variables::without_effect(&app.env) {
        complain(&format!("warning: {skipped}\n"));
    }
    if let Method::Describe(format) = wanted.method {
        return say(&describe(format)).map(Err);
    }
    if let (Purpose::Detached, Err(error)) = (handover.purpose, wanted.refuse_to_stay()) {
        return Ok(Err(refused(&error, USAGE)));
    }
    let stat_cache = app.state.stat_cache();
    std::fs::create_dir_all(&stat_cache).with_context(|| {
        format!("could not make the folder {} ({ELSEWHERE})", stat_cache.display())
    })?;
    let working = working()?;
    let place =
        Place { working: &working, stat_cache: &stat_cache, now: SystemClock.now(), env: &app.env };
    let shows = matches!(wanted.mode, Mode::Auto | Mode::Tty | Mode::Plain);
    let mut tell = |line: &str| {
        if shows {
            complain(&format!("{line}\n"));
        }
    };
    let gathering = Box::pin(gather(&wanted, place, std::io::stdin(), &mut tell));
    let gathered = match app.stop.run_until_cancelled(gathering).await {
        Some(Ok(gathered)) => gathered,
        Some(Err(error)) => return Ok(Err(refused(&error, error.fault().exit_code()))),
        None => return Ok(Err(ExitCode::from(INTERRUPTED))),
    };
    let reach = Reach {
        registries: registries(&app.config, &app.env)?,
        logins: docker_logins(&app.env),
        working: working.clone(),
    };
    let caches = Caches::open(&wanted.caches, &reach).await?;
    let preparing = prepare_aside(wanted.clone(), gathered, place);
    match app.stop.run_until_cancelled(preparing).await.transpose()? {
        Some(Ok(prepared)) => {
            for warning in &prepared.warnings {
                complain(&format!("warning: {warning}\n"));
            }
            let id = BuildId::from_bits(new_bits(&SystemClock));
            let mut request = BuildRequest::new(id, &wanted, prepared, handover);
            request.caches = std::sync::Arc::new(caches);
            Ok(Ok(request))
        }
        Some(Err(error)) => Ok(Err(refused(&error, error.fault().exit_code()))),
        None => Ok(Err(ExitCode::from(INTERRUPTED))),
    }
}

/// Opens what a build reads. What is a pipe blocks until somebody writes into it, and Ctrl-C is not to wait for that.
async fn prepare_aside(
    wanted: Wanted,
    gathered: Gathered,
    place: Place<'_>,
) -> Result<Result<Prepared, PrepareError>, JoinError> {
    let (working, stat_cache) = (place.working.to_owned(), place.stat_cache.to_owned());
    let (now, env) = (place.now, place.env.clone());
    let preparing = tokio::task::spawn_blocking(move || {
        let place = Place { working: &working, stat_cache: &stat_cache, now, env: &env };
        prepare(&wanted, gathered, place)
    });
    preparing.await
}

fn refused(error: &(impl std::error::Error + Hint + 'static), code: u8) -> ExitCode {
    complain(&report_with_hint(error));
    ExitCode::from(code)
}

pub(crate) fn working() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("could not find the working folder")
}

/// Prints what belongs on standard output, or why the build did not come to it.
pub(crate) fn finish(
    ended: Result<Ended, dcbuild_client::ClientError>,
) -> anyhow::Result<ExitCode> {
    match ended {
        Ok(ended) => {
            say(&ended.stdout)?;
            Ok(ExitCode::from(ended.code))
        }
        Err(error) => {
            complain(&report_with_hint(&error));
            Ok(ExitCode::from(error.fault().exit_code()))
        }
    }
}
