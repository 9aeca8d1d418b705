//! What is attested of an output: statements beside an image, or files among files.

use std::io::Read as _;
use std::sync::Arc;

use dcbuild_attest::{
    Finish, PackageKind, Provenance, Sbom, Statement, Stored, Subject, package_url, store,
};
use dcbuild_layer::ReadContent as _;
use dcbuild_model::{BlobDigest, ContentDigest, Digest, Platform, TreePath, UnixTime};
use dcbuild_oci::{Descriptor, ImageRef};
use dcbuild_proto::document::{AttestationBlob, Attests, Chain, LeasedImage, OutputKind};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, Meta, Origin};

use crate::assemble::described;
use crate::attempt::Attempt;
use crate::contents::Contents;
use crate::error::{Failed, blocking, story};
use crate::layers::Layers;
use crate::output::{Image, Job, folder_of};

/// Where a scanner writes, in its container.
const SCANS: [&[u8]; 2] = [b"run", b"out"];
/// A larger list of what an image holds is refused, as BuildKit does.
const SCAN_BYTES_MAX: u64 = 80 << 20;
const SCANS_MAX: usize = 1_000;
/// The mode of the files of attestations, as BuildKit gives it.
const FILE_MODE: u32 = 0o600;

/// What stands beside an image in its index.
pub(crate) struct Attested {
    pub(crate) stored: Stored,
}

impl Attested {
    /// The config and the statements.
    pub(crate) fn loose(&self) -> impl Iterator<Item = &[u8]> {
        let statements = self.stored.statements.iter().map(|it| it.bytes.as_slice());
        statements.chain([self.stored.config.as_slice()])
    }

    /// All of its blobs.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (BlobDigest, &[u8])> {
        let all = self.loose().chain([self.stored.manifest.as_slice()]);
        all.map(|bytes| (BlobDigest(Digest::of(bytes)), bytes))
    }

    /// What the client is told of them.
    pub(crate) fn blobs(&self) -> Vec<AttestationBlob> {
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let blob =
            |(digest, bytes): (BlobDigest, &[u8])| AttestationBlob { digest, size: size(bytes) };
        self.parts().map(blob).collect()
    }
}

/// What is attested of an image; nothing where nothing is asked.
pub(crate) async fn image(
    attempt: &Arc<Attempt>,
    (job, leased): (&Job, &LeasedImage),
    image: &Image,
    at: UnixTime,
) -> Result<Option<Attested>, Failed> {
    let asked = &job.spec.attest;
    if asked.is_empty() {
        return Ok(None);
    }
    let OutputKind::Image { names, .. } = &job.spec.kind else { return Ok(None) };
    let subjects = subjects(names, &leased.template.platform, image)?;
    let layer = |layer: &dcbuild_proto::document::OutputLayer| {
        Descriptor::new(&layer.media_type, layer.digest.0, layer.size)
    };
    let finish = Finish { at, layers: image.layers.iter().map(layer).collect() };
    let mut statements = Vec::new();
    if let Some(scan) = leased.sbom.clone().filter(|_| asked.sbom) {
        attempt.shared.layers.learn(&scan, &attempt.registry);
        let layers = attempt.shared.layers.clone();
        let found = blocking(move || scans(&layers, &scan)).await?;
        let said = found.into_iter().map(|(_, sbom)| Statement::of_sbom(sbom, subjects.clone()));
        statements.extend(said);
    }
    if let Some(provenance) = leased.provenance.as_deref().filter(|_| asked.provenance.is_some()) {
        statements.push(Statement::of_provenance(provenance, &finish, subjects));
    }
    let stored = store(&statements, &described(&image.assembled), asked.storage);
    Ok(Some(Attested { stored }))
}

fn subjects(names: &[String], platform: &Platform, image: &Image) -> Result<Vec<Subject>, Failed> {
    let subject = |name: &String| {
        let name: ImageRef = name.parse().map_err(|error| Failed::refused(&error))?;
        let name = package_url(PackageKind::Docker, &name, Some(platform));
        Ok(Subject { name, digest: image.manifest.0 })
    };
    names.iter().map(subject).collect()
}

