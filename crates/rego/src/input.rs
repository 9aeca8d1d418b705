//! What a policy sees of a source, as buildx shows it: what is empty or false is not there.

use std::collections::BTreeMap;

use dcbuild_model::Platform;
use dcbuild_oci::ImageRef;
use dcbuild_plan::policy::{Facts, GitFacts, PolicyAsk};
use serde_json::{Map, Value, json};

use crate::git;

/// What kind of source it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Image,
    Git,
    Http,
    Local,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Git => "git",
            Kind::Http => "http",
            Kind::Local => "local",
        }
    }
}

/// What was asked of the build, as `input.env`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The Dockerfile's name.
    pub filename: String,
    /// `--target`.
    pub target: String,
}

/// A source as a policy sees it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    fields: Map<String, Value>,
    /// The fields that are known once somebody has looked.
    pub(crate) unknown: Vec<&'static str>,
}

impl Seen {
    /// The whole input.
    pub(crate) fn input(&self, env: &Environment) -> Value {
        let mut shown = Map::new();
        put(&mut shown, "args", json!(env.args));
        put(&mut shown, "labels", json!(env.labels));
        put(&mut shown, "filename", json!(env.filename));
        put(&mut shown, "target", json!(env.target));
        let mut input = Map::new();
        put(&mut input, "env", Value::Object(shown));
        input.insert(self.kind.name().into(), Value::Object(self.fields.clone()));
        Value::Object(input)
    }

    /// The image's name, where it is one.
    pub(crate) fn image_reference(&self) -> Option<String> {
        let name = self.fields.get("ref").filter(|_| self.kind == Kind::Image)?;
        name.as_str().map(str::to_owned)
    }
}

/// Adds a field, unless it is empty.
pub(crate) fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    let is_empty = match &value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.is_empty(),
        Value::Number(_) => false,
    };
    if !is_empty {
        fields.insert(name.to_owned(), value);
    }
}

/// What there is to see of a source, or why there is nothing.
pub(crate) fn seen(ask: &PolicyAsk) -> Result<Seen, String> {
    let identifier = ask.identifier.as_str();
    let (scheme, rest) = identifier.split_once("://").unwrap_or(("", identifier));
    match scheme {
        "docker-image" => image(ask, rest),
        "git" => Ok(repository(ask, rest)),
        "http" | "https" => Ok(file(ask, scheme, rest)),
        "local" => {
            let mut fields = Map::new();
            put(&mut fields, "name", json!(rest));
            Ok(Seen { kind: Kind::Local, fields, unknown: Vec::new() })
        }
        _ => Err(format!("a policy in Rego cannot be asked about {identifier:?}")),
    }
}

fn image(ask: &PolicyAsk, name: &str) -> Result<Seen, String> {
    let reference: ImageRef = name.parse().map_err(|error| format!("{error}"))?;
    let repository = reference.repository();
    let mut fields = Map::new();
    put(&mut fields, "ref", json!(name));
    put(&mut fields, "host", json!(repository.host()));
    put(&mut fields, "repo", json!(repository.familiar()));
    put(&mut fields, "fullRepo", json!(format!("{}/{}", repository.host(), repository.path())));
    put(&mut fields, "tag", json!(reference.tag().unwrap_or_default()));
    if let Some(platform) = &ask.platform {
        let parsed: Platform = platform.parse().map_err(|error| format!("{error}"))?;
        put(&mut fields, "platform", json!(platform));
        put(&mut fields, "os", json!(parsed.os));
        put(&mut fields, "arch", json!(parsed.arch));
        put(&mut fields, "variant", json!(parsed.variant));
    }
    let mut unknown = vec!["createdTime", "env", "labels", "user", "volumes", "workingDir"];
    match reference.digest() {
        Some(digest) => {
            put(&mut fields, "checksum", json!(digest.to_string()));
            put(&mut fields, "isCanonical", json!(true));
        }
        None => unknown.push("checksum"),
    }
    if let Some(Facts::Image { digest, created, env, labels, user, volumes, working_dir }) =
        &ask.facts
    {
        put(&mut fields, "checksum", json!(digest));
        put(&mut fields, "createdTime", json!(created));
        put(&mut fields, "env", json!(env));
        put(&mut fields, "labels", json!(labels));
        put(&mut fields, "user", json!(user));
        put(&mut fields, "volumes", json!(volumes));
        put(&mut fields, "workingDir", json!(working_dir));
    }
    Ok(Seen { kind: Kind::Image, fields, unknown })
}

