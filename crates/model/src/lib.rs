//! The words of dcbuild: digests, ids, platforms, times, limits and the results that every other crate speaks of.
//!
//! This crate decides nothing and does no I/O. A value of one of its types is valid: text and bytes are parsed at the
//! door. Start with [`digest`] for what names bytes, and with [`result`] for what a step leaves behind.

pub mod daemon;
pub mod digest;
pub mod encode;
pub mod eviction;
pub mod fault;
pub mod http_proxy;
pub mod id;
pub mod limits;
pub mod path;
pub mod platform;
pub mod record;
pub mod remote;
pub mod result;
pub mod scope;
pub mod selection;
mod text;
pub mod time;

pub use daemon::{Daemon, DaemonTls, DaemonTrust};
pub use digest::{
    BlobDigest, ChangeDigest, ConfigDigest, ContentDigest, DiffId, Digest, LayerDigest, LayerId,
    ManifestDigest, ParseDigestError, SelectionDigest, StateDigest, StepKey,
};
pub use encode::Encoder;
pub use eviction::{Eviction, EvictionRule};
pub use fault::Fault;
pub use http_proxy::HttpProxies;
pub use id::{
    AttemptId, BuildId, Epoch, InvalidId, JobId, NoteId, StageIndex, StepIndex, WorkerId,
};
pub use path::{InvalidPath, TreePath};
pub use platform::{ParsePlatformError, Platform};
pub use record::{Component, Lineage, Record};
pub use remote::{Added, GitSource, InvalidRemote, Named, Remote};
pub use result::{BaseLayer, Compression, LayerBlob, LayerRef, StepResult};
pub use scope::{InvalidScope, Scope};
pub use selection::{Selection, SelectionForm};
pub use time::{LogTime, UnixTime};
