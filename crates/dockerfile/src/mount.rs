//! `RUN --mount`: kept as written at first, typed once its variables are known.

use thiserror::Error;

use crate::expand::ExpandError;
use crate::suggest;
use crate::words::parse_bool;

/// A mount as written, its fields taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The text after `--mount=`, without quotes.
    pub source: String,
    pub fields: Vec<MountField>,
    /// The stage or image that it reads from, which never holds a variable.
    pub from: Option<String>,
}

/// One `key=value`, or a bare key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// In lower case.
    pub key: String,
    pub value: Option<String>,
}

/// A mount that is malformed whatever its variables hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MountError {
    #[error("failed to parse csv mounts: {0:?}")]
    Csv(String),
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    FromVariable,
    #[error("secret mount should not have a from")]
    SecretFrom,
}

/// A mount that makes no sense once its variables are known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MountResolveError {
    #[error(transparent)]
    Expand(#[from] ExpandError),
    #[error("unsupported mount type {kind:?}{}", hint(*.suggestion))]
    Type { kind: String, suggestion: Option<&'static str> },
    #[error("unexpected key '{key}' in '{field}'{}", hint(*.suggestion))]
    UnknownKey { key: String, field: String, suggestion: Option<&'static str> },
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    WrongKey { key: String, kind: &'static str },
    #[error("invalid field '{0}' must be a key=value pair")]
    NoValue(String),
    #[error("invalid value for {key}: {value}")]
    Value { key: String, value: String },
    #[error("unsupported sharing value {value:?}{}", hint(*.suggestion))]
    Sharing { value: String, suggestion: Option<&'static str> },
    #[error("{key} not allowed for {kind:?} type mounts")]
    NotAllowed { key: &'static str, kind: &'static str },
    #[error("secret mount should not have a from")]
    SecretFrom,
    #[error("secret mount should not define sharing")]
    SecretSharing,
    #[error("invalid cache sharing set for {0} mount")]
    SharingType(&'static str),
    #[error("invalid secret mount. one of source, target required")]
    SecretName,
    #[error("both source and id can't be set")]
    SourceAndId,
}

fn hint(suggestion: Option<&'static str>) -> String {
    suggestion.map(|word| format!(" (did you mean {word}?)")).unwrap_or_default()
}

/// A mount with its meaning; an empty target is left for whoever knows the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    Bind(BindMount),
    Cache(CacheMount),
    Tmpfs(TmpfsMount),
    Secret(SecretMount),
    Ssh(SshMount),
}

/// A folder of a stage, an image or the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    pub from: Option<String>,
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

/// A folder that stays between builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The name; the target names the cache where there is none.
    pub id: Option<String>,
    pub from: Option<String>,
    pub source: String,
    pub target: String,
    pub sharing: CacheSharing,
    pub read_only: bool,
    pub access: FileAccess,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheSharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// A folder in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    pub target: String,
    pub size_bytes: Option<u64>,
    pub read_only: bool,
}

/// A secret as a file, as a variable or as both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    pub id: String,
    /// Where the file goes; none where only a variable is wanted.
    pub target: Option<String>,
    pub env: Option<String>,
    pub required: bool,
    pub access: FileAccess,
}

/// The socket of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    pub id: Option<String>,
    pub target: Option<String>,
    pub required: bool,
    pub access: FileAccess,
}

/// The mode and owner asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileAccess {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl MountFlag {
    /// Takes the text apart and refuses a variable in `from`.
    pub(crate) fn parse(text: &str) -> Result<MountFlag, MountError> {
        let mut flag = MountFlag { source: text.to_owned(), fields: Vec::new(), from: None };
        for field in split_csv(text).ok_or_else(|| MountError::Csv(text.to_owned()))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (field.as_str(), None),
            };
            let key = key.to_lowercase();
            if let (true, Some(from)) = (key == "from", &value) {
                if from.find('$').is_some_and(|at| at + 1 < from.len()) {
                    return Err(MountError::FromVariable);
                }
                flag.from = Some(from.clone()).filter(|from| !from.is_empty());
            }
            flag.fields.push(MountField { key, value });
        }
        match flag.kind() {
            Some(MountType::Secret) if flag.from.is_some() => Err(MountError::SecretFrom),
            // Memory is not read from anywhere: BuildKit looks for no stage or image either.
            Some(MountType::Tmpfs) => Ok(MountFlag { from: None, ..flag }),
            _ => Ok(flag),
        }
    }

    /// The type, where it is written without a variable.
    fn kind(&self) -> Option<MountType> {
        let last = self.fields.iter().rfind(|field| field.key == "type")?;
        choose(last.value.as_deref()?, &TYPES).ok()
    }

    /// Types the mount, with every value expanded by the given function.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Mount, MountResolveError> {
        let mut draft = Draft::default();
        for field in &self.fields {
            match &field.value {
                None => draft.set_bare(field)?,
                Some(value) => draft.set(field, expand(value)?)?,
            }
        }
        draft.finish()
    }
}

