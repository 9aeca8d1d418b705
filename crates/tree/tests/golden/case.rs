//! One recorded case: its context as a tree, and what is expected.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dcbuild_model::{ContentDigest, Digest, TreePath, UnixTime};
use dcbuild_tree::ignore::Seen;
use dcbuild_tree::{
    Entry, FileBody, Ignore, IgnoreError, Kind, LinkGroup, Meta, Origin, Tree, Xattrs,
};
use serde_json::Value;

use crate::run::Stop;

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dockerfile: String,
    value: Value,
    /// The bytes of the context's files, to look into archives.
    pub(crate) contents: BTreeMap<TreePath, Vec<u8>>,
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes()).unwrap()
}

pub(crate) fn file(mode: u32, bytes: &[u8], secs: i64) -> Entry {
    let body = FileBody {
        content: ContentDigest(Digest::of(bytes)),
        size: bytes.len().try_into().unwrap(),
        origin: Origin::Inline(bytes.into()),
    };
    entry(mode, secs, Kind::File(body))
}

pub(crate) fn entry(mode: u32, secs: i64, kind: Kind) -> Entry {
    let mtime = UnixTime { secs, nanos: 0 };
    Entry {
        meta: Meta { mode, uid: 0, gid: 0, mtime, xattrs: Xattrs::default() },
        kind,
        links: None,
    }
}

pub(crate) fn base() -> Tree {
    let mut tree = Tree::scratch();
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("proc", 0o755),
        ("sys", 0o755),
        ("dev", 0o755),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("var", 0o755),
    ] {
        tree.insert(&path(name), entry(mode, 0, Kind::Dir)).unwrap();
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = b"root:x:0:\nnogroup:x:65534:\n";
    tree.insert(&path("etc/passwd"), file(0o644, passwd, 0)).unwrap();
    tree.insert(&path("etc/group"), file(0o644, group, 0)).unwrap();
    tree
}

impl Case {
    pub(crate) fn read(line: &str) -> Case {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let (name, dockerfile) = (text("name"), text("dockerfile"));
        Case { name, dockerfile, value, contents: BTreeMap::new() }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(|value| !value.is_null())
    }

    fn whole_context(&mut self) -> Tree {
        let mut entries: BTreeMap<TreePath, Entry> = BTreeMap::new();
        let name = self.value["filename"].as_str().unwrap_or("Dockerfile").to_owned();
        let mut files = vec![(name, self.dockerfile.clone().into_bytes())];
        if let Some(ignore) = self.value["dockerignore"].as_str() {
            files.push((".dockerignore".to_owned(), ignore.as_bytes().to_vec()));
        }
        for (name, bytes) in files {
            entries.insert(path(&name), file(0o644, &bytes, 1_577_836_800));
            self.contents.insert(path(&name), bytes);
        }
        let listed = self.value["context"].as_array().cloned().unwrap_or_default();
        for (place, item) in listed.iter().enumerate() {
            let here = path(item["path"].as_str().unwrap());
            let is_dir = item["type"] == "dir";
            let given = item["mode"].as_str().map(|text| u32::from_str_radix(text, 8).unwrap());
            let permissions = given.unwrap_or(if is_dir { 0o755 } else { 0o644 });
            let secs = item["mtime"].as_i64().unwrap_or(1_577_836_800);
            let made = match item["type"].as_str().unwrap_or("file") {
                "dir" => entry(permissions, secs, Kind::Dir),
                "symlink" => {
                    entry(0o777, secs, Kind::Symlink(item["link"].as_str().unwrap().into()))
                }
                "fifo" => entry(permissions, secs, Kind::Fifo),
                "hardlink" => {
                    let first = entries.get_mut(&path(item["link"].as_str().unwrap())).unwrap();
                    first.links.get_or_insert(LinkGroup(place.try_into().unwrap()));
                    first.clone()
                }
                _ => {
                    let bytes = match item["content_hex"].as_str() {
                        Some(text) => hex::decode(text).unwrap(),
                        None => item["content"].as_str().unwrap_or_default().as_bytes().to_vec(),
                    };
                    let whole = file(permissions, &bytes, secs);
                    self.contents.insert(here.clone(), bytes);
                    whole
                }
            };
            entries.insert(here, made);
        }
        for here in entries.keys().cloned().collect::<Vec<_>>() {
            let mut above = here.parent();
            while let Some(folder) = above {
                above = folder.parent();
                if !folder.is_root() {
                    let made = || entry(0o755, 1_577_836_800, Kind::Dir);
                    entries.entry(folder).or_insert_with(made);
                }
            }
        }
        Tree::from_entries(entries).unwrap()
    }

    pub(crate) fn context(&mut self) -> Result<Tree, IgnoreError> {
        let whole = self.whole_context();
        let filename = self.value["filename"].as_str().unwrap_or("Dockerfile");
        let own = path(&format!("{filename}.dockerignore"));
        let ignore = self.contents.get(&own).or_else(|| self.contents.get(&path(".dockerignore")));
        let ignore = Ignore::parse(ignore.map_or(b"", Vec::as_slice))?;
        let mut kept: BTreeSet<TreePath> = BTreeSet::new();
        let mut seen: HashMap<TreePath, Seen> = HashMap::new();
        let mut skipped: Option<TreePath> = None;
        for (here, entry) in whole.walk() {
            if skipped.as_ref().is_some_and(|top| here.is_within(top)) {
                assert!(ignore.matches(here.as_bytes()), "{here} was skipped");
                continue;
            }
            let above = here.parent().and_then(|folder| seen.get(&folder).cloned());
            let (out, now) = ignore.matches_below(here.as_bytes(), &above.unwrap_or_default());
            if out && entry.is_dir() && ignore.skips_whole(here.as_bytes()) {
                skipped = Some(here.clone());
            }
            seen.insert(here.clone(), now);
            if !out {
                let mut keep = Some(here);
                while let Some(path) = keep {
                    keep = path.parent();
                    kept.insert(path);
                }
            }
        }
        let entries = whole.walk().filter(|(path, _)| kept.contains(path));
        Ok(Tree::from_entries(entries.map(|(path, entry)| (path, entry.clone()))).unwrap())
    }

