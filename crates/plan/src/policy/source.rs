//! What builds take from outside, as the identifiers and attributes that policies know.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Added, GitSource, Remote};
use dcbuild_oci::ImageRef;

use super::ask::{Facts, found_of};
use super::{Engine, Judged, Known, PolicyError, Source};
use crate::sources::Need;

pub(super) const IMAGE: &str = "docker-image://";
const LAYOUT: &str = "oci-layout://";
const LOCAL: &str = "local://";
const GIT: &str = "git://";
pub(super) const HTTP_CHECKSUM: &str = "http.checksum";
pub(super) const GIT_CHECKSUM: &str = "git.checksum";
const GIT_URL: &str = "git.fullurl";
const GIT_KEEP: &str = "git.keepgitdir";

impl Engine {
    /// The image that is taken for one that is named.
    pub fn image(
        &self,
        reference: &ImageRef,
        known: Known<'_>,
    ) -> Result<Judged<ImageRef>, PolicyError> {
        let from = format!("{IMAGE}{reference}");
        let source = Source { identifier: from.clone(), attrs: BTreeMap::new() };
        let told = self.judge(source, known, &|source| seen_of(source, known))?;
        told.map(|told| {
            if told.identifier == from {
                return Ok(reference.clone());
            }
            let name = told.identifier.strip_prefix(IMAGE).and_then(|name| name.parse().ok());
            let to = told.identifier;
            name.ok_or(PolicyError::Kind { from, to, wanted: "image of a registry" })
        })
    }

    /// Whether the image of a layout may be taken.
    pub fn layout(&self, name: &str, known: Known<'_>) -> Result<Judged<()>, PolicyError> {
        self.as_it_is(format!("{LAYOUT}{name}"), known)
    }

    /// Whether a folder of the client may be read: `context`, `dockerfile`, or the name of a context.
    pub fn local(&self, name: &str, known: Known<'_>) -> Result<Judged<()>, PolicyError> {
        self.as_it_is(format!("{LOCAL}{name}"), known)
    }

    /// Whether the files alone let a folder of the client be read.
    pub fn local_by_files(&self, name: &str) -> Result<(), PolicyError> {
        let from = format!("{LOCAL}{name}");
        let told = self.evaluate(Source { identifier: from.clone(), attrs: BTreeMap::new() })?;
        unchanged(from, told)
    }

    fn as_it_is(&self, from: String, known: Known<'_>) -> Result<Judged<()>, PolicyError> {
        let source = Source { identifier: from.clone(), attrs: BTreeMap::new() };
        let nothing = |source: &Source| {
            let identifier = source.identifier.clone();
            let problem = "there is nothing more to know of it".to_owned();
            Err(PolicyError::Unseen { identifier, problem, hint: None })
        };
        self.judge(source, known, &nothing)?.map(|told| unchanged(from, told))
    }

    /// What is fetched for something that is named.
    pub fn added(&self, added: &Added, known: Known<'_>) -> Result<Judged<Added>, PolicyError> {
        let look = |source: &Source| {
            found_of(&fetched_for(added, source)?, &source.identifier, known.sources)
        };
        let told = self.judge(source_of(added), known, &look)?;
        told.map(|to| fetched_for(added, &to))
    }

    /// What the files alone let be fetched for something that is named.
    pub fn added_by_files(&self, added: &Added) -> Result<Added, PolicyError> {
        fetched_for(added, &self.evaluate(source_of(added))?)
    }
}

/// A question about something that is fetched, with what was found.
pub fn ask_of(added: &Added, facts: Option<Facts>) -> super::PolicyAsk {
    let Source { identifier, attrs } = source_of(added);
    super::PolicyAsk { identifier, attrs, platform: None, pinned_by: BTreeSet::new(), facts }
}

fn unchanged(from: String, told: Source) -> Result<(), PolicyError> {
    if told.identifier == from {
        return Ok(());
    }
    Err(PolicyError::Kind { from, to: told.identifier, wanted: "folder of this build" })
}

