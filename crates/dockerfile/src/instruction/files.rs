//! COPY and ADD.

use crate::ast::{AddInstruction, CopyInstruction, InlineFile, Paths, Word};
use crate::error::ParseErrorKind;
use crate::flags::{FlagKind, Known};
use crate::heredoc;
use crate::instruction::Parsed;
use crate::node::Node;
use crate::words::to_words;

const COPY_FLAGS: Known = &[
    ("chmod", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("exclude", FlagKind::Texts),
    ("from", FlagKind::Text),
    ("link", FlagKind::Bool),
    ("parents", FlagKind::Bool),
];

const ADD_FLAGS: Known = &[
    ("checksum", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("exclude", FlagKind::Texts),
    ("keep-git-dir", FlagKind::Bool),
    ("link", FlagKind::Bool),
    ("unpack", FlagKind::Bool),
];

pub(super) fn copy(node: &Node) -> Parsed<CopyInstruction> {
    let (dest, sources) = split(node, "COPY")?;
    let flags = node.checked_flags(COPY_FLAGS)?;
    Ok(CopyInstruction {
        paths: paths(node, "COPY", dest, sources)?,
        from: flags.filled("from"),
        chown: flags.filled("chown").map(Word),
        chmod: flags.filled("chmod").map(Word),
        exclude: to_words(flags.texts("exclude")),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
    })
}

pub(super) fn add(node: &Node) -> Parsed<AddInstruction> {
    let (dest, sources) = split(node, "ADD")?;
    let flags = node.checked_flags(ADD_FLAGS)?;
    Ok(AddInstruction {
        paths: paths(node, "ADD", dest, sources)?,
        chown: flags.filled("chown").map(Word),
        chmod: flags.filled("chmod").map(Word),
        checksum: flags.filled("checksum").map(Word),
        exclude: to_words(flags.texts("exclude")),
        link: flags.bool("link").unwrap_or(false),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    })
}

fn split<'a>(node: &'a Node, name: &'static str) -> Parsed<(&'a String, &'a [String])> {
    node.words()
        .split_last()
        .filter(|(_, sources)| !sources.is_empty())
        .ok_or_else(|| node.refuse(ParseErrorKind::NoDestination(name)))
}

fn paths(node: &Node, name: &'static str, dest: &str, sources: &[String]) -> Parsed<Paths> {
    let opening = |word: &str| heredoc::parse_word(word).ok().flatten();
    if opening(dest).is_some() {
        return Err(node.refuse(ParseErrorKind::HeredocDestination(name)));
    }
    let mut paths = Paths { sources: Vec::new(), inline: Vec::new(), dest: dest.into() };
    for source in sources {
        let Some(opening) = opening(source) else {
            paths.sources.push(source.as_str().into());
            continue;
        };
        // In the JSON form no body is read, and the file is empty; the last of a name wins.
        let body = node.heredocs.iter().rev().find(|heredoc| heredoc.name == opening.name);
        paths.inline.push(InlineFile {
            content: body.map(heredoc::Heredoc::chomped).unwrap_or_default(),
            name: opening.name,
            expansion: opening.expansion,
        });
    }
    Ok(paths)
}
