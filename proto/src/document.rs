//! The documents that travel inside messages, and are stored as they travelled: JSON, unknown fields refused.

mod credentials;
mod hex;

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_attest::{Material, Mode, Provenance, ProvenanceSpec, Storage};
use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Compression, ConfigDigest, DiffId, Epoch, Fault, JobId,
    LayerDigest, LayerId, LayerRef, ManifestDigest, Platform, Scope, Selection, SelectionDigest,
    StepIndex, UnixTime,
};
use dcbuild_plan::policy::{PolicyAsk, Verdict};
use dcbuild_plan::{Call, ImageTemplate, Report, Request, Step};
use serde::{Deserialize, Serialize};

pub use self::hex::to_hex;

pub use credentials::RegistryCredentials;

/// A build as a client submits it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// What is to be built.
    pub request: Request,
    /// What becomes of it; with none the target's steps are made and kept in the cache.
    pub outputs: Vec<OutputSpec>,
    /// Whether the build ends when its client stays away.
    pub detached: bool,
    /// How far it is to go.
    pub aim: Aim,
    /// Whether the client's folders can be read where they lie, by a worker in the same process.
    pub in_place: bool,
    /// A name for people, such as the first tag or the context's folder.
    pub title: String,
    /// The ids of the ssh agents that the client answers for.
    #[serde(default)]
    pub agents: BTreeSet<String>,
    /// Caches at other places, which the client reaches.
    #[serde(default)]
    pub caches: Caches,
    /// What the client says of itself for those who ask how the build came about.
    #[serde(default)]
    pub origin: Origin,
    /// Which results the store is to keep for later builds.
    #[serde(default)]
    pub upload: Upload,
    /// Whose records it reads and writes, as the coordinator has found by the client's credential; a client leaves it open.
    #[serde(default)]
    pub scope: Option<Scope>,
}

/// Which of a build's results go to the store of a cluster, and are found there by later builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upload {
    /// Those of all steps.
    #[default]
    All,
    /// What the outputs are made of.
    Outputs,
    /// None.
    None,
}

/// The caches at other places that a build reads and writes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caches {
    /// Those that records are taken from.
    pub from: Vec<CacheSource>,
    /// Those that records are written to.
    pub to: Vec<CacheDest>,
}

/// A cache that records are taken from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSource {
    /// What people know it by.
    pub title: String,
}

/// A cache that records are written to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheDest {
    /// What people know it by.
    pub title: String,
    /// Which records.
    pub mode: CacheMode,
    /// The compression that layers should have, where one is asked for.
    pub compression: Option<Compression>,
}

/// Which records are written to a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// Those of the states that outputs are made of.
    #[default]
    Min,
    /// Those of all steps.
    Max,
}

/// A cache that was made for another place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "cache")]
pub enum MadeCache {
    /// It is in the store, and the client may take it to its place.
    Made {
        /// Its manifest, which names all that belongs to it.
        manifest: BlobDigest,
        /// How many records it has.
        records: u64,
        /// How many were left out, since a layer of theirs is not to be had.
        left: u64,
    },
    /// It could not be made.
    Failed {
        /// Why not.
        message: String,
    },
}

/// What a client says of what it brings, for provenance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// What it fetched, by the name of the context that it became; `dockerfile` is the Dockerfile alone.
    pub fetched: BTreeMap<String, Material>,
    /// The repository that its folder belongs to, by BuildKit's names.
    pub vcs: BTreeMap<String, String>,
    /// How much provenance it wants to hear itself at the end; none, if none.
    pub told: Option<Mode>,
}

/// How far a build is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "aim")]
pub enum Aim {
    /// To its outputs.
    Build {},
    /// To its plan.
    Plan {},
    /// To an answer about its Dockerfile.
    Call {
        /// What is asked.
        call: Call,
    },
}

/// How the layers of an output are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCompression {
    /// The compression of new layers.
    pub compression: Compression,
    /// The level; the compression's own default if none.
    pub level: Option<i32>,
    /// Whether the base's layers are compressed anew too.
    pub force: bool,
}

/// What becomes of a build's result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is an attribute of its own")]
pub struct OutputSpec {
    /// What is made.
    pub kind: OutputKind,
    /// How its layers are compressed.
    pub layers: LayerCompression,
    /// Whether manifest and config have OCI's media types, or docker's.
    pub oci_media_types: bool,
    /// Annotations.
    pub annotations: Vec<Annotation>,
    /// Whether times in new layers that are later than `SOURCE_DATE_EPOCH` become it.
    #[serde(default)]
    pub rewrite_timestamp: bool,
    /// Whether the images' configs hold the records of their steps.
    #[serde(default)]
    pub inline_cache: bool,
    /// What is said of the result beside it.
    #[serde(default)]
    pub attest: Attests,
}

