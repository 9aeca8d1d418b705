//! Answers to what a build asks of its client.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use dcbuild_agent::{Agent, AgentError};
use dcbuild_carry::{Found, PlaceError};
use dcbuild_context::{LocalContext, LocalContexts, LocalError};
use dcbuild_model::{BlobDigest, BuildId, ManifestDigest, ParsePlatformError, Platform, Selection};
use dcbuild_oci::LayoutRef;
use dcbuild_plan::policy::PolicyAsk;
use dcbuild_proto::document::{self, Answer, Question, RegistryCredentials};
use dcbuild_registry::{
    Credential, CredentialError, CredentialSource as _, DockerLogins, ImageSource as _,
    LayoutOpenError, Login, OciLayout, PullError, Secret,
};
use dcbuild_rego::{Judgement, Policies};
use dcbuild_remote::{SendError, Sender, Sent};
use dcbuild_store::{BlobStore, LayerIndex, StoreError, stream_of};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::{JoinError, spawn_blocking};

use crate::caches::Caches;
use crate::rpc::Reply;

/// Says why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("the build has no context '{name}'")]
    NoContext { name: String },
    #[error(
        "this client has not the policies of the build: ask the one that submitted it to attach"
    )]
    NoPolicies,
    #[error("the build has no ssh agent '{id}'")]
    NoAgent { id: String },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Platform(#[from] ParsePlatformError),
    #[error(transparent)]
    Open(#[from] LayoutOpenError),
    #[error(transparent)]
    Read(#[from] PullError),
    #[error("could not store what the build asked for")]
    Store(#[from] StoreError),
    #[error("the build has no cache of this number")]
    NoCache,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("the answer was stopped")]
    Stopped(#[from] JoinError),
}

/// What a client answers from.
pub(crate) struct Sources {
    pub(crate) build: BuildId,
    pub(crate) contexts: Arc<LocalContexts>,
    pub(crate) layouts: BTreeMap<String, LayoutRef>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) layers: Arc<dyn LayerIndex>,
    /// The ssh agents, by id.
    pub(crate) agents: BTreeMap<String, Agent>,
    /// The caches at other places.
    pub(crate) caches: Arc<Caches>,
    /// The policies that only this client can ask.
    pub(crate) rego: Option<Arc<Policies>>,
    /// Where docker keeps its credentials.
    pub(crate) logins: DockerLogins,
}

impl Sources {
    pub(crate) async fn answer(&self, ask: Question) -> Reply {
        let answer = match ask {
            Question::Credentials { host } => {
                return Reply::Credentials(self.credentials(&host).await);
            }
            Question::Cache { source } => self.cache(source).await,
            Question::CacheBlob { source, blob } => self.cache_blob(source, blob).await,
            Question::Agent { id, message } => self.agent(&id, &message).await,
            Question::Selection { context, selection } => self.select(&context, selection).await,
            Question::Policy { about } => self.policy(*about).await,
            Question::Pack { context, selection } => self.pack(&context, selection).await,
            Question::Layout { context, platform } => {
                self.layout(&context, &platform).await.map(|manifest| Answer::Layout { manifest })
            }
        };
        Reply::Answer(answer.unwrap_or_else(|error| Answer::Failed { message: chain(&error) }))
    }

    fn context(&self, name: &str) -> Result<Arc<LocalContext>, AnswerError> {
        let found = self.contexts.get(self.build, name);
        found.ok_or_else(|| AnswerError::NoContext { name: name.to_owned() })
    }

    async fn agent(&self, id: &str, message: &str) -> Result<Answer, AnswerError> {
        let agent = self.agents.get(id);
        let agent = agent.ok_or_else(|| AnswerError::NoAgent { id: id.to_owned() })?;
        let message = document::from_hex(message).unwrap_or_default();
        let said = agent.ask(&message).await?;
        Ok(Answer::Agent { message: document::to_hex(&said) })
    }

    async fn policy(&self, ask: PolicyAsk) -> Result<Answer, AnswerError> {
        let policies = self.rego.clone().ok_or(AnswerError::NoPolicies)?;
        let Judgement { verdict, log } = spawn_blocking(move || policies.judge(&ask)).await?;
        Ok(Answer::Policy { verdict, log })
    }

    async fn select(&self, name: &str, selection: Selection) -> Result<Answer, AnswerError> {
        let context = self.context(name)?;
        let digest = spawn_blocking(move || context.select(&selection)).await??;
        Ok(Answer::Selection { digest })
    }

    /// Looks at a cache, and hands the records over that it has.
    async fn cache(&self, source: u32) -> Result<Answer, AnswerError> {
        let told = |note: String, foreign| Ok(Answer::Cache { found: None, note, foreign });
        let borrowed = match self.caches.look(source).await.ok_or(AnswerError::NoCache)? {
            Ok(Found::Records(borrowed)) => borrowed,
            Ok(Found::Nothing) => return told("not found: nothing is taken from it".into(), false),
            Ok(Found::BuildKit) => {
                return told("a cache of BuildKit, which dcbuild does not read".into(), true);
            }
            Ok(Found::Image) => {
                return told("an image without records of dcbuild in its config".into(), false);
            }
            Ok(Found::Other(what)) => return told(format!("no cache, but {what}"), true),
            Err(error) => return told(format!("could not be read: {}", chain(&error)), true),
        };
        for (blob, bytes) in &borrowed.embedded {
            self.blobs.put(blob, stream_of(bytes.clone())).await?;
        }
        let (records, blobs) = (borrowed.documents.records(), borrowed.offered.len());
        let document = borrowed.to_json();
        let found = BlobDigest(dcbuild_model::Digest::of(&document));
        self.blobs.put(&found, stream_of(document)).await?;
        let note = format!("{records} documents of records, {blobs} blobs");
        Ok(Answer::Cache { found: Some(found), note, foreign: false })
    }

    /// Puts a blob of a cache into the store, which hashes it.
    async fn cache_blob(&self, source: u32, blob: BlobDigest) -> Result<Answer, AnswerError> {
        let content = self.caches.blob(source, &blob).await.ok_or(AnswerError::NoCache)??;
        self.blobs.put(&blob, content).await?;
        Ok(Answer::Stored {})
    }

    async fn pack(&self, name: &str, selection: Selection) -> Result<Answer, AnswerError> {
        let sender = Sender { blobs: self.blobs.clone(), layers: self.layers.clone() };
        let context = self.context(name)?;
        let sent = match sender.send(context.clone(), selection).await {
            Err(SendError::Changed { path }) => {
                context.forget(&path);
                return Ok(Answer::Changed { path: path.to_string() });
            }
            sent => sent?,
        };
        let Sent { parcel, uploaded_bytes, found_bytes, .. } = sent;
        Ok(Answer::Packed { parcel, sent_bytes: uploaded_bytes, found_bytes })
    }

    /// Puts the image of a layout into the store, all of it.
    async fn layout(&self, name: &str, platform: &str) -> Result<ManifestDigest, AnswerError> {
        let platform: Platform = platform.parse()?;
        let layout = self.layouts.get(name).cloned();
        let layout = layout.ok_or_else(|| AnswerError::NoContext { name: name.to_owned() })?;
        let folder = layout.folder.clone();
        let open = spawn_blocking(move || OciLayout::open(Path::new(&folder))).await??;
        let image = open.image(layout);
        let found = image.resolve(&platform).await?;
        let manifest = found.manifest_digest;
        let config = BlobDigest(found.config_digest.0);
        self.blobs.put(&config, stream_of(found.config_bytes.clone())).await?;
        for layer in found.layers() {
            let blob = BlobDigest(layer.digest);
            if self.blobs.find_missing(&[blob]).await?.is_empty() {
                continue;
            }
            let content = image.blob(layer).await?;
            let content = content.map_err(|source| StoreError::Content { source: source.into() });
            self.blobs.put(&blob, content.boxed()).await?;
        }
        let bytes = found.manifest_bytes.clone();
        self.blobs.put(&BlobDigest(manifest.0), stream_of(bytes)).await?;
        Ok(manifest)
    }

    /// Docker's credentials of a registry; what fails on the way counts as none, for most images need none, and why is
    /// said with the warnings and where the registry then refuses.
    async fn credentials(&self, host: &str) -> RegistryCredentials {
        let none = RegistryCredentials::default();
        let found = match self.logins.load().await {
            Ok(config) => config.credential(host).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(login)) => credentials_of(login),
            Ok(None) => none,
            Err(error) => {
                let file = self.logins.file().unwrap_or_default();
                let file = file.display();
                let way = match &error {
                    CredentialError::Helper { program, .. } => {
                        format!("; install {program}, or take it out of {file}")
                    }
                    CredentialError::HelperName { .. }
                    | CredentialError::HelperTime { .. }
                    | CredentialError::HelperFailed { .. } => {
                        format!("; mend it, or take it out of {file}")
                    }
                    CredentialError::Read { .. }
                    | CredentialError::Parse { .. }
                    | CredentialError::Entry { .. } => String::new(),
                };
                RegistryCredentials { source: format!("{}{way}", chain(&error)), ..none }
            }
        }
    }
}

fn credentials_of(login: Login) -> RegistryCredentials {
    let Login { credential, source } = login;
    let none = RegistryCredentials { source, ..RegistryCredentials::default() };
    let text = |secret: Secret| secret.reveal().to_owned();
    match credential {
        Credential::Basic { username, password } => {
            RegistryCredentials { username, password: text(password), ..none }
        }
        Credential::Identity { token } => {
            RegistryCredentials { identity_token: text(token), ..none }
        }
        Credential::Bearer { token } => RegistryCredentials { registry_token: text(token), ..none },
        Credential::Nothing {} => none,
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    dcbuild_process::story(error)
}
