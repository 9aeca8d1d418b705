use dcbuild_model::UnixTime;

use super::*;
use crate::testing::{dir, file, layer, path, tree};

fn check(lower: &[(&str, Entry)], changes: &[(&str, Entry)], created: &[&str], want: &[&str]) {
    let changes: Vec<_> =
        changes.iter().map(|(name, entry)| (*name, Change::Put(entry.clone()))).collect();
    let created: Vec<TreePath> = created.iter().map(|name| path(name)).collect();
    let left = without_stubs(layer(&changes), &tree(lower), &created);
    let left: Vec<String> = left.0.keys().map(|path| path.to_string()[1..].to_owned()).collect();
    assert_eq!(left, want);
}

fn later(mut entry: Entry) -> Entry {
    entry.meta.mtime = UnixTime { secs: 9, nanos: 0 };
    entry
}

#[test]
fn stubs_and_their_new_parents_go() {
    check(&[], &[("p", dir()), ("p/q", dir()), ("p/q/r", dir())], &["p/q/r"], &[]);
    check(&[], &[("s", dir()), ("s/t", file("")), ("got", file("x"))], &["s/t"], &["got"]);
    check(&[], &[("m", dir()), ("m/a", file("")), ("m/d", dir())], &["m/a", "m/d"], &[]);
}

#[test]
fn what_was_written_beside_keeps_the_parents() {
    let changes =
        [("p", dir()), ("p/q", dir()), ("p/q/r", dir()), ("p/x", file("x")), ("p-x", file("x"))];
    check(&[], &changes, &["p/q/r"], &["p", "p-x", "p/x"]);
    check(&[], &[("p", dir()), ("p/q", file("x"))], &["p/q"], &["p", "p/q"]);
}

#[test]
fn folders_that_are_as_before_go() {
    let lower = [("p", dir()), ("etc", dir()), ("etc/f", file("f"))];
    check(&lower, &[("p", later(dir())), ("p/q", dir())], &["p/q"], &[]);
    check(&lower, &[("p", later(dir()))], &[], &["p"]);
    check(&lower, &[("etc", dir()), ("etc/f", file("new"))], &[], &["etc/f"]);
    let beside = [("p", later(dir())), ("p/q", dir()), ("p/x", file("x"))];
    check(&lower, &beside, &["p/q"], &["p", "p/x"]);
    let chmod = Entry { meta: Meta { mode: 0o700, ..later(dir()).meta }, ..dir() };
    check(&lower, &[("p", chmod), ("p/q", dir())], &["p/q"], &["p"]);
}