/// Reads one record of comma-separated fields, quoted where they start with a quote.
fn split_csv(text: &str) -> Option<Vec<String>> {
    if text.is_empty() || text.contains('\n') {
        return None;
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return None;
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Some(fields),
            }
            continue;
        };
        let (field, after) = take_quoted(quoted)?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return after.is_empty().then_some(fields),
        }
    }
}

fn take_quoted(mut text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, after) = text.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                text = after;
            }
            None => return Some((field, after)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARINGS: [(&str, CacheSharing); 3] = [
    ("shared", CacheSharing::Shared),
    ("private", CacheSharing::Private),
    ("locked", CacheSharing::Locked),
];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl MountType {
    fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("bind", |(name, _)| name)
    }

    fn takes_required(self) -> bool {
        matches!(self, MountType::Secret | MountType::Ssh)
    }
}

fn choose<T: Copy>(text: &str, options: &[(&'static str, T)]) -> Result<T, Option<&'static str>> {
    let lower = text.to_lowercase();
    options.iter().find(|(name, _)| *name == lower).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&'static str> = options.iter().map(|(name, _)| *name).collect();
        suggest::nearest(text, &names)
    })
}

/// A mount whose fields are still coming in.
#[derive(Default)]
struct Draft {
    kind: MountType,
    from: String,
    source: String,
    target: String,
    id: String,
    env: String,
    read_only: Option<bool>,
    required: bool,
    sharing: Option<CacheSharing>,
    size_bytes: Option<u64>,
    access: FileAccess,
}

impl Draft {
    fn set_bare(&mut self, field: &MountField) -> Result<(), MountResolveError> {
        match field.key.as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => self.set_required(field, true)?,
            key => return Err(MountResolveError::NoValue(key.to_owned())),
        }
        Ok(())
    }

    fn set_required(&mut self, field: &MountField, value: bool) -> Result<(), MountResolveError> {
        if !self.kind.takes_required() {
            return Err(self.wrong_key(field));
        }
        self.required = value;
        Ok(())
    }

    fn wrong_key(&self, field: &MountField) -> MountResolveError {
        MountResolveError::WrongKey { key: field.key.clone(), kind: self.kind.name() }
    }

    fn set(&mut self, field: &MountField, value: String) -> Result<(), MountResolveError> {
        let key = field.key.as_str();
        let bad = || MountResolveError::Value { key: key.to_owned(), value: value.clone() };
        match key {
            "type" => {
                self.kind = choose(&value, &TYPES)
                    .map_err(|suggestion| MountResolveError::Type { kind: value, suggestion })?;
            }
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "id" => self.id = value,
            "env" => self.env = value,
            "readonly" | "ro" => self.read_only = Some(parse_bool(&value).ok_or_else(bad)?),
            "readwrite" | "rw" => self.read_only = Some(!parse_bool(&value).ok_or_else(bad)?),
            "required" => self.set_required(field, parse_bool(&value).ok_or_else(bad)?)?,
            "size" if self.kind == MountType::Tmpfs => {
                self.size_bytes = Some(parse_size(&value).ok_or_else(bad)?);
            }
            "size" => return Err(self.wrong_key(field)),
            "sharing" => {
                self.sharing = Some(
                    choose(&value, &SHARINGS)
                        .map_err(|suggestion| MountResolveError::Sharing { value, suggestion })?,
                );
            }
            "mode" => {
                self.access.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| bad())?);
            }
            "uid" => self.access.uid = Some(value.parse().map_err(|_| bad())?),
            "gid" => self.access.gid = Some(value.parse().map_err(|_| bad())?),
            unknown => {
                return Err(MountResolveError::UnknownKey {
                    key: unknown.to_owned(),
                    field: format!("{unknown}={value}"),
                    suggestion: suggest::nearest(unknown, &KEYS),
                });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), MountResolveError> {
        let kind = self.kind.name();
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            let FileAccess { mode, uid, gid } = self.access;
            for (key, value) in [("mode", mode), ("uid", uid), ("gid", gid)] {
                if value.is_some() {
                    return Err(MountResolveError::NotAllowed { key, kind });
                }
            }
        }
        if self.kind == MountType::Secret {
            if !self.from.is_empty() {
                return Err(MountResolveError::SecretFrom);
            }
            if self.sharing.is_some() {
                return Err(MountResolveError::SecretSharing);
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(MountResolveError::SecretName);
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(MountResolveError::SourceAndId);
            }
        } else if !self.env.is_empty() {
            return Err(MountResolveError::NotAllowed { key: "env", kind });
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            return Err(MountResolveError::SharingType(kind));
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, MountResolveError> {
        self.check()?;
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let access = self.access;
        Ok(match self.kind {
            MountType::Bind => Mount::Bind(BindMount {
                from: filled(self.from),
                source: self.source,
                target: self.target,
                read_only: self.read_only.unwrap_or(true),
            }),
            MountType::Cache => Mount::Cache(CacheMount {
                id: filled(self.id),
                from: filled(self.from),
                source: self.source,
                target: self.target,
                sharing: self.sharing.unwrap_or_default(),
                read_only: self.read_only.unwrap_or(false),
                access,
            }),
            MountType::Tmpfs => Mount::Tmpfs(TmpfsMount {
                target: self.target,
                size_bytes: self.size_bytes,
                read_only: self.read_only.unwrap_or(false),
            }),
            MountType::Secret => Mount::Secret(self.into_secret()),
            MountType::Ssh => Mount::Ssh(SshMount {
                id: filled(self.id),
                target: filled(self.target),
                required: self.required,
                access,
            }),
        })
    }

    fn into_secret(self) -> SecretMount {
        let named = if self.source.is_empty() { self.id } else { self.source };
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let id = if named.is_empty() { base(&self.target) } else { named };
        let target = match (self.target.is_empty(), self.env.is_empty()) {
            (false, _) => Some(self.target),
            (true, true) => Some(format!("/run/secrets/{}", base(&id))),
            (true, false) => None,
        };
        SecretMount {
            id,
            target,
            env: Some(self.env).filter(|env| !env.is_empty()),
            required: self.required,
            access: self.access,
        }
    }
}

/// How many digits of a fraction count.
const FRACTION_DIGITS_MAX: usize = 18;

/// Reads a size such as `64m` or `1.5GiB`, in powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|ch: char| !ch.is_ascii_digit() && ch != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.trim_start().to_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit_bytes: u64 = 1 << shift;
    let mut part = 0;
    let mut scale = 1_u128;
    for digit in fraction.chars().take(FRACTION_DIGITS_MAX) {
        part = part * 10 + u128::from(digit.to_digit(10)?);
        scale *= 10;
    }
    let part = u64::try_from(u128::from(unit_bytes) * part / scale).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit_bytes)?.checked_add(part)
}
