//! What a command lacked that failed. Line ends of Windows: a shell takes the CR for part of a word, and the kernel for part
//! of a program's name. Programs that the base has not.

use std::io::{self, Read};

use dcbuild_plan::hint::{of_interpreter, of_run};
use dcbuild_plan::op::RunOp;
use dcbuild_tree::{FileBody, Kind, LastLink, Tree};

/// How many words of a command are looked at.
const WORDS_MAX: usize = 64;
/// How much of a script's first line is read.
const FIRST_LINE_BYTES_MAX: u64 = 256;
/// Where programs are looked for when the environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Opens a file of the state that a step began with.
pub(super) type Open<'o> = &'o dyn Fn(&FileBody) -> io::Result<Box<dyn Read + Send>>;

/// What to do where a command failed whose own text, or a script that it names, has such line ends.
pub(super) fn hint(op: &RunOp, code: i32, tree: &Tree, open: Open<'_>) -> Option<String> {
    let in_scripts = op.scripts.iter().any(|script| has_them(&script.content.0));
    if in_scripts || op.argv.iter().any(|text| has_them(text.as_bytes())) {
        return Some(
            "lines of this command end with CR LF, and the shell takes the CR for part of a word: convert the Dockerfile \
             (sed -i 's/\\r$//' Dockerfile)"
                .to_owned(),
        );
    }
    let has = |path: &str| {
        let place = tree.resolve(path.as_bytes(), LastLink::Follow);
        place.is_ok_and(|place| tree.get(&place).is_some_and(|entry| !entry.is_dir()))
    };
    // What shells and the cell say where a program is not found or cannot be run.
    let scripts = matches!(code, 126 | 127).then(|| words(op).take(WORDS_MAX));
    let mut scripts = scripts.into_iter().flatten().filter_map(|word| script(op, word, tree, open));
    let of_script = scripts.find_map(|(script, line)| {
        let name = script.rsplit('/').next().unwrap_or_default();
        if line.ends_with("\r\n") {
            return Some(format!(
                "the first line of '{script}' ends with CR LF, so that the program it names is not found: convert the script \
                 (sed -i 's/\\r$//' {name}; `*.sh text eol=lf` in .gitattributes keeps it so)"
            ));
        }
        let program = line.trim_start_matches("#!").split_whitespace().next()?;
        (!has(program)).then(|| of_interpreter(&script, program, &has))
    });
    of_script.or_else(|| of_run(op, code, &has))
}

fn has_them(text: &[u8]) -> bool {
    text.windows(2).any(|pair| pair == b"\r\n")
}

/// The words of a command that may be programs.
fn words(op: &RunOp) -> impl Iterator<Item = &str> {
    let parts =
        |ch: char| ch.is_whitespace() || matches!(ch, ';' | '&' | '|' | '(' | ')' | '"' | '\'');
    op.argv.iter().flat_map(move |text| text.split(parts)).filter(|word| !word.is_empty())
}

/// The path of the script that a word names, and its first line.
fn script(op: &RunOp, word: &str, tree: &Tree, open: Open<'_>) -> Option<(String, String)> {
    let path = op.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(PATH, |(_, value)| value.as_str());
    let folders: Vec<&str> =
        if word.contains('/') { vec![&op.cwd] } else { path.split(':').collect() };
    folders.into_iter().find_map(|folder| {
        let path = if word.starts_with('/') { word.to_owned() } else { format!("{folder}/{word}") };
        let place = tree.resolve(path.as_bytes(), LastLink::Follow).ok()?;
        let Kind::File(body) = &tree.get(&place)?.kind else { return None };
        let mut start = Vec::new();
        open(body).ok()?.take(FIRST_LINE_BYTES_MAX).read_to_end(&mut start).ok()?;
        let line = start.split_inclusive(|byte| *byte == b'\n').next()?;
        let line = line.starts_with(b"#!").then(|| String::from_utf8_lossy(line).into_owned())?;
        Some((place.to_string(), line))
    })
}

#[cfg(test)]
mod tests {
    use dcbuild_model::{ContentDigest, Digest, TreePath};
    use dcbuild_tree::{Entry, Meta, Origin};

    use super::*;

    const FILES: &[(&str, &str)] = &[
        ("bin", ""),
        ("bin/sh", "a program"),
        ("usr", ""),
        ("usr/bin", ""),
        ("usr/bin/deploy", "#!/bin/sh\r\ntrue\r\n"),
        ("app", ""),
        ("app/run.sh", "#!/bin/bash -e\r\ntrue\r\n"),
        ("app/good.sh", "#!/bin/sh\ntrue\r\n"),
    ];

    fn hinted(argv: &[&str], code: i32) -> Option<String> {
        let mut tree = Tree::scratch();
        for (name, text) in FILES {
            let path = TreePath::clean(name.as_bytes()).unwrap();
            let body = FileBody {
                content: ContentDigest(Digest::of(text.as_bytes())),
                size: text.len().try_into().unwrap(),
                origin: Origin::Inline(text.as_bytes().into()),
            };
            let kind = if text.is_empty() { Kind::Dir } else { Kind::File(body) };
            tree.insert(&path, Entry { meta: Meta::default(), kind, links: None }).unwrap();
        }
        let op = RunOp {
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            cwd: "/app".into(),
            env: vec![("PATH".into(), "/bin:/usr/bin".into())],
            ..RunOp::default()
        };
        let open = |body: &FileBody| -> io::Result<Box<dyn Read + Send>> {
            let Origin::Inline(bytes) = &body.origin else {
                return Err(io::ErrorKind::NotFound.into());
            };
            Ok(Box::new(io::Cursor::new(bytes.clone())))
        };
        hint(&op, code, &tree, &open)
    }

    #[test]
    fn scripts_with_such_lines_are_named() {
        for (command, script) in [
            ("./run.sh --now", "/app/run.sh"),
            ("cd /tmp && (/app/run.sh)", "/app/run.sh"),
            ("deploy", "/usr/bin/deploy"),
        ] {
            let hint = hinted(&["/bin/sh", "-c", command], 127).unwrap();
            assert!(hint.contains(&format!("'{script}' ends with CR LF")), "{hint}");
        }
        assert!(hinted(&["/app/run.sh"], 126).is_some());
        assert_eq!(hinted(&["/bin/sh", "-c", "./run.sh"], 1), None);
        assert_eq!(hinted(&["/bin/sh", "-c", "./good.sh; nothing"], 127), None);
    }

    #[test]
    fn a_heredoc_with_such_lines_is_enough() {
        let hint = hinted(&["/bin/sh", "-c", "set -e\r\ntrue\r\n"], 2).unwrap();
        assert!(hint.contains("convert the Dockerfile"), "{hint}");
    }
}
