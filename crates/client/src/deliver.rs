//! Fetches what a build made and puts it where the flags say.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Daemon, Digest, Fault, LayerDigest, limits};
use dcbuild_oci::{Descriptor, ImageRef, ParseReferenceError};
use dcbuild_process::docker::NoDaemon;
use dcbuild_process::{Hint, TlsFault};
use dcbuild_proto::document::{AttestationBlob, OutputLayer, OutputResult};
use dcbuild_registry::{
    ArchiveImage, BlobReader, ByteStream, BytesBlob, LoadError, WriteError, docker_load,
    write_docker_tar, write_oci_dir, write_oci_tar,
};
use dcbuild_store::{BlobStore, ByteRange, StoreError, read_bytes};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::caches::CacheError;
use crate::output::{ClientOutput, Dest};
use crate::unpack::{UnpackError, unpack};

const PIPE_BYTES: usize = 1 << 20;
/// Where what a process has open has names.
const OPEN_HERE: [&str; 4] = ["/dev/fd", "/dev/stderr", "/dev/stdout", "/proc"];

/// Says why an output did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The coordinator made something else than was asked.
    #[error("the build made another kind of output than was asked")]
    OtherKind,
    /// A name of the image is none.
    #[error("the image has a name that is none")]
    Name(#[from] ParseReferenceError),
    /// The store failed.
    #[error("could not fetch the output")]
    Store(#[from] StoreError),
    /// A file could not be written.
    #[error("could not write '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image could not be written.
    #[error("could not write the image to {dest}")]
    Write {
        /// Where to.
        dest: String,
        /// Why not.
        source: WriteError,
    },
    /// The files could not be written.
    #[error("could not write the files to '{}'", path.display())]
    Unpack {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: UnpackError,
    },
    /// There is no docker daemon that could be spoken to.
    #[error("could not load the image into docker")]
    NoDaemon(#[from] NoDaemon),
    /// Docker did not take the image.
    #[error("could not load the image into docker")]
    Load(#[from] LoadError),
    /// A cache was not written.
    #[error(transparent)]
    Cache(Box<CacheError>),
    /// A disk is full.
    #[error("no space left in '{}'", folder.display())]
    NoSpace {
        /// The folder of the output.
        folder: PathBuf,
        /// What could not be written.
        source: Box<DeliverError>,
    },
    /// The process is going down.
    #[error("writing the output was stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

impl DeliverError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            DeliverError::OtherKind | DeliverError::Name(_) => Fault::Bug,
            DeliverError::Store(error) => error.fault(),
            DeliverError::Write { source, .. } => source.fault(),
            DeliverError::Load(error) => error.fault(),
            DeliverError::Cache(error) => error.fault(),
            DeliverError::File { .. }
            | DeliverError::NoDaemon(_)
            | DeliverError::Unpack { .. }
            | DeliverError::NoSpace { .. } => Fault::Request,
            DeliverError::Stopped(_) => Fault::Cluster,
        }
    }
}

impl DeliverError {
    /// Whether the store has lost what was made; it knows that by now, so a second build makes it again.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_of_store(StoreError::is_miss)
    }

    /// Whether the store gave no answer, as one does that is started again.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.is_of_store(|error| matches!(error, StoreError::Unavailable { .. }))
    }

    fn is_of_store(&self, is_meant: impl Fn(&StoreError) -> bool) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(cause) = next {
            let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let held = held.and_then(|held| held.downcast_ref::<StoreError>());
            let store = cause.downcast_ref::<StoreError>().or(held);
            if store.is_some_and(&is_meant) {
                return true;
            }
            next = cause.source();
        }
        false
    }
}

impl Hint for DeliverError {
    fn hint(&self) -> Option<String> {
        match self {
            DeliverError::Load(error) => {
                TlsFault::find(error).map(of_daemon).or_else(|| error.hint())
            }
            DeliverError::NoDaemon(error) => error.hint(),
            DeliverError::Cache(_) => {
                Some("ignore-error=true makes a warning of it: the outputs are there".into())
            }
            DeliverError::NoSpace { .. } => {
                Some("make room there, or give the output another dest".into())
            }
            _ => None,
        }
    }
}

/// What to do about a docker daemon that does not come to an understanding over TLS.
fn of_daemon(fault: TlsFault) -> String {
    match fault {
        TlsFault::Untrusted | TlsFault::OtherName => {
            "DOCKER_CERT_PATH names the folder whose ca.pem vouches for the daemon, by the name or address that DOCKER_HOST has"
        }
        TlsFault::Authority => {
            "the ca.pem of DOCKER_CERT_PATH must hold that certificate itself, or the daemon have one that is no authority's"
        }
        TlsFault::Plain => {
            "the daemon does without TLS: unset DOCKER_TLS_VERIFY and DOCKER_TLS, or name its other port in DOCKER_HOST"
        }
        fault if fault.is_of_client() => {
            "DOCKER_CERT_PATH names the folder with cert.pem and key.pem, which the daemon's authority must have signed"
        }
        _ => "`docker version` with the same variables says whether docker's own client comes through",
    }
    .to_owned()
}