/// What is said of a result beside it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attests {
    /// How it was built.
    pub provenance: Option<ProvenanceSpec>,
    /// What it holds.
    pub sbom: bool,
    /// How that lies in an index.
    pub storage: Storage,
    /// What the names of its files begin with, where files are the output.
    pub prefix: String,
}

impl Attests {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && !self.sbom
    }
}

impl OutputSpec {
    /// Whether an image of one platform stands in an index nonetheless: only that has room for what is said beside it.
    pub fn needs_index(&self) -> bool {
        !self.attest.is_empty() || self.annotations.iter().any(Annotation::needs_index)
    }

    /// The annotations of a place, for a platform where the place has one; what names the platform goes before.
    pub fn annotations_of(
        &self,
        place: AnnotationPlace,
        platform: Option<&Platform>,
    ) -> BTreeMap<String, String> {
        let here = self.annotations.iter().filter(|annotation| annotation.place == place);
        let (all, own): (Vec<&Annotation>, Vec<_>) =
            here.partition(|annotation| annotation.platform.is_none());
        let own = own.into_iter().filter(|annotation| annotation.platform.as_ref() == platform);
        let pair = |annotation: &Annotation| (annotation.name.clone(), annotation.value.clone());
        all.into_iter().chain(own).map(pair).collect()
    }
}

/// A remark on an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    /// Where it stands.
    pub place: AnnotationPlace,
    /// The platform whose manifest it is about; all, if none.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: String,
}

impl Annotation {
    /// Whether only an index has a place for it.
    pub fn needs_index(&self) -> bool {
        self.place != AnnotationPlace::Manifest
    }
}

/// Where a remark on an image stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnotationPlace {
    /// In the manifest.
    Manifest,
    /// In the index, beside the manifest's digest.
    ManifestDescriptor,
    /// In the index.
    Index,
    /// Beside the index's digest, in a layout and in the metadata file.
    IndexDescriptor,
}

/// The kinds of outputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "type")]
pub enum OutputKind {
    /// An image: its blobs come to the store; the client, or a push, takes them from there.
    Image {
        /// Names, canonical.
        names: Vec<String>,
        /// Whether it is pushed under its names.
        push: bool,
        /// Whether it is pushed by digest only.
        push_by_digest: bool,
        /// Whether it is kept in the store by its names.
        keep: bool,
    },
    /// The files alone, as one uncompressed tar in the store.
    Files {
        /// Whether the files of each platform lie in a folder of their own, such as `linux_amd64`.
        split: bool,
    },
}

/// What an output made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "type")]
pub enum OutputResult {
    /// An image; its manifest and config are blobs of the store, and so are its layers unless it was only pushed.
    Image {
        /// The manifest.
        manifest: ManifestDigest,
        /// The manifest's size in bytes.
        manifest_size: u64,
        /// The manifest's media type.
        media_type: String,
        /// The config.
        config: ConfigDigest,
        /// The layers, lowest first.
        layers: Vec<OutputLayer>,
        /// The names.
        names: Vec<String>,
    },
    /// An index of images, one for each platform; it and what it names are blobs of the store as those of an image are.
    Index {
        /// The index.
        index: ManifestDigest,
        /// The index's size in bytes.
        index_size: u64,
        /// The index's media type.
        media_type: String,
        /// The images, in the order of the index.
        images: Vec<IndexedImage>,
        /// The names.
        names: Vec<String>,
        /// Remarks on it that stand beside its digest.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
    },
    /// A tar of the files.
    Files {
        /// The blob, by its digest.
        tar: LayerDigest,
        /// Its size in bytes.
        size: u64,
    },
}

/// An image of an index that was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedImage {
    /// The platform.
    pub platform: Platform,
    /// The manifest.
    pub manifest: ManifestDigest,
    /// The config.
    pub config: ConfigDigest,
    /// The layers, lowest first.
    pub layers: Vec<OutputLayer>,
    /// The blobs of what is attested of it, if anything is: a manifest, a config, statements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestation: Vec<AttestationBlob>,
}

/// A blob of an attestation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationBlob {
    /// The blob.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
}

/// A layer of an image that was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputLayer {
    /// The blob.
    pub digest: LayerDigest,
    /// The tar inside.
    pub diff_id: DiffId,
    /// The blob's size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// What a build asks of its client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "ask")]
