//! The times of a checkout: that of its commit, where that is wanted.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::{FetchError, io};

/// When a commit was made, by the text of its object; in seconds.
pub(crate) fn committed(object: &str) -> Option<i64> {
    let head = object.split("\n\n").next()?;
    let line = head.lines().find_map(|line| line.strip_prefix("committer "))?;
    // NAME <ADDRESS> SECONDS ZONE
    line.rsplit(' ').nth(1)?.parse().ok()
}

/// Gives everything below a folder, and the folder, one time; blocks.
pub(crate) fn set_all(folder: &Path, secs: i64) -> Result<(), FetchError> {
    let time = Timespec { tv_sec: secs, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    // Setting the time of what a folder holds leaves the folder's own alone.
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            for entry in std::fs::read_dir(&path).map_err(io("list", &path))? {
                open.push(entry.map_err(io("list", &path))?.path());
            }
        }
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| io("set the time of", &path)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committer_s_time_counts() {
        let object = "tree 1\nparent 2\nauthor A B <a@b> 1 +0000\ncommitter C <c@d> 1700000000 +0130\n\ncommitter x 3 4\n";
        assert_eq!(committed(object), Some(1_700_000_000));
        assert_eq!(committed("tree 1\n\ncommitter C <c@d> 5 +0000\n"), None);
    }
}
