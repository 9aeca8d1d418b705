//! Reads the plain Dockerfiles of the cases and does what they say.

use std::collections::BTreeMap;

use dcbuild_model::{TreePath, UnixTime};
use dcbuild_tree::{
    Accounts, Archive, Changes, Chmod, CopyRequest, CopySource, Kind, LastLink, Member, Meta,
    Origin, SourceOwners, Tree, copy, destination, resolve_owner, workdir,
};

use crate::case::{Case, base, entry, file, path};
use crate::shell;

pub(crate) enum Stop {
    /// The case needs more than this test knows.
    Unsupported(String),
    /// The build fails, as it may have to.
    Failed(String),
}

const NOW: UnixTime = UnixTime { secs: 1_900_000_000, nanos: 0 };

struct Stage {
    tree: Tree,
    base: Tree,
    workdir: String,
    is_scratch: bool,
    user: Option<String>,
}

/// Every link of the chain in one line.
fn failed(error: impl std::error::Error) -> Stop {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    Stop::Failed(text)
}

/// Gives the last stage's tree and the base it stands on.
pub(crate) fn run(case: &Case) -> Result<(Tree, Tree), Stop> {
    let unsupported = |what: &str| Err(Stop::Unsupported(what.to_owned()));
    for key in ["target", "contexts", "build_args", "opts", "platform", "dockerfile_path"] {
        if case.has(key) {
            return unsupported(key);
        }
    }
    if case.dockerfile.contains('$')
        || case.dockerfile.contains("<<")
        || case.dockerfile.contains("\\\n")
    {
        return unsupported("variables, heredocs or continuations");
    }
    if case.dockerfile.contains("/bin/busybox")
        || case.dockerfile.contains("--from=busybox:golden / /")
    {
        return unsupported("the base image's programs");
    }
    let mut case = case.clone();
    let context = case.context().map_err(failed)?;
    let mut stages: Vec<(String, Stage)> = Vec::new();
    for line in case.dockerfile.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "FROM" {
            let (image, name) = rest.split_once(" AS ").unwrap_or((rest, ""));
            let is_scratch = image == "scratch";
            let base = match image {
                "scratch" => Tree::scratch(),
                "busybox:golden" => base(),
                _ => return unsupported("FROM a stage"),
            };
            let tree = base.clone();
            let stage = Stage { tree, base, workdir: "/".to_owned(), is_scratch, user: None };
            stages.push((name.to_owned(), stage));
            continue;
        }
        let Some(((_, stage), earlier)) = stages.split_last_mut() else {
            return unsupported("no FROM");
        };
        match word {
            "RUN" if rest == "stat -c '%h %n' /out/a /out/b > /links" || rest.starts_with('[') => {
                return unsupported("RUN");
            }
            "RUN" => {
                shell::run(&mut stage.tree, rest)?;
                stage.is_scratch = false;
            }
            "USER" => stage.user = Some(rest.to_owned()),
            "WORKDIR" => {
                let to = destination(&stage.workdir, rest.trim_matches('"'));
                let owner = owner(stage, &stage.user.clone().unwrap_or("0".to_owned()))?;
                let changes = workdir(&stage.tree, &to, owner, NOW).map_err(failed)?;
                stage.tree.apply(&changes);
                stage.workdir = to;
            }
            "COPY" | "ADD" => {
                let changes = copy_line(&case, &context, stage, earlier, (word, rest))?;
                check_toc(&changes);
                stage.tree.apply(&changes);
                stage.is_scratch = false;
            }
            other => return unsupported(other),
        }
    }
    let (_, last) = stages.pop().unwrap();
    Ok((last.tree, last.base))
}

fn check_toc(changes: &Changes) {
    let bytes = dcbuild_tree::toc::encode(changes);
    let again = dcbuild_tree::toc::decode(&bytes).unwrap();
    assert_eq!(dcbuild_tree::toc::encode(&again), bytes);
}

fn owner(stage: &Stage, spec: &str) -> Result<(u32, u32), Stop> {
    let read = |name: &str| {
        let path = stage.tree.resolve(name.as_bytes(), LastLink::Follow).ok()?;
        match &stage.tree.get(&path)?.kind {
            Kind::File(body) => match &body.origin {
                Origin::Inline(bytes) => Some(bytes.to_vec()),
                _ => None,
            },
            _ => None,
        }
    };
    let (passwd, group) = (read("etc/passwd"), read("etc/group"));
    let accounts = if stage.is_scratch {
        Accounts::Scratch
    } else {
        Accounts::Files { passwd: passwd.as_deref(), group: group.as_deref() }
    };
    resolve_owner(spec, accounts).map_err(failed)
}