pub enum Question {
    /// What does this part of a folder look like?
    Selection {
        /// The context.
        context: String,
        /// What is read of it.
        selection: Selection,
    },
    /// Put this part of a folder into the store as a parcel: a step that runs will read it.
    Pack {
        /// The context.
        context: String,
        /// What is read of it.
        selection: Selection,
    },
    /// Resolve an image in an OCI layout of the client, and put its blobs into the store.
    Layout {
        /// The context.
        context: String,
        /// For this platform, as text.
        platform: String,
    },
    /// What lies at a cache of the build, and which records does it hold?
    Cache {
        /// Which of the build's sources.
        source: u32,
    },
    /// Put a blob that lies at a cache of the build into the store.
    CacheBlob {
        /// Which of the build's sources.
        source: u32,
        /// The blob.
        blob: BlobDigest,
    },
    /// Which credentials has the client for this registry?
    Credentials {
        /// The registry's host, with its port.
        host: String,
    },
    /// What does this ssh agent say to a message?
    Agent {
        /// The agent's id.
        id: String,
        /// The message, as hex digits.
        message: String,
    },
    /// What do the client's policies say of a source?
    Policy {
        /// The source.
        about: Box<PolicyAsk>,
    },
}

/// A client's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// The digest of a selection.
    Selection {
        /// The digest.
        digest: SelectionDigest,
    },
    /// A selection is in the store.
    Packed {
        /// The parcel, a blob that names all that the selection reads.
        parcel: BlobDigest,
        /// How many bytes went to the store for it.
        sent_bytes: u64,
        /// The bytes of its files that were there already.
        found_bytes: u64,
    },
    /// A layout's image: manifest and config are blobs of the store now.
    Layout {
        /// The manifest.
        manifest: ManifestDigest,
    },
    /// What lies at a cache.
    Cache {
        /// The records, as a blob of the store; none if none are there.
        found: Option<BlobDigest>,
        /// What there is to say of it, for people.
        note: String,
        /// Whether what lies there belongs to somebody else, or could not be read.
        foreign: bool,
    },
    /// A blob is in the store now.
    Stored {},
    /// An agent has spoken.
    Agent {
        /// What it said, as hex digits.
        message: String,
    },
    /// Policies were asked.
    Policy {
        /// What they say.
        verdict: Verdict,
        /// What there is to show of how they came to it.
        log: Vec<String>,
    },
    /// A file is not what it was when it was hashed; what is asked from now on is answered from what is there now.
    Changed {
        /// The file, for people.
        path: String,
    },
    /// It could not be done; the reason is for people.
    Failed {
        /// Why.
        message: String,
    },
}

/// Where a worker finds a context.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "place")]
pub enum ContextPlace {
    /// In the client's folder: the worker lives in the client's process.
    InPlace {},
    /// In the store, as a parcel that holds the selection and nothing else.
    Packed {
        /// The parcel.
        parcel: BlobDigest,
    },
}

/// A selection of a context that a leased step reads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasedContext {
    /// The context.
    pub name: String,
    /// What is read.
    pub selection: Selection,
    /// Where it lies.
    pub place: ContextPlace,
}

/// A step that a worker is to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasedStep {
    /// The step, with its place in the plan.
    pub index: StepIndex,
    /// What it does.
    pub step: Step,
    /// Whether the worker asks by result key before it runs.
    pub ask: bool,
    /// How an output of the build will want the step's layer compressed, if it holds it.
    pub ships: Option<LayerCompression>,
    /// Whether it stands on or reads a result that is not kept for later builds: then its own is not either.
    #[serde(default)]
    pub tainted: bool,
    /// When its result goes to the store.
    #[serde(default)]
    pub sending: Sending,
}

/// When a step's result goes to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sending {
    /// As soon as it is there.
    #[default]
    AtOnce,
    /// Once the coordinator says that somebody wants it, or its worker leaves.
    WhenAsked,
}

/// The state of an input or parent that is finished: its layers, lowest first.
pub type Chain = Vec<LayerRef>;

/// Whence a layer is that a job stands on or reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasedLayer {
    /// The layer.
    pub layer: LayerId,
    /// The step that made it, and makes it again if it is lost.
    pub step: StepIndex,
    /// Whether it is not durable yet: it is on its way to the store, and its maker has it.
    pub coming: bool,
}

/// A job for a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The attempt; names all that it makes on the worker.
    pub attempt: AttemptId,
    /// The fence of its reports.
    pub epoch: Epoch,
    /// The build.
    pub build: BuildId,
    /// The job.
    pub job: JobId,
    /// The scope that it reads and writes.
    pub scope: Scope,
    /// What is to be done.
    pub work: Work,
    /// Whence the layers of its states are.
    pub layers: Vec<LeasedLayer>,
    /// Secret values that its steps name, as hex digits.
    pub secrets: BTreeMap<String, String>,
    /// Registry credentials that it needs, by host.
    pub credentials: BTreeMap<String, RegistryCredentials>,
    /// The ssh agents that the build's client answers for.
    #[serde(default)]
    pub agents: BTreeSet<String>,
    /// Which results of its build the store keeps; versions of cache mounts go there with all of them alone.
    #[serde(default)]
    pub upload: Upload,
}