/// Puts outputs where they belong.
pub(crate) struct Deliverer {
    pub(crate) blobs: Arc<dyn BlobStore>,
    /// The docker daemon, or why there is none.
    pub(crate) docker: Result<Daemon, NoDaemon>,
    /// What relative paths start from.
    pub(crate) working: PathBuf,
}

/// What a person reads while an output is written; none where there is nothing to do.
pub(crate) fn title(output: &ClientOutput) -> Option<String> {
    let dest = |dest: &Dest| match dest {
        Dest::Stdout => "standard output".to_owned(),
        Dest::File(path) => path.display().to_string(),
    };
    Some(match output {
        ClientOutput::Image => return None,
        ClientOutput::OciTar { dest: to } => format!("writing OCI image to {}", dest(to)),
        ClientOutput::OciFolder { dest } => format!("writing OCI image to {}", dest.display()),
        ClientOutput::DockerTar { dest: to } => format!("writing docker image to {}", dest(to)),
        ClientOutput::Load => "loading image into docker".to_owned(),
        ClientOutput::Tar { dest: to } => format!("writing files to {}", dest(to)),
        ClientOutput::Local { dest } => format!("writing files to {}", dest.display()),
    })
}

impl Deliverer {
    /// Puts an output where it belongs; answers what the user should know of it.
    pub(crate) async fn deliver(
        &self,
        output: &ClientOutput,
        made: &OutputResult,
    ) -> Result<Option<String>, DeliverError> {
        let delivered = self.put(output, made).await;
        delivered.map_err(|error| match output.folder() {
            Some(folder) if is_full(&error) => {
                let folder = self.working.join(folder);
                DeliverError::NoSpace { folder, source: Box::new(error) }
            }
            _ => error,
        })
    }

    /// Whether what was written of an output when it broke off does no harm: a reader of a pipe has it already.
    pub(crate) fn may_begin_anew(&self, output: &ClientOutput) -> bool {
        match output {
            ClientOutput::OciTar { dest }
            | ClientOutput::DockerTar { dest }
            | ClientOutput::Tar { dest } => match dest {
                Dest::Stdout => false,
                Dest::File(path) => !is_special(&self.working.join(path)),
            },
            ClientOutput::Image
            | ClientOutput::OciFolder { .. }
            | ClientOutput::Load
            | ClientOutput::Local { .. } => true,
        }
    }

    async fn put(
        &self,
        output: &ClientOutput,
        made: &OutputResult,
    ) -> Result<Option<String>, DeliverError> {
        let put = match output {
            ClientOutput::Local { dest } => return self.local(dest, made).await,
            ClientOutput::Image => Ok(()),
            ClientOutput::OciTar { dest } => {
                let image = self.image(made).await?;
                self.write(dest, |out| async move { write_oci_tar(&image, out).await }).await
            }
            ClientOutput::OciFolder { dest } => {
                let image = self.image(made).await?;
                let folder = self.working.join(dest);
                let failed =
                    |source| DeliverError::Write { dest: format!("'{}'", dest.display()), source };
                write_oci_dir(&image, &folder).await.map_err(failed)
            }
            ClientOutput::DockerTar { dest } => {
                let image = self.docker_image(made).await?;
                self.write(dest, |out| async move { image.docker_tar(out).await }).await
            }
            ClientOutput::Load => self.load(made).await,
            ClientOutput::Tar { dest } => self.tar(dest, made).await,
        };
        put.map(|()| None)
    }

    /// An image or an index with all blobs that it names.
    async fn image(&self, made: &OutputResult) -> Result<ArchiveImage, DeliverError> {
        let mut loose = Vec::new();
        let (root, names, manifests, images) = match made {
            OutputResult::Image { manifest, manifest_size, media_type, config, layers, names } => {
                let root = Descriptor::new(media_type, manifest.0, *manifest_size);
                (root, names, Vec::new(), vec![(config, layers)])
            }
            OutputResult::Index { index, index_size, media_type, images, names, annotations } => {
                let mut root = Descriptor::new(media_type, index.0, *index_size);
                root.annotations.clone_from(annotations);
                loose.extend(images.iter().flat_map(|image| &image.attestation));
                let manifests = images.iter().map(|image| image.manifest.0).collect();
                let images = images.iter().map(|image| (&image.config, &image.layers)).collect();
                (root, names, manifests, images)
            }
            OutputResult::Files { .. } => return Err(DeliverError::OtherKind),
        };
        let mut blobs: Vec<Arc<dyn BlobReader>> = Vec::new();
        for manifest in manifests.into_iter().chain([root.digest]) {
            blobs.push(self.small(manifest, limits::MANIFEST_BYTES_MAX).await?);
        }
        for (config, layers) in images {
            blobs.push(self.small(config.0, limits::CONFIG_BYTES_MAX).await?);
            for OutputLayer { digest: LayerDigest(digest), size, .. } in layers {
                let store = self.blobs.clone();
                blobs.push(Arc::new(StoreBlob { store, digest: *digest, size: *size }));
            }
        }
        for &AttestationBlob { digest, size } in loose {
            let store = self.blobs.clone();
            blobs.push(Arc::new(StoreBlob { store, digest: digest.0, size }));
        }
        let names = names.iter().map(|name| name.parse()).collect::<Result<Vec<ImageRef>, _>>()?;
        Ok(ArchiveImage { root, blobs, names })
    }