fn file(ask: &PolicyAsk, scheme: &str, rest: &str) -> Seen {
    let whole = rest.split('#').next().unwrap_or_default();
    let (place, query) = whole.split_once('?').unwrap_or((whole, ""));
    let (host, path) = match place.find('/') {
        Some(at) => place.split_at(at),
        None => (place, ""),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).to_ascii_lowercase();
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let mut fields = Map::new();
    put(&mut fields, "url", json!(ask.identifier));
    put(&mut fields, "schema", json!(scheme));
    put(&mut fields, "host", json!(host.strip_suffix(usual).unwrap_or(&host)));
    put(&mut fields, "path", json!(path));
    put(&mut fields, "query", json!(queried(query)));
    let mut unknown = Vec::new();
    match (ask.attrs.get("http.checksum"), &ask.facts) {
        (Some(digest), _) | (None, Some(Facts::File { digest })) => {
            put(&mut fields, "checksum", json!(digest));
        }
        (None, _) => unknown.push("checksum"),
    }
    Seen { kind: Kind::Http, fields, unknown }
}

fn queried(query: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(decoded(name)).or_default().push(decoded(value));
    }
    found
}

/// A part of a query without its escapes.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes().iter());
    while let Some(byte) = rest.next() {
        let escape = rest.as_slice().get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escape) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest.nth(1);
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn repository(ask: &PolicyAsk, rest: &str) -> Seen {
    let (place, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let full = ask.attrs.get("git.fullurl").cloned();
    let remote = full.clone().unwrap_or_else(|| format!("https://{place}"));
    let schema = remote.split_once("://").map_or("ssh", |(scheme, _)| scheme);
    let mut fields = Map::new();
    put(&mut fields, "schema", json!(schema));
    put(&mut fields, "host", json!(place.split('/').next()));
    put(&mut fields, "remote", json!(remote));
    put(&mut fields, "fullURL", json!(full));
    put(&mut fields, "subDir", json!(subdir.trim_matches('/')));
    let is_commit = matches!(reference.len(), 40 | 64)
        && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    put(&mut fields, "isCommitRef", json!(is_commit));
    let mut unknown = vec!["tag", "commit"];
    if let Some(Facts::Git(facts)) = &ask.facts {
        referred(&mut fields, &facts.reference);
        git_facts(&mut fields, facts);
    } else if is_commit {
        referred(&mut fields, reference);
        checksums(&mut fields, reference, reference);
    } else {
        unknown.extend(["checksum", "commitChecksum", "isAnnotatedTag", "isSHA256"]);
        if reference.starts_with("refs/") {
            referred(&mut fields, reference);
        } else {
            unknown.extend(["tagName", "branch", "ref"]);
        }
    }
    Seen { kind: Kind::Git, fields, unknown }
}

fn referred(fields: &mut Map<String, Value>, reference: &str) {
    put(fields, "ref", json!(reference));
    put(fields, "tagName", json!(reference.strip_prefix("refs/tags/")));
    put(fields, "branch", json!(reference.strip_prefix("refs/heads/")));
}

fn checksums(fields: &mut Map<String, Value>, checksum: &str, commit: &str) {
    put(fields, "checksum", json!(checksum));
    put(fields, "commitChecksum", json!(commit));
    put(fields, "isAnnotatedTag", json!(checksum != commit));
    put(fields, "isSHA256", json!(checksum.len() == 64));
}

fn git_facts(fields: &mut Map<String, Value>, facts: &GitFacts) {
    checksums(fields, &facts.checksum, &facts.commit);
    put(fields, "commit", git::commit(&facts.commit_object));
    put(fields, "tag", facts.tag_object.as_deref().map_or(Value::Null, git::tag));
}
