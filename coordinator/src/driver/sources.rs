//! Asks a pure question about a Dockerfile again and again, and looks for the sources that it lacks in between.

use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{Added, Fault, Platform, Selection, SelectionDigest, limits};
use dcbuild_plan::policy::{Facts, PolicyAsk, Verdict};
use dcbuild_plan::{
    Call, Called, ImageAnswer, Need, Plan, PlanError, Planned, Report, Request, Sources,
    Unresolved, call, plan,
};
use dcbuild_progress::{Log, Stream, Update, VertexId, Warning};
use dcbuild_proto::document::{Answer, Failed, Question};
use dcbuild_registry::Ear;
use futures::StreamExt as _;

use super::{Driver, LOOKUPS_MAX, Stop, failed};
use crate::build::{AskError, Shown};
use crate::images::Images;
use crate::questions::Reply;
use crate::remotes::RemoteError;

/// What a selection of a context sees, or why nothing.
type Found = ((String, Selection), Result<SelectionDigest, Unresolved>);

/// What one round comes to.
pub(super) enum Round<T> {
    Ready(T),
    Lacks(Vec<Need>),
}

impl Driver {
    /// Plans the build, and tells its client what is questionable in it.
    pub(super) async fn plan(&self) -> Result<Box<Plan>, Stop> {
        let ask = |request: &Request, sources: &Sources| {
            Ok(match plan(request, sources)? {
                Planned::Ready(plan) => Round::Ready(plan),
                Planned::Lacks(needs) => Round::Lacks(needs),
            })
        };
        let (plan, vertex, _) = self.rounds(ask).await?;
        self.warn(&plan, vertex);
        Ok(plan)
    }

    /// Answers what is asked about the Dockerfile.
    pub(super) async fn call(&self, what: Call) -> Result<Report, Stop> {
        let ask = move |request: &Request, sources: &Sources| {
            Ok(match call(what, request, sources)? {
                Called::Ready(report) => Round::Ready(report),
                Called::Lacks(needs) => Round::Lacks(needs),
            })
        };
        let (mut report, _, sources) = self.rounds(ask).await?;
        if what == Call::Advice {
            self.weigh(&mut report, sources).await?;
        }
        Ok(report)
    }

    fn warn(&self, plan: &Plan, vertex: VertexId) {
        let tell = |warning| self.build.tell(Update::Warning(warning));
        for finding in &plan.findings {
            let (short, url) = (finding.short(), finding.rule.url());
            let (detail, lines) = (vec![finding.rule.about().to_owned()], Some(finding.lines));
            tell(Warning { vertex, short, detail, url, lines });
        }
        for note in &plan.notes {
            tell(Warning::of(vertex, note));
        }
    }