/// What was found of an image; what is not found is said where the image is taken.
fn seen_of(source: &Source, known: Known<'_>) -> Result<Judged<Facts>, PolicyError> {
    let identifier = &source.identifier;
    let unseen = |problem: &str| PolicyError::Unseen {
        identifier: identifier.clone(),
        problem: problem.to_owned(),
        hint: None,
    };
    let reference = identifier.strip_prefix(IMAGE).and_then(|name| name.parse::<ImageRef>().ok());
    let reference = reference.ok_or_else(|| unseen("it is no image of a registry"))?.to_string();
    let platform = known.platform.ok_or_else(|| unseen("it has no platform"))?.clone();
    match known.sources.images.get(&(reference.clone(), platform.clone())) {
        None => Ok(Judged::Lacks(Need::Image { reference, platform })),
        Some(Err(unresolved)) => Err(unseen(&unresolved.reason)),
        Some(Ok(image)) => {
            let config = &image.config.config;
            Ok(Judged::Taken(Facts::Image {
                digest: image.named.to_string(),
                created: image.config.created.clone(),
                env: config.env.clone(),
                labels: config.labels.clone(),
                user: config.user.clone(),
                volumes: config.volumes.iter().cloned().collect(),
                working_dir: config.working_dir.clone(),
            }))
        }
    }
}

/// What is fetched for a source that something has become.
fn fetched_for(added: &Added, to: &Source) -> Result<Added, PolicyError> {
    let from = source_of(added);
    if *to == from {
        return Ok(added.clone());
    }
    if let Some(rest) = to.identifier.strip_prefix(GIT) {
        let git = git_of(&added.remote, (rest, to));
        return Ok(Added { remote: Remote::Git(git), checksum: None });
    }
    if !to.identifier.starts_with("https://") && !to.identifier.starts_with("http://") {
        let wanted = "web address and no git repository";
        let (from, to) = (from.identifier, to.identifier.clone());
        return Err(PolicyError::Kind { from, to, wanted });
    }
    let checksum = to.attrs.get(HTTP_CHECKSUM).filter(|digest| !digest.is_empty());
    let checksum = checksum.map(|digest| {
        digest.parse().map_err(|_| PolicyError::Attribute {
            identifier: to.identifier.clone(),
            name: HTTP_CHECKSUM,
            value: digest.clone(),
        })
    });
    let checksum = checksum.transpose()?;
    Ok(Added { remote: Remote::Http(to.identifier.clone()), checksum })
}

fn source_of(added: &Added) -> Source {
    let mut attrs = BTreeMap::new();
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            attrs.insert(name.to_owned(), value);
        }
    };
    let identifier = match &added.remote {
        Remote::Http(url) => {
            put(HTTP_CHECKSUM, added.checksum.map(|it| it.to_string()).unwrap_or_default());
            url.clone()
        }
        Remote::Git(git) => {
            put(GIT_CHECKSUM, git.commit.clone());
            put(GIT_URL, git.url.clone());
            if git.keep_git_dir == Some(true) {
                put(GIT_KEEP, "true".into());
            }
            identifier_of(git)
        }
    };
    Source { identifier, attrs }
}

/// `git://HOST/PATH#REF:FOLDER`, whatever the repository is reached by.
fn identifier_of(git: &GitSource) -> String {
    let mut text = format!("{GIT}{}", place_of(&git.url));
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        text.push('#');
        text.push_str(&git.reference);
    }
    if !git.subdir.is_empty() {
        text.push(':');
        text.push_str(&git.subdir);
    }
    text
}

/// Host and path of a repository's address.
fn place_of(url: &str) -> String {
    let (rest, scp) = match url.split_once("://") {
        Some((_, rest)) => (rest, false),
        None => (url, true),
    };
    let (host, path) = rest.split_once(if scp { ':' } else { '/' }).unwrap_or((rest, ""));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{host}/{}", path.trim_start_matches('/'))
}

fn git_of(before: &Remote, (rest, to): (&str, &Source)) -> GitSource {
    let (place, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let known = match before {
        Remote::Git(git) => git.clone(),
        Remote::Http(_) => GitSource { submodules: true, ..GitSource::default() },
    };
    let attr = |name: &str| to.attrs.get(name).cloned().unwrap_or_default();
    let url = match attr(GIT_URL) {
        // The address was set by a rule, or the place is what it was.
        url if !url.is_empty() && (url != known.url || place_of(&known.url) == place) => url,
        _ => match known.url.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{place}"),
            None => format!("https://{place}"),
        },
    };
    GitSource {
        url,
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        commit: attr(GIT_CHECKSUM),
        keep_git_dir: if attr(GIT_KEEP) == "true" { Some(true) } else { known.keep_git_dir },
        submodules: known.submodules,
        mtime: known.mtime,
    }
}
