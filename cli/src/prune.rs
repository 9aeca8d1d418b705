//! `dcbuild prune`: what its flags, which are `docker buildx prune`'s, ask to be removed.

use std::time::Duration;

use dcbuild_process::{ByteSize, docker_size, parse_duration};
use dcbuild_store::{EntryKind, PruneRequest};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of docker's")]
pub(crate) struct Prune {
    /// Remove everything that no build and no named image needs
    #[arg(long, short)]
    all: bool,
    /// Remove the longest unused until the rest fits, such as 10GB: units are powers of 1024, as docker reads them
    #[arg(long, value_name = "SIZE", value_parser = size, visible_alias = "reserved-space")]
    keep_storage: Option<ByteSize>,
    /// The same, by docker's name for it
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "keep_storage")]
    max_used_space: Option<ByteSize>,
    /// The name of a builder of docker's, which is skipped
    #[arg(long, value_name = "NAME", hide = true)]
    builder: Option<String>,
    /// Docker's for how much of a disk is to be free
    #[arg(long, value_name = "SIZE", value_parser = no_free_space, hide = true)]
    min_free_space: Option<ByteSize>,
    /// Remove what was not used for so long, such as 48h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Look at these only: `until=48h`, `type=exec.cachemount` (cache mounts), `type=regular` (all else)
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    filter: Vec<Filter>,
    /// Taken for docker's sake: nothing is asked in any case
    #[arg(long, short)]
    force: bool,
    /// Taken for docker's sake: what was removed is summed up in any case
    #[arg(long, hide = true)]
    verbose: bool,
    /// Taken for docker's sake: a build has no volumes, and cache mounts go with the rest
    #[arg(long, hide = true)]
    volumes: bool,
}

/// A size as docker's own `prune` reads it.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    let read = docker_size(text).map(ByteSize);
    read.ok_or_else(|| format!("'{text}' is not a size such as 512MB or 20GB"))
}

/// Refuses what docker's `prune` has and this one has not.
fn no_free_space(_: &str) -> Result<ByteSize, &'static str> {
    Err("dcbuild is told how much may stay, not how much must be free: give --keep-storage SIZE")
}

/// What narrows a removal.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Filter {
    Until(Duration),
    Kinds(&'static [EntryKind]),
}

const CACHE_MOUNTS: [EntryKind; 2] = [EntryKind::CacheMount, EntryKind::MountVersion];
const REGULAR: [EntryKind; 5] = [
    EntryKind::Blob,
    EntryKind::Record,
    EntryKind::Layer,
    EntryKind::Quarantined,
    EntryKind::Snapshot,
];

fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("until" | "unused-for", time)) => {
            parse_duration(time).map(Filter::Until).map_err(|problem| problem.to_string())
        }
        Some(("type", "exec.cachemount")) => Ok(Filter::Kinds(&CACHE_MOUNTS)),
        Some(("type", "regular")) => Ok(Filter::Kinds(&REGULAR)),
        _ => Err("there is no such filter: until=48h, type=exec.cachemount and type=regular are \
                  known"
            .into()),
    }
}

impl Prune {
    /// What is to go; where nothing says how much, what lies over the usual ceiling.
    pub(crate) fn request(&self, usual: ByteSize) -> PruneRequest {
        let mut request = PruneRequest { max_age: self.older_than, ..PruneRequest::default() };
        for filter in &self.filter {
            match filter {
                Filter::Until(age) => {
                    request.max_age = Some(request.max_age.map_or(*age, |other| other.max(*age)));
                }
                Filter::Kinds(kinds) => request.kinds.extend(*kinds),
            }
        }
        request.keep_bytes = self.keep_storage.or(self.max_used_space).map(|size| size.0);
        let limited = request.keep_bytes.is_some() || request.max_age.is_some();
        if !limited && request.kinds.is_empty() && !self.all {
            request.keep_bytes = Some(usual.0);
        }
        // Docker's --all widens what is looked at, and a size or age still holds.
        request.all = !limited && (self.all || !request.kinds.is_empty());
        request
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        prune: Prune,
    }

    fn request(line: &str) -> PruneRequest {
        let words = std::iter::once("prune").chain(line.split_whitespace());
        Line::parse_from(words).prune.request(ByteSize(7))
    }

    #[test]
    fn flags_mean_what_they_mean_to_docker() {
        let none = PruneRequest::default();
        let hours = |hours| Some(Duration::from_hours(hours));
        let caches: std::collections::BTreeSet<EntryKind> = CACHE_MOUNTS.into();
        let cases = [
            ("", PruneRequest { keep_bytes: Some(7), ..none.clone() }),
            ("-a -f", PruneRequest { all: true, ..none.clone() }),
            ("--keep-storage 1KiB", PruneRequest { keep_bytes: Some(1024), ..none.clone() }),
            ("--max-used-space 1KiB -a", PruneRequest { keep_bytes: Some(1024), ..none.clone() }),
            ("--max-used-space 10gb", PruneRequest { keep_bytes: Some(10 << 30), ..none.clone() }),
            ("--reserved-space 1024", PruneRequest { keep_bytes: Some(1024), ..none.clone() }),
            ("--volumes -f -a", PruneRequest { all: true, ..none.clone() }),
            ("--verbose -f -a", PruneRequest { all: true, ..none.clone() }),
            ("--filter until=24h", PruneRequest { max_age: hours(24), ..none.clone() }),
            (
                "--filter until=24h --older-than 48h",
                PruneRequest { max_age: hours(48), ..none.clone() },
            ),
            (
                "--filter type=exec.cachemount",
                PruneRequest { all: true, kinds: caches.clone(), ..none.clone() },
            ),
            (
                "--filter type=exec.cachemount --filter until=1h",
                PruneRequest { max_age: hours(1), kinds: caches.clone(), ..none.clone() },
            ),
            (
                "--filter type=exec.cachemount --keep-storage 0B",
                PruneRequest { keep_bytes: Some(0), kinds: caches, ..none },
            ),
        ];
        for (line, want) in cases {
            assert_eq!(request(line), want, "{line:?}");
        }
        let error = Line::try_parse_from(["prune", "--min-free-space", "1GB"]).unwrap_err();
        assert!(error.to_string().contains("give --keep-storage SIZE"), "{error}");
        let error = Line::try_parse_from(["prune", "--max-used-space", "much"]).unwrap_err();
        assert!(error.to_string().contains("for '--max-used-space <SIZE>'"), "{error}");
        for filter in ["type=frontend", "until=soon", "id"] {
            let line = ["prune", "--filter", filter];
            assert!(Line::try_parse_from(line).is_err(), "{filter}");
        }
    }
}