    /// Asks until there is an answer; says by which vertex that was shown, and what it rests on.
    async fn rounds<T: Send + 'static>(
        &self,
        ask: impl Fn(&Request, &Sources) -> Result<Round<T>, PlanError> + Copy + Send + 'static,
    ) -> Result<(T, VertexId, Arc<Sources>), Stop> {
        let clock = &*self.parts.clock;
        let shown = Shown::start(&self.build, clock, self.build.definition());
        let vertex = shown.id();
        let sources = Arc::new(Sources::default());
        let first = self.first(ask, &sources).await;
        match &first {
            Ok(_) => shown.done(),
            Err(Stop::Failed(failed)) => shown.failed(failed.message.clone()),
            Err(Stop::Changed(_) | Stop::Ended) => {}
        }
        let (answer, sources) = self.go_on(ask, sources, first).await?;
        Ok((answer, vertex, sources))
    }

    /// Asks for the first time.
    pub(super) async fn first<T: Send + 'static>(
        &self,
        ask: impl Fn(&Request, &Sources) -> Result<Round<T>, PlanError> + Send + 'static,
        sources: &Arc<Sources>,
    ) -> Result<Round<T>, Stop> {
        ask_once(ask, &self.request(), sources).await
    }

    /// Looks for what is lacking and asks again, until there is an answer.
    pub(super) async fn go_on<T: Send + 'static>(
        &self,
        ask: impl Fn(&Request, &Sources) -> Result<Round<T>, PlanError> + Copy + Send + 'static,
        mut sources: Arc<Sources>,
        mut round: Result<Round<T>, Stop>,
    ) -> Result<(T, Arc<Sources>), Stop> {
        let request = self.request();
        for _ in 0..limits::PLAN_ROUNDS_MAX {
            let needs = match round? {
                Round::Ready(answer) => return Ok((answer, sources)),
                Round::Lacks(needs) => needs,
            };
            let mut known = Sources::clone(&sources);
            self.look_up(needs, &mut known).await?;
            sources = Arc::new(known);
            round = ask_once(ask, &request, &sources).await;
        }
        let message =
            format!("the plan asked for sources in more than {} rounds", limits::PLAN_ROUNDS_MAX);
        Err(Stop::failed(failed(Fault::Request, "PLAN_ROUNDS", message)))
    }

    /// What is asked, for the platform that builds here.
    fn request(&self) -> Arc<Request> {
        let mut request = self.build.submission.request.clone();
        if let Some(platform) = &self.parts.build_platform {
            request.build_platform.clone_from(platform);
        }
        Arc::new(request)
    }

    /// Looks for all sources of a round at once.
    async fn look_up(&self, needs: Vec<Need>, sources: &mut Sources) -> Result<(), Stop> {
        let images = Images::new(
            self.build.clone(),
            self.parts.records.stores.clone(),
            self.parts.records.scope.clone(),
            self.parts.registries.clone(),
        );
        let (mut references, mut selections, mut fetched) = (Vec::new(), Vec::new(), Vec::new());
        let (mut asks, mut remotes) = (Vec::new(), Vec::new());
        for need in needs {
            match need {
                Need::Image { reference, platform } => references.push((reference, platform)),
                Need::Selection { context, selection } if Added::is_context(&context) => {
                    fetched.push((context, selection));
                }
                Need::Selection { context, selection } => selections.push((context, selection)),
                Need::Verdict(ask) => asks.push(*ask),
                Need::Remote(added) => remotes.push(*added),
            }
        }
        let lookups = references.into_iter().map(|(reference, platform)| async {
            let answer = self.image(&images, &reference, &platform).await;
            ((reference, platform), answer)
        });
        let images = futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect();
        let (images, selections, fetched, verdicts, remotes): (Vec<_>, _, _, _, _) = tokio::join!(
            images,
            self.selections(selections),
            self.fetched(fetched),
            self.verdicts(asks),
            self.remotes(remotes)
        );
        sources.images.extend(images);
        sources.selections.extend(selections?);
        sources.selections.extend(fetched?);
        sources.verdicts.extend(verdicts?);
        sources.remotes.extend(remotes?);
        if self.build.over.is_cancelled() {
            return Err(Stop::Ended);
        }
        Ok(())
    }

    async fn image(&self, images: &Images, reference: &str, platform: &Platform) -> ImageAnswer {
        let of = reference.strip_prefix("layout:").unwrap_or(reference);
        let name = if self.build.submission.request.is_index() {
            format!("[{platform} internal] load metadata for {of}")
        } else {
            format!("[internal] load metadata for {of}")
        };
        let shown = Shown::start(&self.build, &*self.parts.clock, name);
        let answer = images.resolve(reference, platform, self.ear(shown.id())).await;
        match &answer {
            Ok(_) => shown.done(),
            Err(error) => shown.failed(error.reason.clone()),
        }
        answer
    }

    /// Tells under a vertex that a registry says nothing.
    fn ear(&self, vertex: VertexId) -> Ear {
        let (build, clock) = (self.build.clone(), self.parts.clock.clone());
        Arc::new(move |host: &str, time: Duration| {
            let bytes = format!("{host} has said nothing for {} s\n", time.as_secs()).into_bytes();
            let log = Log { vertex, stream: Stream::Stderr, bytes, time: clock.now() };
            build.tell(Update::Log(log));
        })
    }

    /// Fetches what ADDs take from elsewhere.
    async fn fetched(&self, asked: Vec<(String, Selection)>) -> Result<Vec<Found>, Stop> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        // A fetch may need a token that the client brings.
        self.build.met().await?;
        let fetching = self.parts.fetching(&self.build);
        let lookups = asked.into_iter().map(|(context, selection)| async {
            let answer = fetching.select(&context, &selection).await;
            ((context, selection), answer.map_err(|error| unresolved(&error)))
        });
        Ok(futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await)
    }

    /// Asks the client's policies.
    async fn verdicts(&self, asked: Vec<PolicyAsk>) -> Result<Vec<(PolicyAsk, Verdict)>, Stop> {
        let lookups = asked.into_iter().map(|ask| async {
            let of = ask.platform.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
            let name = format!("[internal] check policy for {}{of}", ask.identifier);
            let shown = Shown::start(&self.build, &*self.parts.clock, name);
            let question = Question::Policy { about: Box::new(ask.clone()) };
            let failed = |message: String| Verdict::Failed { message, hint: None };
            let verdict = match self.build.ask(question).await {
                Ok(Reply::Answer(Answer::Policy { verdict, log })) => {
                    shown.log(&log);
                    verdict
                }
                Ok(_) => failed("the client gave another answer".into()),
                Err(AskError::Ended) => return Err(Stop::Ended),
                Err(error) => failed(error.to_string()),
            };
            match &verdict {
                Verdict::Allowed {} | Verdict::Pinned { .. } | Verdict::Open {} => shown.done(),
                Verdict::Denied { policy, .. } => shown.failed(format!("{policy} denies it")),
                Verdict::Failed { message, .. } => shown.failed(message.clone()),
            }
            Ok((ask, verdict))
        });
        let found: Vec<Result<_, Stop>> =
            futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await;
        found.into_iter().collect()
    }

    /// Looks at what ADDs take from elsewhere, for a policy that wants to know.
    async fn remotes(
        &self,
        asked: Vec<Added>,
    ) -> Result<Vec<(Added, Result<Facts, Unresolved>)>, Stop> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        self.build.met().await?;
        let fetching = self.parts.fetching(&self.build);
        let lookups = asked.into_iter().map(|added| async {
            let found = fetching.look(&added).await;
            (added, found.map_err(|error| unresolved(&error)))
        });
        Ok(futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await)
    }

    async fn selections(&self, asked: Vec<(String, Selection)>) -> Result<Vec<Found>, Stop> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let shown = Shown::start(&self.build, &*self.parts.clock, "[internal] load build context");
        let lookups = asked.into_iter().map(|(context, selection)| async {
            let question =
                Question::Selection { context: context.clone(), selection: selection.clone() };
            let answer = match self.build.ask(question).await {
                Ok(Reply::Answer(Answer::Selection { digest })) => Ok(digest),
                Ok(_) => Err("the client gave another answer".into()),
                Err(AskError::Ended) => return Err(Stop::Ended),
                Err(error) => Err(error.to_string().into()),
            };
            Ok(((context, selection), answer))
        });
        let found: Vec<Result<Found, Stop>> =
            futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await;
        let found: Vec<Found> = found.into_iter().collect::<Result<_, _>>()?;
        match found.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            Some(error) => shown.failed(error.reason.clone()),
            None => shown.done(),
        }
        Ok(found)
    }
}

fn unresolved(error: &RemoteError) -> Unresolved {
    let (reason, hint) = (dcbuild_process::story(error), error.hint());
    Unresolved { reason, hint, fault: error.fault() }
}

/// Asks on a thread that may take its time.
async fn ask_once<T: Send + 'static>(
    ask: impl Fn(&Request, &Sources) -> Result<Round<T>, PlanError> + Send + 'static,
    request: &Arc<Request>,
    sources: &Arc<Sources>,
) -> Result<Round<T>, Stop> {
    let (request, sources) = (request.clone(), sources.clone());
    match tokio::task::spawn_blocking(move || ask(&request, &sources)).await {
        Ok(Ok(round)) => Ok(round),
        Ok(Err(error)) => Err(Stop::failed(plan_failed(&error))),
        Err(error) => {
            let message = format!("the planner stopped: {error}");
            Err(Stop::failed(failed(Fault::Bug, "PLANNER", message)))
        }
    }
}

fn plan_failed(error: &PlanError) -> Failed {
    Failed {
        lines: error.lines(),
        hint: error.hint(),
        ..failed(error.fault(), "PLAN_FAILED", dcbuild_process::story(error))
    }
}
