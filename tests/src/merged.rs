//! A tree as its layers make it, laid one upon the other.

use std::collections::BTreeMap;
use std::io::Read;

use sha2::{Digest, Sha256};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// How large a file may be whose text is kept.
const TEXT_BYTES_MAX: usize = 4096;

/// A path cut at its slashes, so that a folder sorts right before what is in it.
type Key = Vec<String>;

/// What lies at one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// f, d, l, p, c or b.
    pub kind: char,
    /// Rights, with the special bits.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// Where a symbolic link leads, or a device's numbers.
    pub link: Option<String>,
    /// The hash of a file's bytes, in hex.
    pub hash: Option<String>,
    /// Whole seconds.
    pub mtime: i64,
    /// A small file's bytes.
    pub text: Option<Vec<u8>>,
    /// Names of one file share a number.
    pub links: Option<u64>,
}

/// A tree of files.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Merged {
    nodes: BTreeMap<Key, Node>,
    groups: u64,
}

fn key(path: &str) -> Key {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

impl Merged {
    /// What lies at the path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&key(path))
    }

    /// The text of a small file.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.get(path)?.text.clone()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All paths in order, folders before what is in them; the root is not among them.
    pub fn walk(&self) -> impl Iterator<Item = (String, &Node)> {
        self.nodes.iter().map(|(key, node)| (key.join("/"), node))
    }

    fn remove_below(&mut self, key: &Key) {
        self.nodes.retain(|other, _| other.len() <= key.len() || !other.starts_with(key));
    }

    fn remove(&mut self, key: &Key) {
        self.remove_below(key);
        self.nodes.remove(key);
    }

    /// Lays a layer, an uncompressed tar, upon the tree.
    pub fn apply(&mut self, layer: &[u8]) {
        // Whiteouts speak of the layers below only, wherever they stand in the tar.
        for entry in tar::Archive::new(layer).entries().unwrap() {
            let path = key(&String::from_utf8_lossy(&entry.unwrap().path_bytes()));
            let Some((name, folder)) = path.split_last() else { continue };
            if name == OPAQUE {
                self.remove_below(&folder.to_vec());
            } else if let Some(gone) = name.strip_prefix(WHITEOUT) {
                self.remove(&folder.iter().cloned().chain([gone.to_owned()]).collect());
            }
        }
        for entry in tar::Archive::new(layer).entries().unwrap() {
            let entry = entry.unwrap();
            let path = key(&String::from_utf8_lossy(&entry.path_bytes()));
            if path.last().is_some_and(|name| !name.starts_with(WHITEOUT)) {
                self.add(path, entry);
            }
        }
    }

    fn add(&mut self, path: Key, mut entry: tar::Entry<'_, &[u8]>) {
        let header = entry.header().clone();
        let link = entry.link_name_bytes().map(|it| String::from_utf8_lossy(&it).into_owned());
        if header.entry_type() == tar::EntryType::Link {
            let node = self.link_to(&key(&link.unwrap_or_default()));
            self.remove(&path);
            self.nodes.insert(path, node);
            return;
        }
        let kind = kind(header.entry_type());
        let device = || {
            let number = |it: std::io::Result<Option<u32>>| it.unwrap().unwrap_or_default();
            format!("{},{}", number(header.device_major()), number(header.device_minor()))
        };
        let mtime = pax_mtime(&mut entry).or(i64::try_from(header.mtime().unwrap()).ok());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let is_file = kind == 'f';
        let node = Node {
            kind,
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            link: link.filter(|_| kind == 'l').or_else(|| "cb".contains(kind).then(device)),
            hash: is_file.then(|| hex::encode(Sha256::digest(&bytes))),
            mtime: mtime.unwrap_or_default(),
            text: (is_file && bytes.len() <= TEXT_BYTES_MAX).then_some(bytes),
            links: None,
        };
        if kind == 'd' && self.nodes.get(&path).is_some_and(|old| old.kind == 'd') {
            self.nodes.insert(path, node);
            return;
        }
        self.remove(&path);
        self.nodes.insert(path, node);
    }

    fn link_to(&mut self, target: &Key) -> Node {
        self.groups += 1;
        let first = self.nodes.get_mut(target);
        let first =
            first.unwrap_or_else(|| panic!("a hard link to {target:?}, which is not there"));
        first.links.get_or_insert(self.groups);
        first.clone()
    }
}

/// The whole seconds of a time that the header has no room for, such as one before 1970; downwards, as the kernel counts.
fn pax_mtime(entry: &mut tar::Entry<'_, &[u8]>) -> Option<i64> {
    let records = entry.pax_extensions().unwrap()?;
    let mut values = records.flatten().filter(|it| it.key() == Ok("mtime"));
    let text = values.next()?.value().unwrap().to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let below = whole.starts_with('-') && part.contains(|digit| digit != '0');
    Some(whole.parse::<i64>().unwrap() - i64::from(below))
}

fn kind(kind: tar::EntryType) -> char {
    match kind {
        tar::EntryType::Directory => 'd',
        tar::EntryType::Symlink => 'l',
        tar::EntryType::Fifo => 'p',
        tar::EntryType::Char => 'c',
        tar::EntryType::Block => 'b',
        _ => 'f',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LayerTar;

    fn show(layers: Vec<LayerTar>) -> String {
        let mut tree = Merged::default();
        for layer in layers {
            tree.apply(&layer.finish());
        }
        let nodes = tree.walk().map(|(path, node)| format!("{path}:{} ", node.kind));
        nodes.collect::<Vec<_>>().concat()
    }

    fn lower() -> LayerTar {
        LayerTar::default().dir("d", 0o755).file("d/a", 0o644, b"a").file("d/b", 0o644, b"b")
    }

    #[test]
    fn whiteouts_take_away_what_lies_below_them_only() {
        assert_eq!(show(vec![lower(), LayerTar::default().file("d/.wh.a", 0, b"")]), "d:d d/b:f ");
        let opaque = LayerTar::default().file("d/c", 0o644, b"").file("d/.wh..wh..opq", 0, b"");
        assert_eq!(show(vec![lower(), opaque]), "d:d d/c:f ");
    }

    #[test]
    fn a_folder_keeps_its_content_and_a_file_takes_it_away() {
        assert_eq!(show(vec![lower(), LayerTar::default().dir("d", 0o700)]), "d:d d/a:f d/b:f ");
        assert_eq!(show(vec![lower(), LayerTar::default().file("d", 0o644, b"")]), "d:f ");
    }

    #[test]
    fn names_of_one_file_share_a_number() {
        let mut tree = Merged::default();
        tree.apply(&lower().hard_link("e", "d/a").finish());
        assert_eq!(tree.get("e").unwrap().links, tree.get("/d/a").unwrap().links);
        assert!(tree.get("e").unwrap().links.is_some());
        assert_eq!(tree.text("e").unwrap(), "a");
    }
}