    /// What is not as expected; none where all is.
    pub(crate) fn difference(&self, outcome: Result<(Tree, Tree), Stop>) -> Option<String> {
        let expect = &self.value["expect"];
        let (tree, base) = match (outcome, expect["error"].as_str()) {
            (Err(Stop::Failed(error)), Some(want)) => {
                // The words may be better, but they must hold BuildKit's reason.
                let tail = want.rsplit("failed to solve: ").next().unwrap_or(want);
                let tail = tail.rsplit("of ref ID: ").next().unwrap_or(tail).replace("ROOT/", "/");
                let tail = tail.rsplit("]: ").next().unwrap_or(&tail).to_owned();
                let same = error.contains(&tail) || known_words(&tail, &error);
                return (!same).then(|| format!("  error: {error}\n  want:  {tail}"));
            }
            (Err(Stop::Failed(error)), None) => return Some(format!("  failed: {error}")),
            (Err(Stop::Unsupported(_)), _) => return None,
            (Ok(_), Some(error)) => return Some(format!("  should fail: {error}")),
            (Ok(trees), None) => trees,
        };
        let want: BTreeSet<String> = expect["tree"].as_array().unwrap().iter().map(line).collect();
        let mtimes = self.value["mtimes"].as_array().cloned().unwrap_or_default();
        let timed = |item: &&Value| !item[7].is_null();
        let timed = expect["tree"].as_array().unwrap().iter().filter(timed);
        let timed: BTreeSet<&str> = timed.map(|item| item[0].as_str().unwrap()).collect();
        let shows = |path: &str, secs: i64| {
            timed.contains(path) || mtimes.iter().any(|want| want.as_i64() == Some(secs))
        };
        let got = listing(&tree, &base, shows);
        let removed: BTreeSet<String> = base
            .walk()
            .filter(|(path, _)| tree.get(path).is_none())
            .map(|(path, _)| format!("removed {path}"))
            .collect();
        let gone = expect["removed"].as_array().cloned().unwrap_or_default();
        let gone = gone.iter().map(|path| format!("removed /{}", path.as_str().unwrap())).collect();
        let (got, want): (BTreeSet<String>, BTreeSet<String>) =
            (got.union(&removed).cloned().collect(), want.union(&gone).cloned().collect());
        let missing = want.difference(&got).map(|line| format!("  - {line}\n"));
        let extra = got.difference(&want).map(|line| format!("  + {line}\n"));
        let text: String = missing.chain(extra).collect();
        (!text.is_empty()).then_some(text)
    }
}

/// Errors whose words are ours on purpose.
fn known_words(want: &str, error: &str) -> bool {
    [
        ("invalid user index: -1", "there is no /etc/passwd in an empty stage"),
        ("lstat /x: no such file or directory", "\"/x\": not found"),
        ("\"/\": not found", "this source names nothing below it"),
    ]
    .iter()
    .any(|(theirs, ours)| want == *theirs && error.contains(ours))
}

fn line(value: &Value) -> String {
    let text = |place: usize| match &value[place] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (0..8).map(text).collect::<Vec<_>>().join(" ")
}

fn listing(after: &Tree, base: &Tree, shows: impl Fn(&str, i64) -> bool) -> BTreeSet<String> {
    let mut firsts: HashMap<LinkGroup, TreePath> = HashMap::new();
    let mut lines = BTreeSet::new();
    for (path, entry) in after.walk() {
        let untimed = |entry: &Entry| {
            let meta = Meta { mtime: UnixTime::default(), ..entry.meta.clone() };
            Entry { meta, kind: entry.kind.clone(), links: None }
        };
        let first = entry.links.map(|group| firsts.entry(group).or_insert(path.clone()).clone());
        if base.get(&path).is_some_and(|before| untimed(before) == untimed(entry)) {
            continue;
        }
        let first = first.filter(|first| *first != path);
        let (kind, link, hash) = match (&entry.kind, first) {
            (Kind::File(body), Some(first)) => {
                ("h", first.to_string()[1..].to_owned(), body.content.0.hex()[..16].to_owned())
            }
            (Kind::Dir, _) => ("d", "-".to_owned(), "-".to_owned()),
            (Kind::File(body), _) => ("f", "-".to_owned(), body.content.0.hex()[..16].to_owned()),
            (Kind::Symlink(to), _) => ("l", String::from_utf8(to.clone()).unwrap(), "-".to_owned()),
            (Kind::Fifo, _) => ("p", "-".to_owned(), "-".to_owned()),
            (Kind::CharDevice { major, minor }, _) => {
                ("c", format!("{major},{minor}"), "-".to_owned())
            }
            _ => ("?", "-".to_owned(), "-".to_owned()),
        };
        let meta = &entry.meta;
        let secs = meta.mtime.secs;
        let path = path.to_string()[1..].to_owned();
        let mtime = if shows(&path, secs) { secs.to_string() } else { "-".to_owned() };
        lines.insert(format!(
            "{path} {kind} {:04o} {} {} {link} {hash} {mtime}",
            meta.mode, meta.uid, meta.gid
        ));
    }
    lines
}
