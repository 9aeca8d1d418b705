//! COPY and ADD: a layer computed on trees, its bytes left where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_layer::{ReadArchiveError, ReadContent, ReadLayerError, SmallInline, read_archive};
use dcbuild_model::{ContentDigest, Digest, TreePath, UnixTime};
use dcbuild_plan::op::{CopyOp, CopySource as Planned, Op};
use dcbuild_tree::{
    Archive, Changes, Chmod, CopyRequest, CopySource, FileBody, Filter, Kind, SourceOwners,
};

use super::{Made, Place, Seeing, keep_recipe, owner};
use crate::attempt::{Attempt, Task};
use crate::contents::{Contents, Hashed, is_another};
use crate::contexts::Finds;
use crate::error::{Failed, blocking, changed};
use crate::layers::Layers;
use crate::spool::{Sources, Spool};

/// Files of archives up to here stay in memory until their layer has bytes of its own.
const INLINE_BYTES_MAX: u64 = 16 << 10;

pub(crate) async fn make(
    attempt: &Arc<Attempt>,
    task: &Arc<Task>,
    op: &CopyOp,
) -> Result<Made, Failed> {
    let now = attempt.shared.parts.clock.now();
    let (shared, task, op) = (attempt.shared.clone(), task.clone(), op.clone());
    let (changes, sources) = blocking(move || {
        let copying = Copying { layers: &shared.layers, task: &task, op: &op, now };
        copying.run(&shared.tmp())
    })
    .await?;
    keep_recipe(&attempt.shared.layers, changes, sources).await
}

/// Adds what was probably meant by a COPY or ADD that was refused.
pub(crate) fn hinted(error: Failed, op: &Op) -> Failed {
    match (&error, op) {
        (Failed::Step(step), Op::Copy(op)) if step.hint.is_none() => {
            let hint = dcbuild_plan::hint::of_copy(op, &step.message);
            error.with_hint(hint)
        }
        _ => error,
    }
}

/// A COPY under way.
struct Copying<'a> {
    layers: &'a Arc<Layers>,
    task: &'a Task,
    op: &'a CopyOp,
    now: UnixTime,
}

type Archives = BTreeMap<TreePath, Archive>;

impl Copying<'_> {
    fn run(&self, tmp: &std::path::Path) -> Result<(Changes, Sources), Failed> {
        let op = self.op;
        let below = if op.link {
            dcbuild_tree::Tree::scratch()
        } else {
            self.layers.tree(&self.task.below)?
        };
        let spec = op.chown.as_deref();
        let owner =
            spec.map(|spec| owner(self.layers, self.task, &below, spec, op.link)).transpose()?;
        let mode = op.chmod.as_deref().map(Chmod::parse).transpose();
        let mode = mode.map_err(|error| Failed::refused(&error))?;
        let mut spool = None;
        let archives = op
            .sources
            .iter()
            .map(|source| match source {
                Planned::Paths { input, patterns, unpack: true } => {
                    self.archives(*input, patterns, tmp, &mut spool)
                }
                Planned::Paths { .. } | Planned::Inline(_) => Ok(Archives::new()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut sources = Vec::new();
        let mut contexts = Vec::new();
        for (source, archives) in op.sources.iter().zip(&archives) {
            sources.push(self.source(source, archives, &mut contexts)?);
        }
        let request = CopyRequest {
            sources,
            dest: op.dest.clone(),
            owner,
            mode,
            exclude: op.exclude.clone(),
            parents: op.parents,
            link: op.link,
        };
        let changes = dcbuild_tree::copy(&below, &request, self.now);
        let mut changes = changes.map_err(|error| Failed::refused(&error))?;
        // A tar has no form for a socket.
        changes.0.retain(|_, change| !change.is_socket());
        Ok((changes, Sources { contexts, spool }))
    }

    fn source<'s>(
        &'s self,
        source: &'s Planned,
        archives: &'s Archives,
        contexts: &mut Vec<Arc<dyn ReadContent + Send + Sync>>,
    ) -> Result<CopySource<'s>, Failed> {
        match source {
            Planned::Inline(file) => Ok(CopySource::Inline {
                name: file.name.clone().into_bytes(),
                content: ContentDigest(Digest::of(&file.content.0)),
                bytes: file.content.0.clone().into(),
            }),
            Planned::Paths { input, patterns, unpack: _ } => {
                let seeing = self.task.inputs.get(*input)?;
                if let Place::Folder(folder) = &seeing.place {
                    match folder.finds {
                        // A folder finds a file by its path: it is asked last, for what no parcel holds.
                        Finds::ByPath => contexts.push(folder.contents.clone()),
                        Finds::ByContent => contexts.insert(0, folder.contents.clone()),
                    }
                }
                // Nobody owns the files of a client's folder; those of an archive may be somebody's.
                let owners = SourceOwners::Keep;
                Ok(CopySource::Tree { tree: &seeing.tree, paths: patterns, owners, archives })
            }
        }
    }

    /// What the archives among the sources hold.
    fn archives(
        &self,
        input: usize,
        patterns: &[String],
        tmp: &std::path::Path,
        spool: &mut Option<Spool>,
    ) -> Result<Archives, Failed> {
        let refused = |error: dcbuild_tree::SourceError| Failed::refused(&error);
        let seeing = self.task.inputs.get(input)?;
        let filter = Filter::new(&self.op.exclude, self.op.parents).map_err(refused)?;
        let mut archives = Archives::new();
        let mut next = 0;
        for pattern in patterns {
            for found in
                dcbuild_tree::source::find(&seeing.tree, pattern, &filter).map_err(refused)?
            {
                let Kind::File(body) = &found.entry.kind else { continue };
                if archives.contains_key(&found.path) {
                    continue;
                }
                let reader = self.open(seeing, body).map_err(|error| Failed::sandbox(&error))?;
                let reader = Hashed::new(reader, body.content);
                let spool = match spool {
                    Some(spool) => spool,
                    None => spool.insert(Spool::new(tmp).map_err(|error| Failed::sandbox(&error))?),
                };
                let mut sink = SmallInline::new(INLINE_BYTES_MAX, spool.sink(next));
                next += 1 << 32;
                let read = read_archive(reader, &mut sink).map_err(|error| match &error {
                    ReadArchiveError::Open(source)
                    | ReadArchiveError::Read { source: ReadLayerError::Read(source), .. }
                        if is_another(source) =>
                    {
                        changed(&found.path)
                    }
                    _ => Failed::refused(&error),
                })?;
                if let Some(archive) = read {
                    archives.insert(found.path, archive);
                }
            }
        }
        Ok(archives)
    }

    fn open(
        &self,
        seeing: &Seeing,
        body: &FileBody,
    ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        match &seeing.place {
            Place::Folder(folder) => folder.contents.open(body),
            Place::Nowhere | Place::Chain(_) => Contents::new(self.layers.clone()).open(body),
        }
    }
}