/// What a lease is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "work")]
pub enum Work {
    /// Steps, each upon the one before it.
    Steps {
        /// The steps.
        steps: Vec<LeasedStep>,
        /// The state below the first.
        parent: Chain,
        /// The states of the steps that they read.
        inputs: Vec<(StepIndex, Chain)>,
        /// The client's folders that they read.
        contexts: Vec<LeasedContext>,
    },
    /// An output.
    Output {
        /// Which of the build's outputs.
        output: u32,
        /// What is to be made.
        spec: OutputSpec,
        /// What it is made of, for each platform.
        images: Vec<LeasedImage>,
        /// Whether the images are put together in an index.
        index: bool,
    },
}

/// What an output is made of, for one platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasedImage {
    /// The image's config but for what only the result knows.
    pub template: ImageTemplate,
    /// The state of the target.
    pub state: Chain,
    /// When each step of the template's history ended.
    pub created: Vec<(StepIndex, UnixTime)>,
    /// What is known of how it came about, where that is to be said.
    #[serde(default)]
    pub provenance: Option<Box<Provenance>>,
    /// The state of the step that scanned it, where what it holds is to be said.
    #[serde(default)]
    pub sbom: Option<Chain>,
}

/// Why a step or an output did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepError {
    /// What failed.
    pub kind: StepErrorKind,
    /// The whole story in one line, without a full stop.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// The kinds of failures of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum StepErrorKind {
    /// The user's command ended with this code.
    Exit {
        /// The code.
        code: i32,
    },
    /// The instruction cannot be carried out.
    Rejected {},
    /// It ran for too long.
    TimeLimit {},
    /// It used more memory than allowed.
    MemoryLimit {},
    /// It wrote more than allowed.
    DiskLimit {},
    /// A context file changed while it was read.
    ContextChanged {},
    /// The sandbox could not be made or died.
    Sandbox {},
    /// The worker's disk is full.
    NoSpace {},
    /// The store failed.
    Store {},
    /// A network or a registry failed.
    Network {},
    /// Nothing answers there, so that another worker would fare no better; another build may.
    Unreachable {},
    /// The store has lost a layer of a base image that no registry has: whoever brought it has to bring it again.
    BaseLost {},
    /// A fault of dcbuild itself.
    Internal {},
}

/// How a build ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// All outputs are there.
    Done {
        /// What they are, in the order of the submission.
        outputs: Vec<OutputResult>,
        /// How its steps went.
        summary: Summary,
        /// The caches for other places, in the order of the submission.
        #[serde(default)]
        caches: Vec<MadeCache>,
        /// How it came about, for each platform, where its client wants to know.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        provenance: Vec<ToldProvenance>,
    },
    /// The plan, where only that was asked.
    Planned {
        /// The plan.
        plan: Box<dcbuild_plan::Plan>,
    },
    /// The answer, where only that was asked.
    Reported {
        /// The answer.
        report: Report,
    },
    /// It failed.
    Failed(Failed),
    /// Somebody cancelled it, or its client stayed away.
    Canceled {
        /// Why.
        reason: String,
    },
}

/// How a build came about, as its client is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldProvenance {
    /// For this platform.
    pub platform: Platform,
    /// The predicate, as JSON.
    pub predicate: String,
}

/// Why a build failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// Who can mend it.
    pub fault: Fault,
    /// A name for programs, such as `STEP_FAILED` or [`crate::BASE_LOST`].
    pub code: String,
    /// The whole story in one line.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: Option<(u32, u32)>,
    /// The vertex that failed, for its log.
    pub vertex: Option<String>,
    /// The exit code of the user's command, where that is what failed.
    pub exit_code: Option<i32>,
    /// What was made all the same, in the order of the submission; empty where nothing was.
    #[serde(default)]
    pub outputs: Vec<Option<OutputResult>>,
}

/// How a build's steps went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Steps that ran.
    pub ran: u32,
    /// Steps taken from records.
    pub hits: u32,
    /// Steps that another build's attempt made.
    pub shared: u32,
    /// Steps that nobody needed.
    pub unneeded: u32,
}

/// Reads hex digits; none if they are none, or a digit is missing.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| digits.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..digits.len()).step_by(2).map(digit).collect()
}

/// Writes a document.
pub fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have string keys and no failing parts")
}

/// Says why bytes are not the document that was expected.
#[derive(Debug, thiserror::Error)]
#[error("not a valid {what} document")]
pub struct InvalidDocument {
    /// The document's name.
    pub what: &'static str,
    /// Why not.
    pub source: serde_json::Error,
}

/// Reads a document; unknown fields and variants are refused.
pub fn from_bytes<T: for<'de> Deserialize<'de>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, InvalidDocument> {
    serde_json::from_slice(bytes).map_err(|source| InvalidDocument { what, source })
}
