//! What lies elsewhere: files behind a URL, and git repositories, as docker's flags and ADD name them.

use std::fmt;

use crate::Digest;

/// Something that must be fetched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Remote {
    /// A file, by its URL.
    Http(String),
    /// A part of a git repository.
    Git(GitSource),
}

/// A git repository, and what is wanted of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct GitSource {
    /// The repository, without query and fragment.
    pub url: String,
    /// A branch, a tag, a commit or a full reference; empty is what HEAD names.
    pub reference: String,
    /// The folder that is wanted; empty is all.
    pub subdir: String,
    /// What the commit's name must begin with; empty asks nothing.
    pub commit: String,
    /// Whether `.git` is wanted too, where that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// The times of its files.
    pub mtime: GitTime,
}

/// Which time the files of a repository get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum GitTime {
    /// Nothing is said: when they are checked out, if nothing else asks for the commit's.
    #[default]
    Usual,
    /// When they are checked out.
    Checkout,
    /// When the commit was made: the same each time.
    Commit,
}

/// What an ADD takes from elsewhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Added {
    /// Where it lies.
    pub remote: Remote,
    /// The digest that the file must have, where that is said.
    pub checksum: Option<Digest>,
}

/// What the names of contexts begin with that a coordinator fetches itself.
const FETCHED: &str = "remote:";

impl Added {
    /// The name of the context that it becomes.
    pub fn context(&self) -> String {
        let address = match &self.remote {
            Remote::Http(url) => url.clone(),
            Remote::Git(git) => git.address(),
        };
        let checksum = self.checksum.map(|digest| format!(" {digest}")).unwrap_or_default();
        format!("{FETCHED}{address}{checksum}")
    }

    /// Whether the name of a context is that of something fetched.
    pub fn is_context(name: &str) -> bool {
        name.starts_with(FETCHED)
    }

    /// Reads the name of a context; nothing where the context is a client's folder.
    pub fn of_context(name: &str) -> Option<Added> {
        let rest = name.strip_prefix(FETCHED)?;
        let (address, checksum) = match rest.rsplit_once(' ') {
            Some((address, digest)) if digest.parse::<Digest>().is_ok() => {
                (address, digest.parse().ok())
            }
            Some(_) | None => (rest, None),
        };
        let remote = Remote::parse(address, Named::ByDockerfile).ok().flatten()?;
        Some(Added { remote, checksum })
    }
}

/// Who names something: some short forms are only understood on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// A flag: `github.com/` needs no scheme.
    ByFlag,
    /// A Dockerfile, where `github.com/x` may be a folder.
    ByDockerfile,
}

/// Says why an address cannot be fetched from.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRemote {
    /// The query of a git URL has a key that means nothing.
    #[error(
        "unexpected query \"{0}\" of a git URL: ref, tag, branch, subdir, commit, checksum, fetch-by-commit, keep-git-dir, mtime and submodules are known"
    )]
    Query(String),
    /// Something is said twice, and differently.
    #[error("the git URL says {what} twice")]
    Twice {
        /// What.
        what: &'static str,
    },
    /// A commit is to be fetched by its name, and has none.
    #[error("fetch-by-commit of a git URL needs the whole name of a commit, as checksum=")]
    NoCommit,
    /// A value is none.
    #[error("'{value}' is no value for {key} of a git URL")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Http(url) => f.write_str(&shown(url)),
            Remote::Git(git) => git.fmt(f),
        }
    }
}

impl fmt::Display for GitSource {
    /// For people: without credentials that the address may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))?;
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            write!(f, "#{}", self.reference)?;
        }
        if !self.subdir.is_empty() {
            write!(f, ":{}", self.subdir)?;
        }
        Ok(())
    }
}

/// A URL without the user and password in it, which messages do not repeat.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

impl GitSource {
    /// The address that means all of it.
    fn address(&self) -> String {
        let mut pairs = Vec::new();
        for (key, value) in
            [("ref", &self.reference), ("subdir", &self.subdir), ("commit", &self.commit)]
        {
            if !value.is_empty() {
                pairs.push(format!("{key}={}", percent_encoded(value)));
            }
        }
        if let Some(keep) = self.keep_git_dir {
            pairs.push(format!("keep-git-dir={keep}"));
        }
        if !self.submodules {
            pairs.push("submodules=false".into());
        }
        if self.mtime == GitTime::Commit {
            pairs.push("mtime=commit".into());
        }
        let mark = if pairs.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.url, pairs.join("&"))
    }
}

impl Remote {
    /// Reads an address; nothing where the text is a path.
    pub fn parse(text: &str, named: Named) -> Result<Option<Remote>, InvalidRemote> {
        if named == Named::ByFlag && text.starts_with("github.com/") {
            return git(&format!("https://{text}")).map(Some);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" if is_repository(text) => git(text).map(Some),
                "http" | "https" => Ok(Some(Remote::Http(text.to_owned()))),
                "git" | "ssh" => git(text).map(Some),
                _ => Ok(None),
            };
        }
        if is_scp(text) { git(text).map(Some) } else { Ok(None) }
    }
}

