//! When a context was made that came as an archive: what an image's time may be taken from.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// Whether a build may ask for the time of its context. All of an archive is looked through for that, which takes its time
/// where there are many files.
pub(crate) fn asks(build_args: &BTreeMap<String, String>, dockerfile: &str) -> bool {
    match build_args.get(NAME) {
        Some(value) => value == "context",
        // In the Dockerfile the value may come of other arguments.
        None => dockerfile.contains(NAME),
    }
}

/// When the newest file below a folder was changed, in seconds.
pub(crate) fn newest(folder: &Path) -> io::Result<Option<i64>> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut newest, mut open) = (None, vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_dir() {
                open.push(entry.path());
            } else if found.is_file() {
                newest = newest.max(Some(found.mtime()));
            }
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_archive_is_looked_for_where_it_may_be_asked_for() {
        for (given, dockerfile, want) in [
            (None, "FROM scratch", false),
            (Some("context"), "FROM scratch", true),
            (Some("7"), "ARG SOURCE_DATE_EPOCH=context\nFROM scratch", false),
            (Some("lib"), "FROM scratch", false),
            (None, "ARG OF=context\nARG SOURCE_DATE_EPOCH=$OF\nFROM scratch", true),
        ] {
            let args = given.map(|value: &str| (NAME.to_owned(), value.to_owned()));
            assert_eq!(
                asks(&args.into_iter().collect(), dockerfile),
                want,
                "{given:?} {dockerfile}"
            );
        }
    }
}