/// What a scanner wrote, by the names of its files; the list of the image itself comes first. Blocks.
fn scans(layers: &Arc<Layers>, scan: &Chain) -> Result<Vec<(String, Sbom)>, Failed> {
    let nothing = || {
        let message =
            "the scanner wrote no list of what the image holds below $BUILDKIT_SCAN_DESTINATION";
        Failed::rejected(message).with_hint(Some(
            "--sbom=generator=IMAGE names a scanner that follows BuildKit's protocol: docs/attestations.md",
        ))
    };
    // What the step itself wrote is in its own layer; the image of the scanner may have anything below it.
    let table = layers.table(&scan.last().ok_or_else(nothing)?.layer)?;
    let folder = SCANS.iter().fold(TreePath::root(), |path, name| path.join(name));
    let files = table.0.iter().filter_map(|(path, change)| {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { return None };
        let Kind::File(body) = &entry.kind else { return None };
        let name = String::from_utf8_lossy(path.name()?).into_owned();
        (path.parent().as_ref() == Some(&folder)).then_some((name, body))
    });
    let contents = Contents::new(layers.clone());
    let mut found = Vec::new();
    for (name, body) in files.take(SCANS_MAX) {
        let bytes = read(&contents, &name, body)?;
        let sbom = Sbom::parse(&bytes).map_err(|error| {
            let message =
                format!("the scanner wrote '{name}', which is no list: {}", story(&error));
            Failed::rejected(message)
        })?;
        found.push((name, sbom));
    }
    if found.is_empty() {
        return Err(nothing());
    }
    let is_core = |name: &str| name.split('.').next() == Some("sbom");
    found.sort_by_key(|(name, _)| !is_core(name));
    Ok(found)
}

fn read(contents: &Contents, name: &str, body: &FileBody) -> Result<Vec<u8>, Failed> {
    if body.size > SCAN_BYTES_MAX {
        let message = format!(
            "the scanner wrote '{name}' of {} bytes; it may have {SCAN_BYTES_MAX}",
            body.size
        );
        return Err(Failed::rejected(message));
    }
    let failed = |error: std::io::Error| Failed::sandbox(&error);
    let mut bytes = Vec::new();
    contents.open(body).map_err(failed)?.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What is attested of an output of files: one file for each statement.
pub(crate) struct Files {
    asked: Attests,
    split: bool,
    at: UnixTime,
    images: Vec<(Platform, Option<Box<Provenance>>, Option<Chain>)>,
}

impl Files {
    pub(crate) fn new(job: &Job, split: bool, at: UnixTime) -> Files {
        let image = |image: &LeasedImage| {
            (image.template.platform.clone(), image.provenance.clone(), image.sbom.clone())
        };
        let images = job.images.iter().map(image).collect();
        Files { asked: job.spec.attest.clone(), split, at, images }
    }

    /// Puts the files beside those of the result. Blocks.
    pub(crate) fn add(
        &self,
        layers: &Arc<Layers>,
        states: &[(Platform, Chain)],
        changes: &mut Changes,
    ) -> Result<(), Failed> {
        if self.asked.is_empty() {
            return Ok(());
        }
        for ((platform, provenance, scan), (_, state)) in self.images.iter().zip(states) {
            let subjects = files_of(layers, state)?;
            let mut said = Vec::new();
            if let Some(scan) = scan.as_ref().filter(|_| self.asked.sbom) {
                for (name, sbom) in scans(layers, scan)? {
                    said.push((name, Statement::of_sbom(sbom, subjects.clone())));
                }
            }
            if let (Some(provenance), Some(spec)) = (provenance, &self.asked.provenance) {
                let finish = Finish { at: self.at, layers: Vec::new() };
                let statement = Statement::of_provenance(provenance, &finish, subjects);
                said.push((spec.file_name().to_owned(), statement));
            }
            for (name, statement) in said {
                self.put(platform, &name, &statement, changes)?;
            }
        }
        Ok(())
    }

    fn put(
        &self,
        platform: &Platform,
        name: &str,
        statement: &Statement,
        changes: &mut Changes,
    ) -> Result<(), Failed> {
        let name = format!("{}{name}", self.asked.prefix);
        let path = if self.split {
            TreePath::root().join(folder_of(platform).as_bytes()).join(name.as_bytes())
        } else if self.images.len() > 1 {
            let (stem, rest) = name.rsplit_once('.').unwrap_or((&name, "json"));
            let name = format!("{stem}.{}.{rest}", folder_of(platform));
            TreePath::root().join(name.as_bytes())
        } else {
            TreePath::root().join(name.as_bytes())
        };
        let bytes = statement.to_pretty_json();
        let body = FileBody {
            content: ContentDigest(Digest::of(&bytes)),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            origin: Origin::Inline(bytes.into()),
        };
        let meta = Meta { mode: FILE_MODE, mtime: self.at, ..Meta::default() };
        let entry = Entry { meta, kind: Kind::File(body), links: None };
        if changes.0.insert(path.clone(), Change::Put(entry)).is_some() {
            let message = format!("the result has a file '{path}' where its attestation belongs");
            let hint = "give the attestations of this output other names: attestation-prefix=NAME";
            return Err(Failed::rejected(message).with_hint(Some(hint)));
        }
        Ok(())
    }
}

/// The files of a state, as subjects.
fn files_of(layers: &Layers, state: &Chain) -> Result<Vec<Subject>, Failed> {
    let changes = layers.tree(state)?.as_changes();
    let subject = |(path, change): (&TreePath, &Change)| {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { return None };
        let Kind::File(body) = &entry.kind else { return None };
        let name = path.to_string();
        Some(Subject::file(name.trim_start_matches('/'), body.content))
    };
    Ok(changes.0.iter().filter_map(subject).collect())
}