/// Whether a web address is a repository's: its path ends with `.git`.
fn is_repository(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let after = path.split_once("://").map_or(path, |(_, rest)| rest);
    after.split_once('/').is_some_and(|(_, path)| {
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .is_some_and(|name| name.strip_suffix(".git").is_some())
    })
}

/// Whether a text is `USER@HOST:PATH`, as ssh takes it.
fn is_scp(text: &str) -> bool {
    let plain = |part: &str, more: &[char]| {
        !part.is_empty()
            && !part.starts_with('-')
            && part.chars().all(|ch| ch.is_ascii_alphanumeric() || more.contains(&ch))
    };
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    plain(user, &['-', '_', '.']) && plain(host, &['-', '.']) && !path.is_empty()
}

fn git(text: &str) -> Result<Remote, InvalidRemote> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = GitSource {
        url: url.to_owned(),
        reference: String::new(),
        subdir: String::new(),
        submodules: true,
        ..GitSource::default()
    };
    set(&mut git.reference, "ref", reference)?;
    set(&mut git.subdir, "subdir", subdir)?;
    let mut by_commit = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decoded(value);
        match key {
            "ref" => set(&mut git.reference, "ref", &value)?,
            "tag" => set(&mut git.reference, "ref", &format!("refs/tags/{value}"))?,
            "branch" => set(&mut git.reference, "ref", &format!("refs/heads/{value}"))?,
            "subdir" => set(&mut git.subdir, "subdir", &value)?,
            "commit" | "checksum" => set(&mut git.commit, "commit", &value)?,
            "keep-git-dir" => git.keep_git_dir = Some(boolean("keep-git-dir", &value)?),
            "submodules" => git.submodules = boolean("submodules", &value)?,
            "fetch-by-commit" => by_commit = boolean("fetch-by-commit", &value)?,
            "mtime" => git.mtime = time(&value)?,
            other => return Err(InvalidRemote::Query(other.to_owned())),
        }
    }
    let mut git = check(git)?;
    if by_commit {
        // Where the branch has moved on, the commit is fetched all the same.
        if !matches!(git.commit.len(), 40 | 64) {
            return Err(InvalidRemote::NoCommit);
        }
        git.commit.clone_into(&mut git.reference);
    }
    Ok(Remote::Git(git))
}

fn time(value: &str) -> Result<GitTime, InvalidRemote> {
    match value {
        "" => Ok(GitTime::Usual),
        "checkout" => Ok(GitTime::Checkout),
        "commit" => Ok(GitTime::Commit),
        value => Err(InvalidRemote::Value { key: "mtime", value: value.to_owned() }),
    }
}

fn set(field: &mut String, what: &'static str, value: &str) -> Result<(), InvalidRemote> {
    if value.is_empty() || field == value {
        return Ok(());
    }
    if !field.is_empty() {
        return Err(InvalidRemote::Twice { what });
    }
    value.clone_into(field);
    Ok(())
}

fn boolean(key: &'static str, value: &str) -> Result<bool, InvalidRemote> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        value => Err(InvalidRemote::Value { key, value: value.to_owned() }),
    }
}

/// Refuses what git could take for an option, and folders that lead out of the repository.
fn check(git: GitSource) -> Result<GitSource, InvalidRemote> {
    let bad = |key, value: &str| Err(InvalidRemote::Value { key, value: value.to_owned() });
    let strange = |ch: char| ch.is_control() || ch.is_whitespace();
    if git.url.starts_with('-') || git.url.contains(strange) {
        return bad("url", &git.url);
    }
    if git.reference.starts_with('-')
        || git.reference.contains(|ch| strange(ch) || "^~:?*[\\".contains(ch))
    {
        return bad("ref", &git.reference);
    }
    if git.subdir.split('/').any(|name| name == "..") || git.subdir.contains('\0') {
        return bad("subdir", &git.subdir);
    }
    if !git.commit.chars().all(|ch| ch.is_ascii_hexdigit()) {
        return bad("commit", &git.commit);
    }
    Ok(git)
}

/// The name that ADD gives to the file behind a URL.
pub fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.trim_end_matches('/').split_once('/').map_or("", |(_, path)| path);
    let name = percent_decoded(name.rsplit('/').next().unwrap_or_default());
    match name.as_str() {
        "" | "." | ".." => "__unnamed__".into(),
        _ if name.contains(['/', '\0']) => "__unnamed__".into(),
        _ => name,
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./".contains(byte);
    text.bytes()
        .map(
            |byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") },
        )
        .collect()
}

