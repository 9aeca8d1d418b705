//! The flags' values, as buildx writes them.

use std::path::PathBuf;

use dcbuild_carry::BucketSettings;
use dcbuild_model::{Compression, ManifestDigest};
use dcbuild_oci::ImageRef;
use dcbuild_process::Env;
use dcbuild_proto::document::CacheMode;
use dcbuild_s3::{AccessKey, S3Config};
use dcbuild_store::StoreError;

use crate::FlagError;
use crate::csv;
use crate::output::{image_name, image_reference};

const EXAMPLE: &str = "type=registry,ref=registry.example.com/app:cache, type=local,dest=DIR (src=DIR to read), \
                       type=s3,bucket=B,region=R,name=app or type=inline";
/// The types that only other builders have.
const FOREIGN: &[&str] = &["gha", "azblob"];
const INSTEAD: &str = "dcbuild keeps records in registries, folders and buckets of S3: type=registry,ref=NAME, \
                       type=local or type=s3";
/// What is never shown.
const SECRETS: &[&str] = &["secret_access_key", "session_token"];

/// A place where a cache may lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Where {
    /// Under a name in a registry.
    Registry(ImageRef),
    /// In a folder of this machine.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Which cache of it.
        tag: Option<String>,
        /// The same, by its digest.
        digest: Option<ManifestDigest>,
    },
    /// In a bucket.
    Bucket(Box<BucketSettings>),
}

impl Where {
    /// What people know it by.
    pub fn title(&self) -> String {
        match self {
            Where::Registry(image) => image.familiar(),
            Where::Folder { folder, tag: None, .. } => folder.display().to_string(),
            Where::Folder { folder, tag: Some(tag), .. } => format!("{}:{tag}", folder.display()),
            Where::Bucket(settings) => format!("{} of {}", settings.name, settings.bucket),
        }
    }
}

/// A cache to take records from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheFrom {
    /// Where it lies.
    pub place: Where,
}

/// A cache to write records to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheTo {
    /// Where it is to lie.
    pub place: Where,
    /// Which records.
    pub mode: CacheMode,
    /// The compression that layers should have.
    pub compression: Option<Compression>,
    /// Whether a failure fails nothing.
    pub ignore_error: bool,
}

/// All caches at other places that flags name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CacheFlags {
    /// Those that are read.
    pub from: Vec<CacheFrom>,
    /// Those that are written.
    pub to: Vec<CacheTo>,
    /// Whether the image's config holds records.
    pub inline: bool,
    /// What was written and means nothing here.
    pub warnings: Vec<String>,
}

impl CacheFlags {
    /// Reads the values of `--cache-from` and `--cache-to`.
    pub fn read(from: &[String], to: &[String], env: &Env) -> Result<CacheFlags, FlagError> {
        let mut flags = CacheFlags::default();
        for text in from.iter().filter(|text| !text.trim().is_empty()) {
            for asked in Asked::parse("cache-from", text, env)? {
                flags.add_from(asked)?;
            }
        }
        for text in to.iter().filter(|text| !text.trim().is_empty()) {
            for asked in Asked::parse("cache-to", text, env)? {
                flags.add_to(asked)?;
            }
        }
        Ok(flags)
    }

    fn add_from(&mut self, mut asked: Asked<'_>) -> Result<(), FlagError> {
        if self.is_foreign(&asked) {
            return Ok(());
        }
        if asked.kind == "inline" {
            return Err(
                asked.unsupported("name the image that holds the records: type=registry,ref=IMAGE")
            );
        }
        let place = asked.place("src")?;
        asked.end(&mut self.warnings);
        self.from.push(CacheFrom { place });
        Ok(())
    }

    fn add_to(&mut self, mut asked: Asked<'_>) -> Result<(), FlagError> {
        // An error of a cache fails no build, unless that is asked for.
        let ignore_error = asked.switch("ignore-error")?.unwrap_or(true);
        if ignore_error && self.is_foreign(&asked) {
            return Ok(());
        }
        let mode = match asked.take("mode").as_deref() {
            None | Some("min" | "") => CacheMode::Min,
            Some("max") => CacheMode::Max,
            Some(other) => {
                return Err(asked.malformed(format!("'{other}' is no mode (min or max)")));
            }
        };
        let compression = asked.compression()?;
        asked.switch("force-compression")?;
        for (key, why) in [
            ("image-manifest", "a cache of dcbuild is an image manifest"),
            ("oci-mediatypes", "a cache of dcbuild is an OCI artifact"),
        ] {
            if asked.switch(key)? == Some(false) {
                self.warnings.push(format!("--cache-to {key}=false has no effect: {why}"));
            }
        }
        if asked.kind == "inline" {
            if mode == CacheMode::Max {
                let no_effect = "--cache-to mode=max has no effect: inline records are of mode=min";
                self.warnings.push(no_effect.into());
            }
            self.inline = true;
            asked.end(&mut self.warnings);
            return Ok(());
        }
        let names = asked.further_names();
        let place = asked.place("dest")?;
        let further = asked.further_places(&place, names)?;
        asked.end(&mut self.warnings);
        let to = |place| CacheTo { place, mode, compression, ignore_error };
        self.to.extend(std::iter::once(place).chain(further).map(to));
        Ok(())
    }

