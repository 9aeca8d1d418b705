//! What managers of packages leave in a layer: where it lies, and how one does without.

use serde::{Deserialize, Serialize};

use super::{Finding, Rule};

/// Something that nobody needs once the packages are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leftover {
    /// The lists of apt.
    AptLists,
    /// The index of apk.
    ApkIndex,
    /// The cache of yum and dnf.
    YumCache,
    /// The cache of pip.
    PipCache,
}

/// What is said of a leftover.
struct About {
    /// It, and that it stays.
    stays: &'static str,
    advice: &'static str,
    /// The folders that it lies in; one that does not begin with a slash may be anywhere.
    folders: &'static [&'static str],
}

impl Leftover {
    fn about(self) -> About {
        match self {
            Leftover::AptLists => About {
                stays: "the package lists of apt stay",
                advice: "end the RUN with rm -rf /var/lib/apt/lists/*, or mount a cache at /var/lib/apt",
                folders: &["/var/lib/apt/lists/"],
            },
            Leftover::ApkIndex => About {
                stays: "the index of apk stays",
                advice: "use apk add --no-cache",
                folders: &["/var/cache/apk/", "/etc/apk/cache/"],
            },
            Leftover::YumCache => About {
                stays: "the cache of yum stays",
                advice: "end the RUN with yum clean all (dnf, microdnf), or mount a cache at /var/cache",
                folders: &["/var/cache/yum/", "/var/cache/dnf/", "/var/cache/libdnf5/"],
            },
            Leftover::PipCache => About {
                stays: "the cache of pip stays",
                advice: "use pip install --no-cache-dir, or mount a cache at /root/.cache/pip",
                folders: &[".cache/pip/"],
            },
        }
    }

    /// Whether a file of a layer is a part of it; the path has no slash before it.
    pub fn holds(self, path: &[u8]) -> bool {
        self.about().folders.iter().any(|folder| match folder.strip_prefix('/') {
            Some(folder) => path.starts_with(folder.as_bytes()),
            None => path.windows(folder.len()).any(|part| part == folder.as_bytes()),
        })
    }

    /// The advice to do without it.
    pub(crate) fn finding(self, lines: (u32, u32)) -> Finding {
        Finding {
            leftover: Some(self),
            ..Finding::new(Rule::PackageListsKept, lines, self.detail(None))
        }
    }

    fn detail(self, bytes: Option<u64>) -> String {
        let About { stays, advice, .. } = self.about();
        let weight = bytes.map(|bytes| format!(" ({})", megabytes(bytes))).unwrap_or_default();
        format!("{stays} in the layer{weight}: {advice}")
    }
}

impl Finding {
    /// Says how many bytes of its leftover a layer has.
    pub fn weigh(&mut self, bytes: u64) {
        if let Some(leftover) = self.leftover {
            self.detail = leftover.detail(Some(bytes));
            self.saved_bytes = Some(bytes);
        }
    }
}

/// A size as people read it.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_lie_in_their_folders() {
        for (leftover, path, want) in [
            (Leftover::AptLists, "var/lib/apt/lists/deb_main_Packages.lz4", true),
            (Leftover::AptLists, "var/lib/apt/extended_states", false),
            (Leftover::AptLists, "srv/var/lib/apt/lists/x", false),
            (Leftover::ApkIndex, "var/cache/apk/APKINDEX.1.tar.gz", true),
            (Leftover::YumCache, "var/cache/dnf/x/repodata", true),
            (Leftover::PipCache, "root/.cache/pip/http/a", true),
            (Leftover::PipCache, "home/app/.cache/pip/a", true),
            (Leftover::PipCache, "root/.cache/pipx", false),
        ] {
            assert_eq!(leftover.holds(path.as_bytes()), want, "{path}");
        }
    }

    #[test]
    fn a_weight_is_said_once_it_is_known() {
        let mut finding = Leftover::ApkIndex.finding((3, 3));
        assert_eq!(finding.detail, "the index of apk stays in the layer: use apk add --no-cache");
        finding.weigh(2_345_678);
        let want = "the index of apk stays in the layer (2.3 MB): use apk add --no-cache";
        assert_eq!((finding.detail.as_str(), finding.saved_bytes), (want, Some(2_345_678)));
        let mut other = Finding::new(Rule::UndefinedVar, (1, 1), "x");
        other.weigh(5);
        assert_eq!((other.detail.as_str(), other.saved_bytes), ("x", None));
    }
}
