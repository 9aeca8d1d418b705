//! One ignore pattern: like a path pattern, and `**` for any number of folders.

use crate::pattern::{Class, character, class, has_wildcard};

/// A pattern of an ignore file, compiled.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    form: Form,
    /// The names before the first wildcard: nothing outside them can match.
    fixed: Vec<Vec<u8>>,
    /// There is a wildcard after them.
    open: bool,
}

#[derive(Clone, Debug)]
enum Form {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug)]
enum Part {
    Byte(u8),
    /// One character but `/`.
    Any,
    /// Any number of characters but `/`.
    Star,
    /// Stands before [`Part::Folders`], which may be left out.
    MaybeFolders,
    /// `**/`: anything that ends with a `/`.
    Folders,
    /// `**` at the end: anything.
    Rest,
    Class(Class),
}

impl Glob {
    /// Compiles a pattern that [`Pattern::parse`](crate::pattern::Pattern::parse) has accepted.
    pub(super) fn compile(pattern: &[u8]) -> Glob {
        let names: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').collect();
        let plain = |name: &&&[u8]| !has_wildcard(name) && !name.contains(&b'\\');
        let fixed: Vec<Vec<u8>> =
            names.iter().take_while(plain).map(|name| name.to_vec()).collect();
        let open = fixed.len() < names.len();
        Glob { form: form(pattern), fixed, open }
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.form {
            Form::Exact(exact) => path == exact,
            Form::Prefix(prefix) => path.starts_with(prefix),
            Form::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|rest| path == rest)
            }
            Form::Parts(parts) => fits(parts, path),
        }
    }

    /// Whether something below a folder may match; in doubt yes.
    pub(super) fn may_match_below(&self, folder: &[u8]) -> bool {
        let mut names = folder.split(|byte| *byte == b'/');
        for fixed in &self.fixed {
            match names.next() {
                Some(name) if name == fixed => {}
                Some(_) => return false,
                None => return true,
            }
        }
        self.open
    }
}

fn form(pattern: &[u8]) -> Form {
    let plain =
        |bytes: &[u8]| !has_wildcard(bytes) && !bytes.contains(&b'\\') && !bytes.contains(&b']');
    if plain(pattern) {
        return Form::Exact(pattern.to_vec());
    }
    if let Some(suffix) = pattern.strip_prefix(b"**")
        && plain(suffix)
    {
        return Form::Suffix(suffix.to_vec());
    }
    if let Some(prefix) = pattern.strip_suffix(b"**")
        && plain(prefix)
    {
        return Form::Prefix(prefix.to_vec());
    }
    Form::Parts(parts(pattern))
}

fn parts(pattern: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let part = match byte {
            b'*' => match rest.strip_prefix(b"*") {
                Some(after) => {
                    rest = after.strip_prefix(b"/").unwrap_or(after);
                    if rest.is_empty() {
                        Part::Rest
                    } else {
                        parts.push(Part::MaybeFolders);
                        Part::Folders
                    }
                }
                None => Part::Star,
            },
            b'?' => Part::Any,
            b'[' => {
                let mut inside = rest;
                match class(&mut inside) {
                    Some(class) => {
                        rest = inside;
                        Part::Class(class)
                    }
                    None => Part::Byte(b'['),
                }
            }
            b'\\' => match rest.split_first() {
                Some((byte, tail)) => {
                    rest = tail;
                    Part::Byte(*byte)
                }
                None => Part::Byte(b'\\'),
            },
            byte => Part::Byte(*byte),
        };
        parts.push(part);
    }
    parts
}

/// Walks all states at once: no pattern makes it slow.
fn fits(parts: &[Part], path: &[u8]) -> bool {
    let mut states = vec![false; parts.len() + 1];
    if let Some(first) = states.first_mut() {
        *first = true;
    }
    let mut rest = path;
    let mut at_name = true;
    loop {
        skip_empty(parts, &mut states, at_name);
        if rest.is_empty() {
            return states.last().copied().unwrap_or(false);
        }
        let (letter, after) = character(rest);
        // A byte of a literal may be part of a longer character: literals go byte by byte, so the whole walk does,
        // and what stands for a character takes its later bytes along.
        let byte = rest.first().copied().unwrap_or_default();
        let width = rest.len() - after.len();
        let mut next = vec![false; parts.len() + 1];
        for (place, part) in parts.iter().enumerate() {
            if !states.get(place).copied().unwrap_or(false) {
                continue;
            }
            let mut go = |to: usize| {
                if let Some(slot) = next.get_mut(to) {
                    *slot = true;
                }
            };
            match part {
                Part::Byte(want) if width == 1 && *want == byte => go(place + 1),
                Part::Byte(_) if width > 1 => {
                    if let Some(end) = literal(parts, place, rest, width) {
                        go(end);
                    }
                }
                Part::Any if byte != b'/' => go(place + 1),
                Part::Star if byte != b'/' => go(place),
                Part::Class(class) if class.holds(letter) => go(place + 1),
                Part::Folders | Part::Rest => go(place),
                Part::Byte(_) | Part::Any | Part::Star | Part::Class(_) | Part::MaybeFolders => {}
            }
        }
        states = next;
        at_name = byte == b'/';
        rest = after;
    }
}

/// Where the literal bytes of one wide character end, if they all fit.
fn literal(parts: &[Part], place: usize, rest: &[u8], width: usize) -> Option<usize> {
    let wanted = parts.get(place..place + width)?;
    let same = |(part, byte): (&Part, &u8)| matches!(part, Part::Byte(want) if want == byte);
    wanted.iter().zip(rest).all(same).then_some(place + width)
}

/// Lets states pass the parts that may stand for nothing.
fn skip_empty(parts: &[Part], states: &mut [bool], at_name: bool) {
    for (place, part) in parts.iter().enumerate() {
        let passes = match part {
            Part::Star | Part::Rest => 1..2,
            Part::MaybeFolders => 1..3,
            Part::Folders if at_name => 1..2,
            Part::Folders | Part::Byte(_) | Part::Any | Part::Class(_) => 1..1,
        };
        if states.get(place).copied().unwrap_or(false) {
            let ahead = place + passes.start..place + passes.end;
            states.get_mut(ahead).unwrap_or_default().fill(true);
        }
    }
}
