//! The few commands with which the cases prepare a tree.

use dcbuild_model::TreePath;
use dcbuild_tree::{Chmod, Entry, Kind, LastLink, LinkGroup, Tree};

use crate::case::{entry, file, path};
use crate::run::Stop;

/// The time of everything that a RUN makes; no case asks for it.
const NOW: i64 = 1_900_000_000;

pub(crate) fn run(tree: &mut Tree, commands: &str) -> Result<(), Stop> {
    let unsupported = || Stop::Unsupported(format!("RUN {commands}"));
    for command in commands.split(" && ") {
        if command.contains([';', '|', '$', '`', '"', '(', '2', '*', '{', '='])
            && !command.starts_with("chown")
        {
            return Err(unsupported());
        }
        let command = command.replace('\'', "");
        let (command, into) = match command.split_once(" > ") {
            Some((command, into)) => (command.to_owned(), Some(into.trim().to_owned())),
            None => (command, None),
        };
        let words: Vec<&str> = command.split_whitespace().collect();
        match (words.as_slice(), into) {
            (["echo", rest @ ..], Some(into)) => {
                put(tree, &into, file(0o644, format!("{}\n", rest.join(" ")).as_bytes(), NOW));
            }
            (["touch", names @ ..], None) if !names[0].starts_with('-') => {
                for name in names {
                    put(tree, name, file(0o644, b"", NOW));
                }
            }
            (["mkdir", rest @ ..], None) => mkdir(tree, rest).ok_or_else(unsupported)?,
            (["ln", "-s", to, name], None) => {
                put(tree, name, entry(0o777, NOW, Kind::Symlink(to.as_bytes().to_vec())));
            }
            (["ln", from, name], None) => {
                let mut linked = tree.get(&path(from)).cloned().ok_or_else(unsupported)?;
                let group = LinkGroup(tree.len().try_into().unwrap());
                linked.links.get_or_insert(group);
                put(tree, from, linked.clone());
                put(tree, name, linked);
            }
            (["mkfifo", "-m", mode, name], None) => {
                put(tree, name, entry(u32::from_str_radix(mode, 8).unwrap(), NOW, Kind::Fifo));
            }
            (["mknod", name, "c", major, minor], None) => {
                let kind = Kind::CharDevice {
                    major: major.parse().unwrap(),
                    minor: minor.parse().unwrap(),
                };
                put(tree, name, entry(0o644, NOW, kind));
            }
            (["rm", name], None) if !name.starts_with('-') => {
                tree.remove(&path(name));
            }
            (["chmod", mode, names @ ..], None) => {
                let chmod = Chmod::parse(mode).unwrap();
                change(tree, names, |entry| {
                    entry.meta.mode = chmod.apply(entry.meta.mode, entry.is_dir());
                });
            }
            (["chown", owner, names @ ..], None) => {
                let (uid, gid) = owner.split_once(':').ok_or_else(unsupported)?;
                let (uid, gid) = (uid.parse().unwrap(), gid.parse().unwrap());
                change(tree, names, |entry| (entry.meta.uid, entry.meta.gid) = (uid, gid));
            }
            (["true"], None) => {}
            _ => return Err(unsupported()),
        }
    }
    Ok(())
}

fn real(tree: &Tree, name: &str) -> TreePath {
    tree.resolve(name.as_bytes(), LastLink::Keep).unwrap()
}

fn put(tree: &mut Tree, name: &str, entry: Entry) {
    tree.insert(&real(tree, name), entry).unwrap();
}

fn change(tree: &mut Tree, names: &[&str], mut each: impl FnMut(&mut Entry)) {
    for name in names {
        let path = real(tree, name);
        let mut entry = tree.get(&path).unwrap().clone();
        each(&mut entry);
        tree.insert(&path, entry).unwrap();
    }
}

fn mkdir(tree: &mut Tree, words: &[&str]) -> Option<()> {
    let (mut mode, mut words) = (0o755, words);
    loop {
        words = match words {
            ["-p", rest @ ..] => rest,
            ["-m", text, rest @ ..] => {
                mode = u32::from_str_radix(text, 8).ok()?;
                rest
            }
            _ => break,
        };
    }
    for name in words {
        let whole = real(tree, name);
        let mut here = TreePath::root();
        for name in whole.names() {
            here = here.join(name);
            if tree.get(&here).is_none() {
                let mode = if here == whole { mode } else { 0o755 };
                tree.insert(&here, entry(mode, NOW, Kind::Dir)).ok()?;
            }
        }
    }
    Some(())
}