/// A text with what stands behind each `%` in its place.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, named: Named) -> String {
        match Remote::parse(text, named) {
            Ok(None) => "path".into(),
            Ok(Some(Remote::Http(url))) => format!("file {url}"),
            Ok(Some(Remote::Git(git))) => {
                let mut out = format!("git {}", git.url);
                for (key, value) in
                    [("ref", &git.reference), ("subdir", &git.subdir), ("commit", &git.commit)]
                {
                    if !value.is_empty() {
                        out.push_str(&format!(" {key}={value}"));
                    }
                }
                if let Some(keep) = git.keep_git_dir {
                    out.push_str(&format!(" keep={keep}"));
                }
                if git.mtime == GitTime::Commit {
                    out.push_str(" mtime=commit");
                }
                out
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_are_told_from_paths() {
        for (text, want) in [
            (".", "path"),
            ("./https://x/y.git", "path"),
            ("dir/sub", "path"),
            ("https://example.com/a.tar.gz", "file https://example.com/a.tar.gz"),
            ("https://example.com/.git", "git https://example.com/.git"),
            ("https://git.example/x/y.git", "git https://git.example/x/y.git"),
            ("https://git.example/y.git#main", "git https://git.example/y.git ref=main"),
            (
                "https://git.example/y.git#main:a/b",
                "git https://git.example/y.git ref=main subdir=a/b",
            ),
            ("https://git.example/y.git#:a", "git https://git.example/y.git subdir=a"),
            ("https://git.example/y.git/", "git https://git.example/y.git/"),
            ("https://git.example/y.github", "file https://git.example/y.github"),
            ("git://git.example/y", "git git://git.example/y"),
            ("ssh://git@git.example/y", "git ssh://git@git.example/y"),
            ("git@github.com:x/y.git#v1", "git git@github.com:x/y.git ref=v1"),
            ("github.com/x/y", "git https://github.com/x/y"),
            ("ftp://example.com/x", "path"),
            (
                "https://git.example/y.git?ref=v1&subdir=a%20b&commit=abc123&keep-git-dir=true",
                "git https://git.example/y.git ref=v1 subdir=a b commit=abc123 keep=true",
            ),
            ("https://git.example/y.git?tag=v1", "git https://git.example/y.git ref=refs/tags/v1"),
            (
                "https://git.example/y.git?branch=b",
                "git https://git.example/y.git ref=refs/heads/b",
            ),
            ("https://git.example/y.git?ref=a#b", "the git URL says ref twice"),
            (
                "https://git.example/y.git#--upload-pack=x",
                "'--upload-pack=x' is no value for ref of a git URL",
            ),
            ("https://git.example/y.git#main:../..", "'../..' is no value for subdir of a git URL"),
            ("https://git.example/y.git?commit=xyz", "'xyz' is no value for commit of a git URL"),
            ("https://git.example/y.git?mtime=now", "'now' is no value for mtime of a git URL"),
            (
                "https://git.example/y.git?mtime=commit",
                "git https://git.example/y.git mtime=commit",
            ),
            (
                "https://git.example/y.git?branch=b&checksum=0123456789012345678901234567890123456789&fetch-by-commit=1",
                "git https://git.example/y.git ref=0123456789012345678901234567890123456789 \
                 commit=0123456789012345678901234567890123456789",
            ),
            (
                "https://git.example/y.git?fetch-by-commit=true&commit=abc",
                "fetch-by-commit of a git URL needs the whole name of a commit, as checksum=",
            ),
        ] {
            assert_eq!(read(text, Named::ByFlag), want, "{text}");
        }
        assert_eq!(read("github.com/x/y", Named::ByDockerfile), "path");
        assert!(
            read("https://git.example/y.git?x=1", Named::ByFlag)
                .starts_with("unexpected query \"x\"")
        );
    }

    #[test]
    fn files_are_named_by_the_end_of_their_path() {
        for (url, want) in [
            ("https://example.com/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("https://example.com/a%20b", "a b"),
            ("https://example.com/a/", "a"),
            ("https://example.com/", "__unnamed__"),
            ("https://example.com", "__unnamed__"),
            ("https://example.com/x/..", "__unnamed__"),
            ("https://example.com/..%2Fetc%2Fpasswd", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), want, "{url}");
        }
    }

    #[test]
    fn what_is_added_is_named_and_read_back() {
        let checksum = Some(Digest::of(b"x"));
        for (text, checksum) in [
            ("https://example.com/a b?x=1#y", None),
            ("https://example.com/a", checksum),
            ("https://git.example/y.git?ref=v%23+1&subdir=a%20b&keep-git-dir=0&submodules=0", None),
            ("git@host:x.git#main:sub", None),
        ] {
            let remote = Remote::parse(text, Named::ByDockerfile).unwrap().unwrap();
            let added = Added { remote, checksum };
            assert_eq!(Added::of_context(&added.context()), Some(added), "{text}");
        }
        assert_eq!(Added::of_context("context"), None);
    }

    #[test]
    fn credentials_in_an_address_are_not_shown() {
        assert_eq!(shown("https://u:p@host/x@y"), "https://host/x@y");
        assert_eq!(shown("git@host:x"), "git@host:x");
        let git = Remote::parse("https://u:p@host/y.git#main:sub", Named::ByFlag).unwrap().unwrap();
        assert_eq!(git.to_string(), "https://host/y.git#main:sub");
    }
}
