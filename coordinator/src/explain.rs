//! Explains the misses of a build: gathers accounts, notes and tables, and has them compared.

use std::collections::BTreeMap;

use dcbuild_explain::{
    Account, Evidence, Explanation, FileChange, FileQuestion, InvalidAccount, NoSuchStep, Passed,
    explain as compare, file_questions, pick,
};
use dcbuild_model::{BlobDigest, BuildId, LayerId, NoteId, Scope, StepIndex};
use dcbuild_store::{NoteKind, StoreError, evictions, read_bytes};
use dcbuild_tree::{Change, Changes, Entry, Kind, toc};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::config::Stores;
use crate::damage::damaged;

/// Accounts of earlier builds that a build is compared with.
const EARLIER_MAX: usize = 50;
/// Accounts read at a time.
const AT_ONCE: usize = 16;
/// A larger table of contents is not read for this.
const TABLE_BYTES_MAX: u64 = 32 << 20;
/// Pairs of layers that are compared file by file.
const QUESTIONS_MAX: usize = 20;
/// Files that are named for one step.
const FILES_MAX: usize = 20;
/// Builds that are named where none is the one that was asked for.
const NAMED_MAX: usize = 10;

/// What is to be explained.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The build; none means the last one.
    pub build: Option<BuildId>,
    /// A step, by number, stage or name; none means all.
    pub step: Option<String>,
}

/// Says why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There are no accounts.
    #[error(
        "no build is known here yet: a build is known once it has got as far as running its first step"
    )]
    NoBuilds,
    /// There is no account of this build.
    #[error(
        "there is no account of build {build}: it never got as far as its first step, or is long gone; known are{known}"
    )]
    NoSuchBuild {
        /// The build.
        build: BuildId,
        /// Those that there are, one to a line.
        known: String,
    },
    /// The build has no such step.
    #[error(transparent)]
    NoSuchStep(#[from] NoSuchStep),
    /// The account is damaged, or of another version.
    #[error("could not read the account of build {build}")]
    Account {
        /// The build.
        build: BuildId,
        /// What is wrong with it.
        source: InvalidAccount,
    },
    /// The store failed.
    #[error("could not read what is known of builds")]
    Store(#[from] StoreError),
}

/// Explains steps of a build; `live` is its account where it still goes on.
pub async fn explain(
    stores: &Stores,
    scope: &Scope,
    asked: &Asked,
    live: Option<Account>,
) -> Result<Explanation, ExplainError> {
    let desk = Desk { stores, scope };
    let account = match live {
        Some(account) => account,
        None => desk.account(asked.build).await?,
    };
    let steps = pick(&account, asked.step.as_deref())?;
    let account = desk.examined(account, &steps).await;
    let earlier = desk.earlier(account.build).await?;
    let mut removed = Vec::new();
    for scope in scope.readable() {
        removed.extend(evictions(&*stores.notes, &scope).await?);
    }
    let evictions = removed;
    let evidence = Evidence { earlier: &earlier, evictions: &evictions };
    let mut answers = BTreeMap::new();
    let questions = file_questions(&account, &steps, evidence);
    for question in questions.into_iter().take(QUESTIONS_MAX) {
        let key = (question.before, question.after);
        if let std::collections::btree_map::Entry::Vacant(vacant) = answers.entry(key) {
            vacant.insert(desk.compare(&question).await);
        }
    }
    Ok(compare(&account, &steps, evidence, &|question| {
        answers.get(&(question.before, question.after)).cloned().unwrap_or_default()
    }))
}

struct Desk<'a> {
    stores: &'a Stores,
    scope: &'a Scope,
}