    /// A cache that only other builders have is left out, as buildx leaves one out that it cannot reach: no result hangs
    /// on it.
    fn is_foreign(&mut self, asked: &Asked<'_>) -> bool {
        let is_foreign = FOREIGN.contains(&asked.kind.as_str());
        if is_foreign {
            let (flag, kind) = (asked.flag, &asked.kind);
            self.warnings.push(format!("--{flag} type={kind} is left out: {INSTEAD}"));
        }
        is_foreign
    }

    /// Whether no place is named that a client must reach.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty() && self.to.is_empty()
    }
}

/// A value as it was written.
struct Asked<'e> {
    flag: &'static str,
    written: String,
    kind: String,
    pairs: Vec<(String, String)>,
    env: &'e Env,
}

impl<'e> Asked<'e> {
    /// Names alone, as many as there are, are those of caches in a registry, as for buildx; all else is one cache.
    fn parse(flag: &'static str, text: &str, env: &'e Env) -> Result<Vec<Asked<'e>>, FlagError> {
        let new = |kind: &str, pairs| Asked {
            flag,
            written: hide_secrets(text),
            kind: kind.into(),
            pairs,
            env,
        };
        let Some(pairs) = csv::pairs(text) else {
            return Err(new("", Vec::new()).malformed("a quote is not closed".into()));
        };
        if pairs.iter().all(|(_, value)| value.is_none()) {
            // A name keeps its letters as they are.
            let names = text.split(',').map(|name| name.trim().trim_matches('"'));
            let names = names.filter(|name| !name.is_empty());
            let of = |name: &str| new("registry", vec![("ref".into(), name.to_owned())]);
            return Ok(names.map(of).collect());
        }
        let mut asked = new("", Vec::new());
        for (key, value) in pairs {
            let Some(value) = value else {
                return Err(asked.malformed(format!("'{key}' has no value")));
            };
            if asked.pairs.iter().any(|(known, _)| *known == key) {
                return Err(asked.malformed(format!("'{key}' is there twice")));
            }
            asked.pairs.push((key, value));
        }
        asked.kind = asked.take("type").unwrap_or_default();
        match asked.kind.as_str() {
            "registry" | "local" | "s3" | "inline" => Ok(vec![asked]),
            "" => Err(asked.malformed("it has no type=".into())),
            kind if FOREIGN.contains(&kind) => Ok(vec![asked]),
            other => {
                let problem = format!("'{other}' is no type (registry, local, s3 or inline)");
                Err(asked.malformed(problem))
            }
        }
    }

    fn malformed(&self, problem: String) -> FlagError {
        let (flag, value) = (self.flag, self.written.clone());
        FlagError::Malformed { flag, value, problem, example: EXAMPLE }
    }

    fn unsupported(&self, instead: &'static str) -> FlagError {
        FlagError::Unsupported { flag: self.flag, value: self.written.clone(), instead }
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == key)?;
        Some(self.pairs.remove(at).1)
    }

    fn need(&mut self, key: &str) -> Result<String, FlagError> {
        let value = self.take(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| self.malformed(format!("type={} needs {key}=", self.kind)))
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, FlagError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let known = crate::variables::switch(&value).map(Some);
        known.ok_or_else(|| self.malformed(format!("'{value}' is no value of {key}")))
    }

    fn compression(&mut self) -> Result<Option<Compression>, FlagError> {
        match self.take("compression").as_deref() {
            None => Ok(None),
            Some("gzip") => Ok(Some(Compression::Gzip)),
            Some("zstd") => Ok(Some(Compression::Zstd)),
            Some("uncompressed") => Ok(Some(Compression::None)),
            Some("estargz") => {
                Err(self.unsupported("use compression=zstd or gzip; layers of both are seekable"))
            }
            Some(other) => {
                Err(self
                    .malformed(format!("'{other}' is no compression (gzip, zstd or uncompressed)")))
            }
        }
    }

    fn digest(&mut self) -> Result<Option<ManifestDigest>, FlagError> {
        let Some(text) = self.take("digest") else { return Ok(None) };
        match text.parse() {
            Ok(digest) => Ok(Some(digest)),
            Err(_) => Err(self.malformed(format!("'{text}' is no digest"))),
        }
    }

    fn place(&mut self, folder: &'static str) -> Result<Where, FlagError> {
        match self.kind.as_str() {
            kind if FOREIGN.contains(&kind) => Err(self.unsupported(INSTEAD)),
            "registry" => {
                let name = self.need("ref")?;
                let read = if self.flag == "cache-to" { image_name } else { image_reference };
                Ok(Where::Registry(read(self.flag, &name)?))
            }
            "local" => {
                let (folder, tag) = (self.need(folder)?.into(), self.take("tag"));
                let digest = self.digest()?;
                if digest.is_some() && self.flag == "cache-to" {
                    return Err(
                        self.malformed("a digest comes of the cache, and cannot be given".into())
                    );
                }
                Ok(Where::Folder { folder, tag: tag.filter(|tag| !tag.is_empty()), digest })
            }
            _ => Ok(Where::Bucket(Box::new(self.bucket()?))),
        }
    }

    /// The names behind the first, where there are several: in a bucket buildx writes under all, and reads the first.
    fn further_names(&self) -> Vec<String> {
        let names = self.pairs.iter().find(|(key, _)| key == "name");
        let names = names.into_iter().flat_map(|(_, names)| names.split(';').skip(1));
        names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// The same bucket under other names.
    fn further_places(&self, first: &Where, names: Vec<String>) -> Result<Vec<Where>, FlagError> {
        let Where::Bucket(first) = first else { return Ok(Vec::new()) };
        let place = |name| {
            let settings = BucketSettings { name, ..(**first).clone() };
            let checked = settings.ours().map_err(|error| self.misnamed(&error));
            checked.map(|_| Where::Bucket(Box::new(settings)))
        };
        names.into_iter().map(place).collect()
    }

    fn misnamed(&self, error: &StoreError) -> FlagError {
        self.malformed(crate::answer::chain(error))
    }

    fn bucket(&mut self) -> Result<BucketSettings, FlagError> {
        let given = |env: &Env, name: &str| env.get(name).map(str::to_owned);
        let bucket = self.take("bucket").or_else(|| given(self.env, "AWS_BUCKET"));
        let Some(bucket) = bucket else {
            return Err(self.malformed("type=s3 needs bucket=".into()));
        };
        let prefix = self.take("prefix").unwrap_or_default();
        let mut query = Vec::new();
        if let Some(region) = self.take("region").or_else(|| given(self.env, "AWS_REGION")) {
            query.push(format!("region={region}"));
        }
        if let Some(endpoint) = self.take("endpoint_url") {
            query.push(format!("endpoint={endpoint}"));
        }
        if let Some(style) = self.switch("use_path_style")? {
            query.push(format!("path-style={style}"));
        }
        let prefix = prefix.trim_matches('/');
        let url = format!("s3://{bucket}/{prefix}?{}", query.join("&"));
        let config = S3Config::from_url(&url);
        let config = config.map_err(|error| self.malformed(error.problem.to_string()))?;
        let key = match (self.take("access_key_id"), self.take("secret_access_key")) {
            (Some(id), Some(secret)) => {
                Some(AccessKey { id, secret, session_token: self.take("session_token") })
            }
            (None, None) => None,
            _ => {
                let problem = "access_key_id and secret_access_key belong together".into();
                return Err(self.malformed(problem));
            }
        };
        let manifests = self.take("manifests_prefix").unwrap_or_else(|| "manifests/".into());
        let blobs = self.take("blobs_prefix").unwrap_or_else(|| "blobs/".into());
        let name = self.take("name").unwrap_or_else(|| "buildkit".into());
        let name = name.split(';').next().unwrap_or_default().to_owned();
        let settings = BucketSettings { bucket: config, key, manifests, blobs, name };
        match settings.ours() {
            Ok(_) => Ok(settings),
            Err(error) => Err(self.misnamed(&error)),
        }
    }

    /// Tells what means nothing here: no build fails for it, as with `BuildKit`, which passes it over.
    fn end(self, warnings: &mut Vec<String>) {
        for (key, _) in &self.pairs {
            warnings.push(format!("--{} {key} has no effect with type={}", self.flag, self.kind));
        }
    }
}

/// A value as messages show it.
fn hide_secrets(text: &str) -> String {
    let field = |field: &str| match field.split_once('=') {
        Some((key, _)) if SECRETS.contains(&key.trim().to_lowercase().as_str()) => {
            format!("{key}=...")
        }
        _ => field.to_owned(),
    };
    text.split(',').map(field).collect::<Vec<_>>().join(",")
}