    async fn small(&self, digest: Digest, max: usize) -> Result<Arc<dyn BlobReader>, DeliverError> {
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        let bytes: Bytes = read_bytes(&*self.blobs, &BlobDigest(digest), max).await?;
        Ok(Arc::new(BytesBlob::new(bytes)))
    }

    /// What `docker load` reads: one image.
    async fn docker_image(&self, made: &OutputResult) -> Result<DockerImage, DeliverError> {
        let OutputResult::Image { config, layers, .. } = made else {
            return Err(DeliverError::OtherKind);
        };
        let layers = layers.iter().map(|layer| layer.digest.0).collect();
        Ok(DockerImage { archive: self.image(made).await?, config: config.0, layers })
    }

    async fn load(&self, made: &OutputResult) -> Result<(), DeliverError> {
        let docker = self.docker.as_ref().map_err(NoDaemon::clone)?;
        let image = self.docker_image(made).await?;
        let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
        let write = async {
            let failed = |source| DeliverError::Write { dest: "docker".into(), source };
            image.docker_tar(writer).await.map(drop).map_err(failed)
        };
        let load =
            Box::pin(async { docker_load(docker, reader).await.map_err(DeliverError::from) });
        let (written, loaded) = tokio::join!(write, load);
        // A daemon that refuses breaks the pipe, and its own words tell more than that. An archive that broke off on our
        // side is another matter.
        match (written, loaded) {
            (Err(error), Err(_)) if !is_broken_pipe(&error) => Err(error),
            (_, Err(error)) => Err(error),
            (_, Ok(said)) => {
                tracing::debug!(said, "docker has the image");
                Ok(())
            }
        }
    }

    async fn files(&self, made: &OutputResult) -> Result<dcbuild_store::BlobStream, DeliverError> {
        let OutputResult::Files { tar, .. } = made else {
            return Err(DeliverError::OtherKind);
        };
        Ok(self.blobs.get(&BlobDigest(tar.0), ByteRange::ALL).await?)
    }

    async fn tar(&self, dest: &Dest, made: &OutputResult) -> Result<(), DeliverError> {
        let mut content = self.files(made).await?;
        let mut out = Out::open(self.place(dest)).await?;
        while let Some(piece) = content.try_next().await? {
            out.writer.write_all(&piece).await.map_err(|source| out.failed(source))?;
        }
        out.finish().await
    }

    async fn local(
        &self,
        dest: &Path,
        made: &OutputResult,
    ) -> Result<Option<String>, DeliverError> {
        let content = self.files(made).await?;
        let reader = StreamReader::new(content.map_err(io::Error::other));
        let reader = SyncIoBridge::new(reader);
        let folder = self.working.join(dest);
        let failed = |source| DeliverError::Unpack { path: dest.to_owned(), source };
        let unpacked = tokio::task::spawn_blocking(move || unpack(reader, &folder)).await?;
        Ok(unpacked.map_err(failed)?.warning(dest))
    }

    fn place(&self, dest: &Dest) -> Option<PathBuf> {
        match dest {
            Dest::Stdout => None,
            Dest::File(path) => Some(self.working.join(path)),
        }
    }

    async fn write<F>(
        &self,
        dest: &Dest,
        work: impl FnOnce(Writer) -> F,
    ) -> Result<(), DeliverError>
    where
        F: Future<Output = Result<Writer, WriteError>>,
    {
        let out = Out::open(self.place(dest)).await?;
        let name = out.name();
        let Out { writer, place } = out;
        let failed = |source| DeliverError::Write { dest: name, source };
        let writer = work(writer).await.map_err(failed)?;
        Out { writer, place }.finish().await
    }
}

/// Whether a full disk is at the bottom of it.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = cause.source();
    }
    false
}

