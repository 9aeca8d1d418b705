//! What a mistake may have meant, in a line of its own below the error.

use crate::heredoc::Heredoc;

/// The marks with which a version control leaves a conflict in a file.
const CONFLICTS: [&str; 4] = ["<<<<<<<", "=======", ">>>>>>>", "|||||||"];
/// The keys that a compose file has at its top.
const COMPOSE: [&str; 8] =
    ["version:", "services:", "name:", "networks:", "volumes:", "configs:", "secrets:", "include:"];
/// The flags of COPY and ADD.
const FLAGS: [&str; 9] =
    ["chmod", "checksum", "chown", "exclude", "from", "keep-git-dir", "link", "parents", "unpack"];

/// The version of the language that is spoken here: 1 and this.
const SPOKEN: u32 = 20;

/// Where sources are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// The context, or a named one.
    Context,
    /// A stage or image.
    Stage,
}

/// What a first word was that is no instruction.
pub(crate) fn of_keyword(word: &str) -> Option<String> {
    if CONFLICTS.contains(&word) {
        return Some(
            "this is the mark of a conflict: the file was merged and not mended (`git status` names such files)"
                .to_owned(),
        );
    }
    if COMPOSE.contains(&word) || (word.starts_with("x-") && word.ends_with(':')) {
        return Some(
            "this is a compose file, as it seems: -f names a Dockerfile, such as the one that a service has below `build:`"
                .to_owned(),
        );
    }
    odd_space(word)
}

/// What a word may be that is not known: something of a later version of the language, where the file asks for one.
pub(crate) fn of_version(syntax: &str) -> Option<String> {
    let (_, version) = syntax.rsplit_once(':')?;
    let numbers = version.split('-').next().unwrap_or_default();
    let mut numbers = numbers.split('.').map(str::parse::<u32>);
    let minor = match (numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(minor))) => Some(minor),
        _ => None,
    };
    let is_later = minor.is_some_and(|minor| minor > SPOKEN);
    let is_other = ["labs", "master", "experimental"].iter().any(|word| version.contains(word));
    (is_later || is_other).then(|| {
        format!(
            "the file asks for Dockerfile {version} (# syntax), and dcbuild speaks 1.{SPOKEN}: docs/migrating.md lists what came later"
        )
    })
}

/// What words behind FROM were that are neither an image nor an image with a name.
pub(crate) fn of_from(words: &[String]) -> Option<String> {
    let comment = |word: &String| word.starts_with('#');
    if let Some(hint) = words.iter().find_map(|word| odd_space(word)) {
        return Some(hint);
    }
    if words.iter().any(comment) {
        return Some("a comment has a line of its own".to_owned());
    }
    match words {
        [base, name] if name.eq_ignore_ascii_case("as") => {
            Some(format!("the name of the stage is missing: FROM {base} AS NAME"))
        }
        [base, name] => Some(format!("AS is missing: FROM {base} AS {name}")),
        _ => None,
    }
}

/// What sources may have meant of which some are not there.
pub fn of_sources(
    sources: &[String],
    is_missing: &dyn Fn(&str) -> bool,
    whence: Whence,
) -> Option<String> {
    let missing = || sources.iter().filter(|source| is_missing(source));
    let leads_out = || match whence {
        Whence::Context => missing().find_map(|source| of_place(source)),
        Whence::Stage => None,
    };
    let home = || missing().find_map(|source| of_home(source, whence));
    sources.iter().find_map(|source| of_word(source)).or_else(home).or_else(leads_out)
}

/// What a name is of which there is one in other letters.
pub fn of_case(there: &str) -> String {
    format!("upper and lower case differ in names of files: write {there}")
}

/// What a heredoc may lack that does not end. `first` is the line behind the one that opens it.
pub(crate) fn of_heredoc(heredoc: &Heredoc, first: u32) -> String {
    let name = &heredoc.name;
    let near = heredoc.content.lines().position(|line| line.trim() == *name);
    match near {
        Some(at) => format!(
            "line {} has {name} and spaces: the line that ends a heredoc is {name} alone (<<-{name} takes tabs before it away, and no spaces)",
            u32::try_from(at).unwrap_or(u32::MAX).saturating_add(first)
        ),
        None => format!("a heredoc ends with a line that is {name} and nothing else"),
    }
}

/// A home folder that no shell puts in its place.
fn of_home(source: &str, whence: Whence) -> Option<String> {
    if source != "~" && !source.starts_with("~/") {
        return None;
    }
    Some(match whence {
        Whence::Context => {
            "~ is no home folder here, where no shell reads the line: copy what is needed into the context, or give its folder with --build-context NAME=DIR and copy with --from=NAME"
        }
        Whence::Stage => "~ is no home folder here, where no shell reads the line: write it out, such as /root",
    }
    .to_owned())
}

