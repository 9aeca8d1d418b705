//! The cases of a page.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::{Compression, write::GzEncoder};

use crate::files::{ContextEntry, EntryKind};
use crate::layout::LayerTar;
use crate::reference::expect::{Expectation, quoted};
use crate::reference::page::{Part, pieces};

/// What begins the paragraph with the reason why a case does not do as its sentence says.
const DIFFERS: &str = "BuildKit differs:";

/// What is run where a case has no `console`.
const CONSOLE: &str = "$ dcbuild build .\n";

/// One sentence of the reference, and what it says of one Dockerfile.
#[derive(Clone, Debug)]
pub struct Case {
    /// The heading in the reference.
    pub heading: String,
    /// The sentence as the reference has it.
    pub sentence: String,
    /// What this case shows of it.
    pub name: String,
    /// Where its expectations stand.
    pub line: usize,
    /// Why it does not do what the sentence says.
    pub differs: Option<String>,
    /// The Dockerfile; then perhaps another that means the same.
    pub dockerfiles: Vec<Dockerfile>,
    /// What is around it.
    pub files: Vec<ContextEntry>,
    /// Lines of a shell.
    pub console: String,
    /// What comes of it.
    pub expectations: Vec<Expectation>,
}

impl Case {
    /// Whether this stands in a Dockerfile of it or in its console.
    pub fn asks_for(&self, word: &str) -> bool {
        self.console.contains(word) || self.dockerfiles.iter().any(|it| it.text.contains(word))
    }
}

/// A Dockerfile and where it lies.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// Its place in the context.
    pub path: String,
    /// Its bytes.
    pub text: String,
}

impl Dockerfile {
    fn read(words: &str, body: String) -> Dockerfile {
        let mut file = Dockerfile { path: "Dockerfile".into(), text: body };
        for word in words.split_whitespace() {
            match word {
                "crlf" => file.text = file.text.replace('\n', "\r\n"),
                "bom" => file.text.insert(0, '\u{feff}'),
                "same" => {}
                path => path.clone_into(&mut file.path),
            }
        }
        file
    }
}

/// The folder of the pages.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

/// The names of all pages.
pub fn pages() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = files.map(name).filter(|name| name != "README").collect();
    names.sort();
    names
}

/// The cases of a page.
pub fn read(page: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join(format!("{page}.md"))).unwrap();
    let mut reader = Reader::default();
    for piece in pieces(&text) {
        reader.take(page, piece.line, piece.part);
    }
    assert!(reader.draft.is_empty(), "{page}.md: the last case has no `expect`");
    reader.cases
}

#[derive(Default)]
struct Reader {
    heading: String,
    sentence: String,
    /// What every case of the page has around it.
    files: Vec<ContextEntry>,
    draft: Draft,
    cases: Vec<Case>,
}

#[derive(Default)]
struct Draft {
    name: Option<String>,
    differs: Option<String>,
    files: Option<Vec<ContextEntry>>,
    console: Option<String>,
    dockerfiles: Vec<Dockerfile>,
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.files.is_none() && self.console.is_none() && self.dockerfiles.is_empty()
    }
}

impl Reader {
    fn take(&mut self, page: &str, line: usize, part: Part) {
        match part {
            Part::Heading(text) => {
                self.sentence.clear();
                self.heading = text;
            }
            Part::Quote(text) => {
                self.sentence = text;
                self.draft.name = None;
            }
            Part::Prose(text) => match text.strip_prefix(DIFFERS) {
                Some(reason) => self.draft.differs = Some(reason.trim().to_owned()),
                None => self.draft.name = Some(text.trim_end_matches([':', '.']).to_owned()),
            },
            Part::Block { words, body } => {
                let (kind, words) = words.split_once(' ').unwrap_or((&words, ""));
                match kind {
                    "files" => self.draft.files = Some(body.lines().map(entry).collect()),
                    "console" => self.draft.console = Some(body),
                    "dockerfile" => self.draft.dockerfiles.push(Dockerfile::read(words, body)),
                    "expect" => self.close(page, line, &body),
                    other => panic!("{page}.md:{line}: there is no block '{other}'"),
                }
                if self.sentence.is_empty() && kind == "files" {
                    self.files = self.draft.files.take().unwrap_or_default();
                }
            }
        }
    }