impl Desk<'_> {
    /// Says of layers that were gone when the build began which of them had been damaged before.
    async fn examined(&self, mut account: Account, steps: &[StepIndex]) -> Account {
        let submitted = account.submitted;
        for at in steps {
            let Some(step) = account.steps.get_mut(at.index()) else { continue };
            let Some(Passed::LayerGone { layer }) = step.passed else { continue };
            match damaged(self.stores, layer).await {
                Ok(Some(at)) if at <= submitted => {
                    step.passed = Some(Passed::LayerDamaged { layer, at });
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%layer, %error, "a lost layer is not looked into"),
            }
        }
        account
    }

    async fn list(&self, before: Option<NoteId>, max: usize) -> Result<Vec<NoteId>, StoreError> {
        self.stores.notes.list(self.scope, NoteKind::Account, before, max).await
    }

    async fn read(&self, id: NoteId) -> Result<Option<Account>, ExplainError> {
        let text = self.stores.notes.get(self.scope, NoteKind::Account, id).await?;
        let account = text.map(|text| Account::from_bytes(&text)).transpose();
        account.map_err(|source| ExplainError::Account { build: id.into(), source })
    }

    /// The account of a build, or of the last one.
    async fn account(&self, build: Option<BuildId>) -> Result<Account, ExplainError> {
        let id = match build {
            Some(build) => NoteId::from(build),
            None => *self.list(None, 1).await?.first().ok_or(ExplainError::NoBuilds)?,
        };
        if let Some(account) = self.read(id).await? {
            return Ok(account);
        }
        let mut known = String::new();
        for id in self.list(None, NAMED_MAX).await? {
            // One that cannot be read is known by its id alone.
            let title = self.read(id).await.ok().flatten().map(|account| account.title);
            known.push_str(&format!("\n  {id} {}", title.unwrap_or_default()));
        }
        if known.is_empty() {
            return Err(ExplainError::NoBuilds);
        }
        Err(ExplainError::NoSuchBuild { build: id.into(), known })
    }

    /// The accounts of the builds before one whose records it could take, the newest first; those that cannot be read are passed over.
    async fn earlier(&self, build: BuildId) -> Result<Vec<Account>, ExplainError> {
        let mut ids = Vec::new();
        for scope in self.scope.readable() {
            let desk = Desk { scope: &scope, ..*self };
            let found = desk.list(Some(build.into()), EARLIER_MAX).await?;
            ids.extend(found.into_iter().map(|id| (id, scope.clone())));
        }
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.truncate(EARLIER_MAX);
        let reads = futures::stream::iter(ids.into_iter().map(|(id, scope)| async move {
            match (Desk { scope: &scope, ..*self }).read(id).await {
                Err(ExplainError::Account { build, source }) => {
                    tracing::warn!(%build, error = %source, "an account is passed over");
                    Ok(None)
                }
                read => read,
            }
        }));
        let accounts: Vec<Option<Account>> = reads.buffered(AT_ONCE).try_collect().await?;
        Ok(accounts.into_iter().flatten().collect())
    }

    /// Which files differ between two layers, and how many more; a table that is not to be had names none.
    async fn compare(&self, question: &FileQuestion) -> (Vec<FileChange>, u64) {
        let (before, after) = tokio::join!(self.table(question.before), self.table(question.after));
        match (before, after) {
            (Some(before), Some(after)) => differences(&before, &after),
            _ => (Vec::new(), 0),
        }
    }

    async fn table(&self, layer: LayerId) -> Option<Changes> {
        let blob = BlobDigest(layer.0);
        let bytes = read_bytes(&*self.stores.blobs, &blob, TABLE_BYTES_MAX).await;
        let bytes = bytes.inspect_err(
            |error| tracing::debug!(%layer, %error, "a table of contents is not to be had"),
        );
        let bytes = bytes.ok()?;
        let decoded = tokio::task::spawn_blocking(move || toc::decode(&bytes)).await.ok()?;
        decoded.inspect_err(|error| tracing::debug!(%layer, %error, "a table is damaged")).ok()
    }
}

/// Which files differ, in the order of their paths, and how many more than are named.
fn differences(before: &Changes, after: &Changes) -> (Vec<FileChange>, u64) {
    let (mut files, mut more) = (Vec::new(), 0);
    let paths: std::collections::BTreeSet<_> = before.0.keys().chain(after.0.keys()).collect();
    for path in paths {
        let how = match (before.0.get(path), after.0.get(path)) {
            (Some(before), Some(after)) => difference(before, after),
            (None, Some(Change::Remove)) | (Some(Change::Remove) | None, None) => None,
            (None, Some(_)) => Some("new".to_owned()),
            (Some(_), None) => Some("gone".to_owned()),
        };
        let Some(how) = how else { continue };
        if files.len() < FILES_MAX {
            files.push(FileChange { path: path.to_string(), how });
        } else {
            more += 1;
        }
    }
    (files, more)
}

fn difference(before: &Change, after: &Change) -> Option<String> {
    let entry = |change: &Change| match change {
        Change::Put(entry) | Change::Replace(entry) => Some(entry.clone()),
        Change::Remove => None,
    };
    match (entry(before), entry(after)) {
        (Some(before), Some(after)) => entry_difference(&before, &after),
        (None, Some(_)) => Some("new".into()),
        (Some(_), None) => Some("gone".into()),
        (None, None) => None,
    }
}

/// How an entry differs, but for its time, which no key counts.
fn entry_difference(before: &Entry, after: &Entry) -> Option<String> {
    let mut ways = Vec::new();
    match (&before.kind, &after.kind) {
        (Kind::File(one), Kind::File(other)) if one == other => {}
        (Kind::File(one), Kind::File(other)) if one.size != other.size => {
            ways.push(format!("content, {} bytes, now {}", one.size, other.size));
        }
        (Kind::File(_), Kind::File(_)) => ways.push("content, of the same size".into()),
        (one, other) if one == other => {}
        (Kind::Symlink(_), Kind::Symlink(_)) => ways.push("where the link leads".into()),
        _ => ways.push("another kind of file".into()),
    }
    let (one, other) = (&before.meta, &after.meta);
    if one.mode != other.mode {
        ways.push(format!("mode {:04o}, now {:04o}", one.mode, other.mode));
    }
    if (one.uid, one.gid) != (other.uid, other.gid) {
        ways.push(format!("owner {}:{}, now {}:{}", one.uid, one.gid, other.uid, other.gid));
    }
    if one.xattrs != other.xattrs {
        ways.push("extended attributes".into());
    }
    (!ways.is_empty()).then(|| ways.join("; "))
}