/// What a source is that was not meant as one.
fn of_word(source: &str) -> Option<String> {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    if let Some(flag) = source.strip_prefix("--") {
        return FLAGS.contains(&name(flag).as_str()).then(|| {
            format!("flags stand between the instruction and its sources: move --{flag} there")
        });
    }
    if let Some(flag) = source.strip_prefix('-')
        && FLAGS.contains(&name(flag).as_str())
    {
        return Some(format!("a flag has two dashes: --{flag}"));
    }
    if source.starts_with('#') {
        return Some("a comment has a line of its own".to_owned());
    }
    odd_space(source)
}

/// Where a source looks that no context reaches.
fn of_place(source: &str) -> Option<String> {
    if let [drive, b':', _, ..] = source.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        return Some(
            "a source is a path in the context, with / between its names: there are no drives, and a backslash stands for the character behind it"
                .to_owned(),
        );
    }
    if climbs(source) {
        return Some(format!(
            "a source cannot leave the context: give the folder by a name of its own (--build-context NAME={}), and copy with --from=NAME",
            climbed(source)
        ));
    }
    source.starts_with('/').then(|| {
        "the slash in front stands for the context, not for the root of this machine: copy what is needed into the context, or give its folder with --build-context NAME=DIR and copy with --from=NAME"
            .to_owned()
    })
}

/// Whether a path leads above the folder that it begins in.
fn climbs(path: &str) -> bool {
    let mut depth = 0_i32;
    path.split('/').any(|name| {
        match name {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

/// The folder above that a source names: all but what follows its first plain name.
fn climbed(source: &str) -> String {
    let mut folder = Vec::new();
    for name in source.split('/').filter(|name| !name.is_empty() && *name != ".") {
        let plain = name != "..";
        if plain && name.contains(['*', '?', '[']) {
            break;
        }
        folder.push(name);
        if plain {
            break;
        }
    }
    folder.join("/")
}

/// Names a character that looks like a space and separates nothing.
pub fn odd_space(text: &str) -> Option<String> {
    let odd = |ch: &char| {
        (!ch.is_ascii() && ch.is_whitespace())
            || matches!(ch, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
    };
    let found = text.chars().find(odd)?;
    let name = if found == '\u{a0}' { "a no-break space" } else { "a space that is none" };
    Some(format!(
        "there is {name} in it (U+{:04X}), as word processors and web pages write it: put a plain one in its place",
        u32::from(found)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_lead_out_are_told_from_names_with_dots() {
        for (source, out) in [
            ("../shared", true),
            ("a/../../b", true),
            ("./../x", true),
            ("/../x", true),
            ("a/../b", false),
            ("..a", false),
            ("a..", false),
        ] {
            assert_eq!(climbs(source), out, "{source}");
        }
        assert_eq!(climbed("../shared/lib/*.so"), "../shared");
        assert_eq!(climbed("../../*.txt"), "../..");
    }

    #[test]
    fn later_versions_are_told_from_ours() {
        for (syntax, later) in [
            ("docker/dockerfile:1", false),
            ("docker/dockerfile:1.4", false),
            ("docker/dockerfile:1.20.0", false),
            ("docker/dockerfile:1.21", true),
            ("docker.io/docker/dockerfile-upstream:1.29.0-rc1", true),
            ("docker/dockerfile:1.7-labs", true),
            ("docker/dockerfile:latest", false),
            ("docker/dockerfile", false),
        ] {
            assert_eq!(of_version(syntax).is_some(), later, "{syntax}");
        }
    }

    #[test]
    fn plain_words_have_no_hint() {
        let of = |sources: &[&str], missing: &str, whence| {
            let sources: Vec<String> = sources.iter().map(|it| (*it).to_owned()).collect();
            of_sources(&sources, &|source| source == missing, whence)
        };
        assert_eq!(of(&["a.txt", "-x", "--what", "src/"], "a.txt", Whence::Context), None);
        assert_eq!(of(&["/there", "none"], "none", Whence::Context), None);
        assert_eq!(of(&["/a", "../b"], "/a", Whence::Stage), None);
        assert_eq!(of(&["b:", "~b"], "~b", Whence::Context), None);
        for (source, whence, said) in [
            ("C:src", Whence::Context, "there are no drives"),
            ("~/a", Whence::Context, "--build-context NAME=DIR"),
            ("~/a", Whence::Stage, "write it out, such as /root"),
        ] {
            let hint = of(&[source], source, whence).unwrap();
            assert!(hint.contains(said), "{hint}");
        }
        let comment = of(&["a", "/x", "#", "why"], "/x", Whence::Context).unwrap();
        assert_eq!(comment, "a comment has a line of its own");
        assert_eq!(of_keyword("RNU"), None);
        assert_eq!(of_from(&[]), None);
    }
}