fn copy_line(
    case: &Case,
    context: &Tree,
    stage: &Stage,
    earlier: &[(String, Stage)],
    (word, rest): (&str, &str),
) -> Result<Changes, Stop> {
    let mut request = CopyRequest {
        sources: Vec::new(),
        dest: String::new(),
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
    };
    let (mut from, mut rest) = (None, rest.trim());
    while rest.starts_with("--") {
        let (flag, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = tail.trim();
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("--chown", spec) => request.owner = Some(owner(stage, spec)?),
            ("--chmod", text) => request.mode = Some(Chmod::parse(text).map_err(failed)?),
            ("--exclude", pattern) => request.exclude.push(pattern.to_owned()),
            ("--parents", "") => request.parents = true,
            ("--link", value @ ("" | "false")) => request.link = value.is_empty(),
            ("--from", name) if word == "COPY" => from = Some(name),
            _ => return Err(Stop::Unsupported(flag.to_owned())),
        }
    }
    let mut words: Vec<String> = match rest.strip_prefix('[') {
        Some(_) => serde_json::from_str(rest).map_err(|_| Stop::Unsupported(rest.to_owned()))?,
        None => rest.split_whitespace().map(str::to_owned).collect(),
    };
    if words.len() < 2 || words.iter().any(|word| word.contains(['\\', '"', '\''])) {
        return Err(Stop::Unsupported("quotes, escapes or too few words".to_owned()));
    }
    request.dest = destination(&stage.workdir, &words.pop().unwrap());
    let image = base();
    let (tree, owners) = match from {
        None => (context, SourceOwners::Reset),
        Some("busybox:golden") => (&image, SourceOwners::Keep),
        Some(name) => {
            let number = name.parse().ok().and_then(|number: usize| earlier.get(number));
            let found = number.or_else(|| earlier.iter().rfind(|(stage, _)| stage == name));
            let (_, stage) = found.ok_or_else(|| Stop::Unsupported(format!("--from={name}")))?;
            (&stage.tree, SourceOwners::Keep)
        }
    };
    let archives = if word == "ADD" { archives(case)? } else { BTreeMap::new() };
    let paths = words;
    request.sources.push(CopySource::Tree { tree, paths: &paths, owners, archives: &archives });
    copy(&stage.tree, &request, NOW).map_err(failed)
}

/// The plain tars among the context's files.
fn archives(case: &Case) -> Result<BTreeMap<TreePath, Archive>, Stop> {
    let mut archives = BTreeMap::new();
    for (place, bytes) in &case.contents {
        let packed = [b"\x1f\x8b".as_slice(), b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
        if packed.iter().any(|magic| bytes.starts_with(magic)) {
            return Err(Stop::Unsupported("a compressed archive".to_owned()));
        }
        if bytes.get(257..262) == Some(b"ustar") {
            archives.insert(place.clone(), unpacked(bytes)?);
        }
    }
    Ok(archives)
}

fn unpacked(bytes: &[u8]) -> Result<Archive, Stop> {
    let unsupported = |error: std::io::Error| Stop::Unsupported(format!("archive: {error}"));
    let mut members = Vec::new();
    let mut archive = tar::Archive::new(bytes);
    for item in archive.entries().map_err(unsupported)? {
        let mut item = item.map_err(unsupported)?;
        let name = String::from_utf8(item.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut item, &mut content).map_err(unsupported)?;
        let header = item.header();
        let permissions = header.mode().unwrap() & 0o7777;
        let secs = header.mtime().unwrap().try_into().unwrap();
        let link = item.link_name_bytes().map(std::borrow::Cow::into_owned);
        let mut made = match header.entry_type() {
            tar::EntryType::Directory => entry(permissions, secs, Kind::Dir),
            tar::EntryType::Symlink => entry(0o777, secs, Kind::Symlink(link.clone().unwrap())),
            _ => file(permissions, &content, secs),
        };
        let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
        let (uid, gid) = (uid.try_into().unwrap(), gid.try_into().unwrap());
        made.meta = Meta { uid, gid, ..made.meta };
        let member = match header.entry_type() {
            tar::EntryType::Link => {
                Member::Link { to: TreePath::clean(&link.unwrap()).unwrap(), meta: made.meta }
            }
            _ => Member::Put(made),
        };
        members.push((path(&name), member));
    }
    Ok(Archive(members))
}