    fn close(&mut self, page: &str, line: usize, body: &str) {
        let draft = std::mem::take(&mut self.draft);
        let place = format!("{page}.md:{line}");
        assert!(!self.sentence.is_empty(), "{place}: the case quotes nothing");
        let name = draft.name.unwrap_or_else(|| panic!("{place}: the case has no name"));
        let twin =
            self.cases.iter().find(|case| case.sentence == self.sentence && case.name == name);
        assert!(twin.is_none(), "{place}: the sentence has a case '{name}' already");
        assert!(!body.is_empty(), "{place}: nothing is expected");
        let lines = body.lines().filter(|line| !line.is_empty());
        let read = |line: &str| {
            Expectation::read(line).unwrap_or_else(|| panic!("{place}: what is '{line}'?"))
        };
        self.cases.push(Case {
            heading: self.heading.clone(),
            sentence: self.sentence.clone(),
            name,
            line,
            differs: draft.differs,
            dockerfiles: draft.dockerfiles,
            files: draft.files.unwrap_or_else(|| self.files.clone()),
            console: draft.console.unwrap_or_else(|| CONSOLE.to_owned()),
            expectations: lines.map(read).collect(),
        });
    }
}

/// A line of `files`: `PATH [MODE] [UID:GID] [-> TARGET] [= TEXT]`, where a folder's path ends in a slash and a file holds
/// its own path if nothing else is said; `PATH holds MEMBER...` is an archive, compressed as its name says.
fn entry(line: &str) -> ContextEntry {
    let (path, mut rest) = quoted(line);
    let mut entry = ContextEntry::file(path.trim_end_matches('/'), &path);
    if path.ends_with('/') {
        entry.kind = EntryKind::Dir;
    }
    while !rest.is_empty() {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "=" => {
                entry.content = Some(quoted_whole(after));
                return entry;
            }
            "->" => {
                entry.kind = EntryKind::Symlink;
                entry.link = Some(after.to_owned());
                return entry;
            }
            "holds" => {
                entry.content_hex = Some(hex::encode(archive(&path, after)));
                return entry;
            }
            owner if owner.contains(':') => {
                let (uid, gid) = owner.split_once(':').unwrap();
                entry.uid = Some(uid.parse().unwrap());
                entry.gid = Some(gid.parse().unwrap());
            }
            mode => entry.mode = Some(mode.to_owned()),
        }
        rest = after;
    }
    entry
}

/// A text as it is, or in double quotes with the escapes of JSON.
fn quoted_whole(text: &str) -> String {
    if text.starts_with('"') { serde_json::from_str(text).unwrap() } else { text.to_owned() }
}

/// A tar of files that hold their own paths.
fn archive(name: &str, members: &str) -> Vec<u8> {
    let members = members.split_whitespace();
    let tar = members.fold(LayerTar::default(), |tar, path| tar.file(path, 0o640, path.as_bytes()));
    compressed(name, tar.finish())
}

/// Bytes as a file of this name has them.
pub fn compressed(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match name.rsplit('.').next().unwrap_or_default() {
        "gz" => {
            let mut writer = GzEncoder::new(Vec::new(), Compression::default());
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes.as_slice(), 3).unwrap(),
        "bz2" => piped("bzip2", &bytes),
        "xz" => piped("xz", &bytes),
        _ => bytes,
    }
}

fn piped(program: &str, bytes: &[u8]) -> Vec<u8> {
    let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}: cargo xtask setup"));
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(written: &str) -> String {
        let entry = entry(written);
        let link = entry.link.unwrap_or_default();
        let owner = entry.uid.zip(entry.gid);
        format!(
            "{} {:?} {:?} {owner:?} {link} {:?}",
            entry.path, entry.kind, entry.mode, entry.content
        )
    }

    #[test]
    fn files_are_lines() {
        assert_eq!(shown("a/b"), r#"a/b File None None  Some("a/b")"#);
        assert_eq!(shown("d/ 700 1:2"), r#"d Dir Some("700") Some((1, 2))  Some("d/")"#);
        assert_eq!(shown("l -> a b"), r#"l Symlink None None a b Some("l")"#);
        assert_eq!(shown(r#""a b" 755 = "x\n""#), r#"a b File Some("755") None  Some("x\n")"#);
        assert_eq!(shown("a = = x"), r#"a File None None  Some("= x")"#);
    }

    #[test]
    fn archives_are_compressed_as_their_names_say() {
        let begin = |name: &str| hex::encode(&archive(name, "a")[..3]);
        let found = ["a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "a.tar"].map(begin);
        assert_eq!(found, ["1f8b08", "425a68", "fd377a", "28b52f", "610000"]);
    }
}
