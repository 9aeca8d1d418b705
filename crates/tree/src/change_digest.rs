//! What a layer changes, named so that two runs with the same outcome share the name.

use dcbuild_model::{ChangeDigest, Encoder, UnixTime};

use crate::toc::group_numbers;
use crate::{Change, Changes, Entry, Kind, Meta};

/// How times count in a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeForm {
    /// Each to the nanosecond.
    Exact,
    /// A time at or after this one is just "new": it was set by the step that ran then.
    NewSince(UnixTime),
    /// Not at all.
    Ignored,
}

/// Names what a layer changes; where the bytes of files lie does not count.
pub fn change_digest(changes: &Changes, times: TimeForm) -> ChangeDigest {
    let groups = group_numbers(changes);
    let mut encoder = Encoder::new("change/1");
    encoder.list(changes.0.iter(), |encoder, (path, change)| {
        encoder.bytes(path.as_bytes());
        match change {
            Change::Remove => encoder.variant("remove"),
            Change::Replace(entry) if entry.is_dir() => {
                encoder.variant("replace");
                encode_entry(encoder, entry, times);
            }
            Change::Put(entry) | Change::Replace(entry) => {
                encoder.variant("put");
                encode_entry(encoder, entry, times);
                let group = entry.links.and_then(|links| groups.get(&links)).copied();
                encoder.option(group, Encoder::number);
            }
        }
    });
    ChangeDigest(encoder.finish())
}

/// Adds all that an entry is, but for its hard-link group.
pub(crate) fn encode_entry(encoder: &mut Encoder, entry: &Entry, times: TimeForm) {
    encode_kind(encoder, &entry.kind);
    encode_meta(encoder, &entry.meta);
    match times {
        TimeForm::Ignored => {}
        TimeForm::NewSince(start) if entry.meta.mtime >= start => encoder.variant("new"),
        TimeForm::NewSince(_) | TimeForm::Exact => {
            encoder.number(entry.meta.mtime.secs.cast_unsigned());
            encoder.number(u64::from(entry.meta.mtime.nanos));
        }
    }
}

fn encode_meta(encoder: &mut Encoder, meta: &Meta) {
    encoder.number(u64::from(meta.mode));
    encoder.number(u64::from(meta.uid));
    encoder.number(u64::from(meta.gid));
    encoder.number(u64::try_from(meta.xattrs.len()).unwrap_or(u64::MAX));
    for (name, value) in meta.xattrs.iter() {
        encoder.bytes(name);
        encoder.bytes(value);
    }
}

fn encode_kind(encoder: &mut Encoder, kind: &Kind) {
    match kind {
        Kind::Dir => encoder.variant("dir"),
        Kind::File(body) => {
            encoder.variant("file");
            encoder.digest(&body.content.0);
            encoder.number(body.size);
        }
        Kind::Symlink(target) => {
            encoder.variant("symlink");
            encoder.bytes(target);
        }
        Kind::Fifo => encoder.variant("fifo"),
        Kind::Socket => encoder.variant("socket"),
        Kind::CharDevice { major, minor } => {
            encoder.variant("char");
            encoder.number(u64::from(*major));
            encoder.number(u64::from(*minor));
        }
        Kind::BlockDevice { major, minor } => {
            encoder.variant("block");
            encoder.number(u64::from(*major));
            encoder.number(u64::from(*minor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dir, file, grouped, layer};

    fn at(secs: i64) -> UnixTime {
        UnixTime { secs, nanos: 0 }
    }

    fn dated(secs: i64) -> Changes {
        let mut entry = file("x");
        entry.meta.mtime = at(secs);
        layer(&[("f", Change::Put(entry))])
    }

    #[test]
    fn new_times_are_one_and_old_times_count() {
        let digest = |secs, since| change_digest(&dated(secs), TimeForm::NewSince(at(since)));
        assert_eq!(digest(100, 100), digest(250, 200));
        assert_ne!(digest(50, 100), digest(60, 100));
        assert_ne!(digest(50, 100), digest(150, 100));
        let exact = |secs| change_digest(&dated(secs), TimeForm::Exact);
        assert_ne!(exact(1), exact(2));
        let ignored = |secs| change_digest(&dated(secs), TimeForm::Ignored);
        assert_eq!(ignored(1), ignored(2));
    }

    #[test]
    fn kinds_of_change_and_groups_count() {
        let digest = |change| change_digest(&layer(&[("d", change)]), TimeForm::Exact);
        assert_ne!(digest(Change::Put(dir())), digest(Change::Replace(dir())));
        assert_ne!(digest(Change::Put(dir())), digest(Change::Remove));
        let twins = |group: fn(_, _) -> _| {
            let twin = Change::Put(group(file("x"), 3));
            change_digest(&layer(&[("a", twin.clone()), ("b", twin)]), TimeForm::Exact)
        };
        assert_ne!(twins(grouped), twins(|entry, _| entry));
    }
}
