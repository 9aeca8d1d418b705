//! Images outside dcbuild: registries, layouts on disk, archives, and a docker daemon to load them into.
//!
//! Every byte that comes in is verified by its digest before its end is reported; nothing that a manifest names by URL
//! is ever fetched; a credential goes to the one origin that it was made for. Start with [`client::RegistryClient`] to
//! pull and push, and with [`source::ImageSource`] for where a base image comes from.

mod auth;
mod challenge;
mod client;
mod config;
mod connections;
mod credentials;
mod docker;
mod error;
mod layout;
mod names;
mod obstacle;
mod origin;
mod patience;
mod pull;
mod push;
mod source;
mod transport;
mod verify;
mod writer;

pub use client::{FetchedManifest, HeadManifest, RegistryClient, RegistryImage};
pub use config::{
    InvalidRegistryConfig, Keypair, RawHostConfig, RawRegistryConfig, RegistryConfig,
};
pub use credentials::{
    Anonymous, Credential, CredentialError, CredentialSource, DockerConfig, DockerLogins, Login,
    Secret, StaticCredentials,
};
pub use docker::{DaemonTlsError, LoadError, SshAddressError, docker_load};
pub use error::{ApiError, Asked, HttpError, PullError, PushError};
pub use layout::{LayoutImage, LayoutOpenError, OciLayout};
pub use patience::Ear;
pub use push::Pushed;
pub use source::{
    BlobReader, BlobStream, ByteStream, BytesBlob, FileBlob, ImageSource, ResolvedImage,
};
pub use writer::{ArchiveImage, WriteError, write_docker_tar, write_oci_dir, write_oci_tar};