fn is_broken_pipe(error: &DeliverError) -> bool {
    matches!(error, DeliverError::Write { source: WriteError::Write { .. }, .. })
}

struct DockerImage {
    archive: ArchiveImage,
    config: Digest,
    layers: Vec<Digest>,
}

impl DockerImage {
    async fn docker_tar<W: AsyncWrite + Unpin + Send>(&self, out: W) -> Result<W, WriteError> {
        write_docker_tar(&self.archive, &self.config, &self.layers, out).await
    }
}

type Writer = Box<dyn AsyncWrite + Unpin + Send>;

/// A file that appears under its name only when it is whole, or a stream.
struct Out {
    writer: Writer,
    place: Place,
}

enum Place {
    Stdout,
    /// A pipe or a device: it is there already.
    Direct(PathBuf),
    Whole {
        path: PathBuf,
        partial: tempfile::TempPath,
    },
}

impl Out {
    async fn open(path: Option<PathBuf>) -> Result<Out, DeliverError> {
        let Some(path) = path else {
            return Ok(Out { writer: Box::new(tokio::io::stdout()), place: Place::Stdout });
        };
        let failed = |source| DeliverError::File { path: path.clone(), source };
        if is_special(&path) {
            let file = tokio::fs::File::options().append(true).open(&path).await.map_err(failed)?;
            let writer = Box::new(BufWriter::new(file));
            return Ok(Out { writer, place: Place::Direct(path) });
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let (file, partial) = new_file(folder).map_err(failed)?.into_parts();
        let writer =
            Box::new(BufWriter::with_capacity(PIPE_BYTES, tokio::fs::File::from_std(file)));
        Ok(Out { writer, place: Place::Whole { path, partial } })
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Stdout => "standard output".into(),
            Place::Direct(path) | Place::Whole { path, .. } => format!("'{}'", path.display()),
        }
    }

    fn failed(&self, source: io::Error) -> DeliverError {
        let path = match &self.place {
            Place::Stdout => "-".into(),
            Place::Direct(path) | Place::Whole { path, .. } => path.clone(),
        };
        DeliverError::File { path, source }
    }

    async fn finish(mut self) -> Result<(), DeliverError> {
        let done = match self.writer.flush().await {
            Ok(()) => self.writer.shutdown().await,
            Err(error) => Err(error),
        };
        done.map_err(|source| self.failed(source))?;
        if let Place::Whole { path, partial } = self.place {
            put_in_place(partial, &path)?;
        }
        Ok(())
    }
}

/// A new file with the mode that the user's mask leaves, as any program makes one.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".dcbuild-").permissions(mode).tempfile_in(folder)
}

/// Whether something stands there that is written into and not replaced: a device, a pipe, or what this process has open,
/// by whatever name. Another link is replaced as it is: root follows none that somebody else may have made.
pub(crate) fn is_special(path: &Path) -> bool {
    OPEN_HERE.iter().any(|place| path.starts_with(place))
        || std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
}

/// Writes a small file, whole or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DeliverError> {
    let failed = |source| DeliverError::File { path: path.to_owned(), source };
    if is_special(path) {
        let written = std::fs::File::options().append(true).open(path);
        return written.and_then(|mut file| io::Write::write_all(&mut file, bytes)).map_err(failed);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Said of the folder itself: the name of the file that is made first means nothing to anybody.
    std::fs::metadata(folder).map_err(failed)?;
    let (mut file, partial) = new_file(folder).map_err(failed)?.into_parts();
    io::Write::write_all(&mut file, bytes).map_err(failed)?;
    put_in_place(partial, path)
}

/// Gives a whole file its name. What is mounted there, as a container has single files of its host, cannot be replaced: it
/// is written anew.
fn put_in_place(partial: tempfile::TempPath, path: &Path) -> Result<(), DeliverError> {
    let placed = partial.persist(path).or_else(|error| {
        if error.error.kind() != io::ErrorKind::ResourceBusy {
            return Err(error.error);
        }
        let mut whole = std::fs::File::open(&error.path)?;
        let mut mounted = std::fs::File::options().write(true).truncate(true).open(path)?;
        io::copy(&mut whole, &mut mounted).map(drop)
    });
    placed.map_err(|source| DeliverError::File { path: path.to_owned(), source })
}

/// A blob of the store, as those who write images read it.
struct StoreBlob {
    store: Arc<dyn BlobStore>,
    digest: Digest,
    size: u64,
}

#[async_trait::async_trait]
impl BlobReader for StoreBlob {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn open(&self, offset: u64) -> io::Result<ByteStream> {
        let range = ByteRange { start: offset, length: None };
        let content = self.store.get(&BlobDigest(self.digest), range).await;
        Ok(content.map_err(io::Error::other)?.map_err(io::Error::other).boxed())
    }
}

#[cfg(test)]
mod tests;
