//! Giving layers to other workers until the store has them.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dcbuild_layer::{BlobForm, ReadContent as _};
use dcbuild_model::{BlobDigest, Compression, LayerId, TreePath};
use dcbuild_remote::peer::Held;
use dcbuild_remote::{CertificateDigest, PeerKey, PeerService, ServerCertificates};
use dcbuild_tree::{Change, Changes, FileBody, Kind, Origin};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::contents::{Contents, Reach};
use crate::error::Failed;
use crate::layers::{Layers, TOC_BYTES_MAX};
use crate::shared::Shared;

/// How long those who still read may take once the worker has ended.
const LAST_READS: Duration = Duration::from_secs(2);

/// Where other workers come in.
#[derive(Debug)]
pub struct Door {
    /// What they connect to.
    pub listener: TcpListener,
    /// What they are told of it, as HOST:PORT.
    pub address: String,
    /// What they are shown there; nothing is encrypted without.
    pub certificates: Option<Arc<ServerCertificates>>,
}

/// What a coordinator is told of a door.
#[derive(Debug)]
pub(crate) struct OpenDoor {
    pub(crate) address: String,
    pub(crate) key: PeerKey,
    certificates: Option<Arc<ServerCertificates>>,
}

impl OpenDoor {
    /// Names the certificate that the next one to come in is shown.
    pub(crate) fn certificate(&self) -> Option<CertificateDigest> {
        self.certificates.as_ref().map(|certificates| certificates.digest())
    }
}

/// Serves other workers until this one is over; without a door nobody comes in.
pub(crate) async fn serve(shared: Arc<Shared>, door: Option<Door>, over: CancellationToken) {
    let Some(Door { listener, address, certificates }) = door else { return };
    let key = PeerKey::random();
    let service = PeerService::new(Arc::new(HeldLayers(shared.layers.clone())), key.clone());
    drop(shared.door.set(OpenDoor { address, key, certificates: certificates.clone() }));
    drop(shared);
    let stop = over.clone().cancelled_owned();
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .initial_stream_window_size(64 << 10)
        .concurrency_limit_per_connection(64)
        .add_service(service.into_server());
    let serving = async {
        match certificates {
            None => {
                let incoming = dcbuild_remote::incoming(listener);
                server.serve_with_incoming_shutdown(incoming, stop).await
            }
            Some(certificates) => {
                let incoming = dcbuild_remote::encrypted(listener, certificates);
                server.serve_with_incoming_shutdown(incoming, stop).await
            }
        }
    };
    let end = async {
        over.cancelled().await;
        tokio::time::sleep(LAST_READS).await;
    };
    tokio::select! {
        ended = serving => if let Err(error) = ended {
            let error = dcbuild_process::story(&error);
            tracing::error!(error, "other workers cannot reach this one any more");
        },
        () = end => {}
    }
}

/// The layers of this worker that lie in its own folders.
struct HeldLayers(Arc<Layers>);

impl HeldLayers {
    /// Where the layer's files are, if it is here.
    fn contents(&self, layer: &LayerId) -> Option<(Arc<Changes>, Contents)> {
        let layers = &self.0;
        if let Some(recipe) = layers.recipe(layer) {
            let contents = Contents::of_recipe(layers.clone(), recipe.clone());
            return Some((recipe.changes.clone(), contents.within(Reach::Near)));
        }
        if !layers.holds(layer) {
            return None;
        }
        let changes = layers.near_table(layer).ok()?;
        Some((changes, Contents::new(layers.clone()).within(Reach::Near)))
    }
}

fn failed(error: Failed) -> io::Error {
    io::Error::other(error)
}

impl Held for HeldLayers {
    fn table(&self, layer: &LayerId) -> io::Result<Option<Bytes>> {
        let Some(near) = self.0.near() else { return Ok(None) };
        match near.get_bytes(&BlobDigest(layer.0), TOC_BYTES_MAX) {
            Ok(table) => Ok(Some(table)),
            Err(error) if error.is_miss() => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn file(&self, layer: &LayerId, path: &TreePath) -> io::Result<Option<Box<dyn Read + Send>>> {
        let Some((changes, contents)) = self.contents(layer) else { return Ok(None) };
        let Some(Change::Put(entry) | Change::Replace(entry)) = changes.0.get(path) else {
            return Ok(None);
        };
        let Kind::File(body) = &entry.kind else { return Ok(None) };
        contents.open(body).map(Some)
    }

    fn write(&self, layer: &LayerId, out: &mut dyn Write) -> io::Result<bool> {
        let Some((changes, contents)) = self.contents(layer) else { return Ok(false) };
        let form = BlobForm { compression: Compression::None, level: None, threads: 1 };
        let written = dcbuild_layer::write_blob(&changes, &contents, &form, out);
        written.map(|_| true).map_err(|error| failed(error.into()))
    }
}

/// A bound on the tar of a layer: its files, and for each entry what its headers may hold.
pub(crate) fn tar_bytes_max(changes: &Changes) -> u64 {
    const ENTRY_BYTES_MAX: u64 = 128 << 10;
    let (entries, bytes) = crate::layers::measure(changes);
    let headers = entries.saturating_add(16).saturating_mul(ENTRY_BYTES_MAX);
    bytes.saturating_add(headers)
}

/// A file as the layer has it that a copy was taken of.
pub(crate) fn path_of(body: &FileBody) -> Option<&TreePath> {
    match &body.origin {
        Origin::Layer { path, .. } => Some(path),
        Origin::Inline(_) | Origin::Context { .. } => None,
    }
}
