//! `--output`, `--push` and `--load`: what the workers make of the result, and what the client then fetches.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use dcbuild_attest::Storage;
use dcbuild_model::Compression;
use dcbuild_oci::ImageRef;
use dcbuild_proto::document::{Annotation, Attests, LayerCompression, OutputKind, OutputSpec};

use crate::FlagError;
use crate::attest::{Attesting, Places};
use crate::csv;
use crate::parse;
use crate::variables::switch;

const EXAMPLE: &str = "-o DIR, -o type=oci,dest=app.tar or -o type=image,name=app:1,push=true";
/// What makes an index, and what to do where docker would be given it.
const SEVERAL: (&str, &str) = (
    "several platforms",
    "the docker exporter does not support manifest lists: write type=oci, push the image, or build one platform for \
     docker",
);
const OF_INDEX: (&str, &str) = (
    "an annotation of an index or of a descriptor",
    "the docker exporter does not support manifest lists: write type=oci or push the image",
);

/// Where the bytes of an output go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dest {
    /// To standard output.
    Stdout,
    /// Into a file, which is replaced.
    File(PathBuf),
}

/// What the client does with an output once the workers have made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientOutput {
    /// Nothing: it is in the store, or was pushed.
    Image,
    /// Writes an OCI layout as a tar.
    OciTar {
        /// Where to.
        dest: Dest,
    },
    /// Writes an OCI layout into a folder.
    OciFolder {
        /// The folder.
        dest: PathBuf,
    },
    /// Writes an archive as `docker save` does.
    DockerTar {
        /// Where to.
        dest: Dest,
    },
    /// Loads the image into the docker daemon.
    Load,
    /// Writes the files as a tar.
    Tar {
        /// Where to.
        dest: Dest,
    },
    /// Writes the files into a folder.
    Local {
        /// The folder.
        dest: PathBuf,
    },
}

impl ClientOutput {
    /// The folder that it writes to, where it is one of this machine's.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            ClientOutput::OciTar { dest: Dest::File(path) }
            | ClientOutput::DockerTar { dest: Dest::File(path) }
            | ClientOutput::Tar { dest: Dest::File(path) } => Some(path.parent().unwrap_or(path)),
            ClientOutput::OciFolder { dest } | ClientOutput::Local { dest } => Some(dest),
            ClientOutput::OciTar { dest: Dest::Stdout }
            | ClientOutput::DockerTar { dest: Dest::Stdout }
            | ClientOutput::Tar { dest: Dest::Stdout }
            | ClientOutput::Image
            | ClientOutput::Load => None,
        }
    }

    /// Whether it writes to standard output.
    pub fn is_stdout(&self) -> bool {
        match self {
            ClientOutput::OciTar { dest }
            | ClientOutput::DockerTar { dest }
            | ClientOutput::Tar { dest } => *dest == Dest::Stdout,
            ClientOutput::Image
            | ClientOutput::OciFolder { .. }
            | ClientOutput::Load
            | ClientOutput::Local { .. } => false,
        }
    }
}

/// One output: what is made, and what then becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// What the workers make.
    pub spec: OutputSpec,
    /// What the client does.
    pub client: ClientOutput,
}

/// What counts for all outputs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Naming {
    /// `--tag`.
    pub names: Vec<ImageRef>,
    /// `--annotation`.
    pub annotations: Vec<Annotation>,
    /// Whether the result is an index of images, one for each platform.
    pub index: bool,
    /// What is said of it beside it.
    pub attesting: Attesting,
}

/// What the flags say of outputs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs {
    /// Each of them.
    pub each: Vec<Output>,
    /// What was written of them and means nothing.
    pub idle: Vec<String>,
}

/// Reads all that the flags say of outputs; with none, and nothing that wants an image, there is none.
pub fn outputs(
    written: &[String],
    shorthands: Shorthands,
    naming: &Naming,
) -> Result<Outputs, FlagError> {
    let mut asked = written.iter().map(|text| Asked::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let cache_only = asked.iter().any(|asked| asked.kind == Type::CacheOnly);
    asked.retain(|asked| asked.kind != Type::CacheOnly);
    if shorthands.push {
        let is_image = |asked: &&mut Asked| matches!(asked.kind, Type::Image | Type::Registry);
        let mut images = asked.iter_mut().filter(is_image).peekable();
        if images.peek().is_none() {
            asked.push(Asked::new("--push", Type::Registry));
        } else {
            images.for_each(|asked| asked.push = true);
        }
    }
    let loads = |asked: &Asked| asked.kind == Type::Docker && asked.dest.is_none();
    if shorthands.load && !asked.iter().any(loads) {
        asked.push(Asked::new("--load", Type::Docker));
    }
    let image = !naming.names.is_empty() || shorthands.digest_wanted;
    if asked.is_empty() && image && !cache_only {
        asked.push(Asked::new("-t", Type::Image));
    }
    // A daemon unpacks what it loads at once: compressing for it would be for nothing, but for an image made anyway.
    let same = asked.iter().find(|asked| asked.kind.is_image() && !loads(asked));
    let same = same.map(Asked::layers).transpose()?;
    let mut outputs = Outputs::default();
    for mut asked in asked {
        // As with buildx, which lets -t name each image.
        if !naming.names.is_empty() && asked.names.take().is_some_and(|names| names != naming.names)
        {
            asked.idle.push("name");
        }
        let idle = asked.idle.iter();
        outputs.idle.extend(idle.map(|key| {
            format!("'{key}' of --output '{}' has no effect: -t names an image", asked.written)
        }));
        outputs.each.push(asked.understood(naming, same)?);
    }
    Ok(outputs)
}

/// The flags that stand for outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Shorthands {
    /// `--push`.
    pub push: bool,
    /// `--load`.
    pub load: bool,
    /// Something asks for the image's digest, such as `--iidfile`.
    pub digest_wanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    Image,
    Registry,
    Docker,
    Oci,
    Tar,
    Local,
    CacheOnly,
}

impl Type {
    fn is_image(self) -> bool {
        !matches!(self, Type::Tar | Type::Local | Type::CacheOnly)
    }
}

/// An output as it was written, each attribute read but not yet understood together.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an attribute of its own")]
struct Asked {
    written: String,
    kind: Type,
    dest: Option<String>,
    names: Option<Vec<ImageRef>>,
    push: bool,
    push_by_digest: bool,
    tar: Option<bool>,
    compression: Option<Compression>,
    level: Option<i32>,
    force: bool,
    rewrite_timestamp: bool,
    oci_media_types: Option<bool>,
    platform_split: Option<bool>,
    annotations: Vec<Annotation>,
    artifact: Option<bool>,
    prefix: Option<String>,
    store: bool,
    /// Attributes that mean nothing.
    idle: Vec<&'static str>,
}

impl Asked {
    fn new(written: &str, kind: Type) -> Asked {
        Asked {
            written: written.to_owned(),
            kind,
            dest: None,
            names: None,
            push: false,
            push_by_digest: false,
            tar: None,
            compression: None,
            level: None,
            force: false,
            rewrite_timestamp: false,
            oci_media_types: None,
            platform_split: None,
            annotations: Vec::new(),
            artifact: None,
            prefix: None,
            store: true,
            idle: Vec::new(),
        }
    }

    fn parse(text: &str) -> Result<Asked, FlagError> {
        let malformed = |problem: String| malformed(text, problem);
        let pairs = csv::pairs(text).ok_or_else(|| malformed("a quote is not closed".into()))?;
        if let [(_, None)] = pairs.as_slice() {
            let kind = if text == "-" { Type::Tar } else { Type::Local };
            return Ok(Asked { dest: Some(text.to_owned()), ..Asked::new(text, kind) });
        }
        let kind =
            pairs.iter().find(|(key, _)| key == "type").and_then(|(_, value)| value.as_deref());
        let kind = match kind.ok_or_else(|| malformed("it has no type=".into()))? {
            "image" => Type::Image,
            "registry" => Type::Registry,
            "docker" => Type::Docker,
            "oci" => Type::Oci,
            "tar" => Type::Tar,
            "local" => Type::Local,
            "cacheonly" => Type::CacheOnly,
            other => {
                let types = "image, registry, docker, oci, tar, local or cacheonly";
                return Err(malformed(format!("'{other}' is no type ({types})")));
            }
        };
        let mut asked = Asked::new(text, kind);
        for (key, value) in pairs {
            let value = value.ok_or_else(|| malformed(format!("'{key}' has no value")))?;
            asked.set(&key, value)?;
        }
        Ok(asked)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), FlagError> {
        let flag = |value: &str| self.flag(key, value);
        match key {
            "type" => {}
            "dest" => self.dest = Some(value),
            "push" => self.push = flag(&value)?,
            "push-by-digest" => self.push_by_digest = flag(&value)?,
            "tar" => self.tar = Some(flag(&value)?),
            "force-compression" => self.force = flag(&value)?,
            "rewrite-timestamp" => self.rewrite_timestamp = flag(&value)?,
            "platform-split" if !self.kind.is_image() => self.platform_split = Some(flag(&value)?),
            "oci-mediatypes" => self.oci_media_types = Some(flag(&value)?),
            "oci-artifact" if self.kind.is_image() => self.artifact = Some(flag(&value)?),
            "attestation-prefix" if !self.kind.is_image() && !value.contains('/') => {
                self.prefix = Some(value);
            }
            "name" => self.names = Some(read_names(&value)?),
            "compression" => self.compression = Some(self.read_compression(&value)?),
            "compression-level" => {
                let level = value.parse().map_err(|_| self.malformed_value(key, &value))?;
                self.level = Some(level);
            }
            key if self.set_foreign(key, &value)? => {}
            key => {
                let (place, name) = annotation(key).ok_or_else(|| {
                    malformed(&self.written, format!("'{key}' is no known attribute"))
                })?;
                let (place, platform) =
                    parse::annotation_place(("output", EXAMPLE), &self.written, place)?;
                let name = name.to_owned();
                self.annotations.push(Annotation { place, platform, name, value });
            }
        }
        Ok(())
    }

    /// Reads an attribute that is about what buildx does with an image elsewhere; says whether it is one.
    fn set_foreign(&mut self, key: &str, value: &str) -> Result<bool, FlagError> {
        let unsupported = |instead| FlagError::Unsupported {
            flag: "output",
            value: self.written.clone(),
            instead,
        };
        match key {
            // Nothing is unpacked here, and a name with the digest behind it finds every image that is kept or pushed.
            "unpack" | "name-canonical" if self.kind.is_image() => {
                self.flag(key, value)?;
            }
            // Of what BuildKit wrote into configs before 0.11, nothing is left to switch off.
            "dangling-name-prefix" | "buildinfo" | "buildinfo-attrs" if self.kind.is_image() => {}
            // Lines have it from --cache-to; who has no -t beside it is told that a name is needed.
            "ref" if self.kind.is_image() => self.idle.push("ref"),
            "store" if self.kind.is_image() => self.store = self.flag(key, value)?,
            "registry.insecure" if self.kind.is_image() => {
                if self.flag(key, value)? {
                    return Err(unsupported(
                        "say it in the configuration: [registry.\"HOST\"] with insecure = true, or http = true",
                    ));
                }
            }
            "prefer-nondist-layers" if self.kind.is_image() => {
                if self.flag(key, value)? {
                    return Err(unsupported(
                        "leave it out: all layers of an image go where it goes",
                    ));
                }
            }
            "context" if self.kind == Type::Docker => {
                return Err(unsupported("set DOCKER_HOST to the address of that context's daemon"));
            }
            "mode" if self.kind == Type::Local => match value {
                "copy" => {}
                "delete" => {
                    return Err(unsupported(
                        "empty the folder yourself before the build, and write mode=copy",
                    ));
                }
                _ => return Err(self.malformed_value(key, value)),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn malformed_value(&self, key: &str, value: &str) -> FlagError {
        malformed(&self.written, format!("'{value}' is no value of {key}"))
    }

    fn flag(&self, key: &str, value: &str) -> Result<bool, FlagError> {
        switch(value).ok_or_else(|| self.malformed_value(key, value))
    }

    fn read_compression(&self, value: &str) -> Result<Compression, FlagError> {
        match value {
            "gzip" => Ok(Compression::Gzip),
            "zstd" => Ok(Compression::Zstd),
            "uncompressed" => Ok(Compression::None),
            "estargz" => Err(FlagError::Unsupported {
                flag: "output",
                value: self.written.clone(),
                instead: "use compression=zstd or gzip; layers of both are seekable",
            }),
            _ => {
                let problem = format!("'{value}' is no compression (gzip, zstd or uncompressed)");
                Err(malformed(&self.written, problem))
            }
        }
    }

    fn layers(&self) -> Result<LayerCompression, FlagError> {
        let compression = self.compression.unwrap_or(Compression::Gzip);
        Ok(LayerCompression { compression, level: self.level(compression)?, force: self.force })
    }

    /// The level that was asked for, by the numbers that `BuildKit` takes: -1 is the usual one, -2 gzip's fastest, and
    /// zstd has the nearest to any.
    fn level(&self, compression: Compression) -> Result<Option<i32>, FlagError> {
        let Some(level) = self.level else { return Ok(None) };
        match compression {
            Compression::None => Ok(None),
            Compression::Zstd => Ok((level > 0).then(|| level.min(ZSTD_LEVEL_MAX))),
            Compression::Gzip => match level {
                -1 => Ok(None),
                -2 => Ok(Some(1)),
                0..=GZIP_LEVEL_MAX => Ok(Some(level)),
                _ => {
                    let problem = format!("gzip has no level {level} (0 to {GZIP_LEVEL_MAX})");
                    Err(malformed(&self.written, problem))
                }
            },
        }
    }

    fn understood(
        self,
        naming: &Naming,
        same: Option<LayerCompression>,
    ) -> Result<Output, FlagError> {
        let client = self.client()?;
        let attest = self.attests(&client, &naming.attesting)?;
        let mut annotations = naming.annotations.clone();
        annotations.extend(self.annotations.iter().cloned());
        if !self.kind.is_image() {
            annotations.clear();
        }
        if naming.index {
            self.refuse_index(&client, SEVERAL)?;
        } else if annotations.iter().any(Annotation::needs_index) {
            self.refuse_index(&client, OF_INDEX)?;
        }
        let mut layers = self.layers()?;
        if let (ClientOutput::Load, None) = (&client, self.compression) {
            let plain = LayerCompression { compression: Compression::None, ..layers };
            layers = same.unwrap_or(plain);
        }
        let kind = match self.kind {
            Type::Tar | Type::Local | Type::CacheOnly => {
                OutputKind::Files { split: self.platform_split.unwrap_or(naming.index) }
            }
            Type::Image | Type::Registry | Type::Docker | Type::Oci => self.image_kind(naming)?,
        };
        // Docker's media types have no word for zstd.
        let oci = layers.compression == Compression::Zstd || self.kind != Type::Docker;
        let needs_oci = !annotations.is_empty() || !attest.is_empty();
        let oci_media_types = self.oci_media_types.unwrap_or(oci) || needs_oci;
        let rewrite_timestamp = self.rewrite_timestamp;
        let inline_cache = false;
        let spec = OutputSpec {
            kind,
            layers,
            oci_media_types,
            annotations,
            rewrite_timestamp,
            inline_cache,
            attest,
        };
        Ok(Output { spec, client })
    }

    /// What is said of this output.
    fn attests(&self, client: &ClientOutput, asked: &Attesting) -> Result<Attests, FlagError> {
        let files = !self.kind.is_image();
        let docker = self.is_docker(client);
        let fits = |places: Places| match places {
            Places::Images => Ok(!files && !docker),
            Places::All if docker => Err(FlagError::Conflict {
                first: "an attestation".into(),
                second: format!("'{}'", self.written),
                instead: "the docker exporter does not support attestations, for its archives hold no index: write \
                          type=oci, push the image, or ask for it with inline-only=true, which leaves it out here",
            }),
            Places::All => Ok(true),
        };
        let mut attests =
            Attests { prefix: self.prefix.clone().unwrap_or_default(), ..Attests::default() };
        attests.storage = match self.artifact {
            None => asked.storage,
            Some(true) => Storage::Artifact,
            Some(false) => Storage::Image,
        };
        if let Some((spec, places)) = &asked.provenance
            && fits(*places)?
        {
            attests.provenance = Some(spec.clone());
        }
        if let Some((_, places)) = &asked.sbom {
            attests.sbom = fits(*places)?;
        }
        Ok(attests)
    }

    /// Docker's archives, and what it loads, hold one platform.
    fn refuse_index(
        &self,
        client: &ClientOutput,
        (what, instead): (&str, &'static str),
    ) -> Result<(), FlagError> {
        if !self.is_docker(client) {
            return Ok(());
        }
        Err(FlagError::Conflict {
            first: what.into(),
            second: format!("'{}'", self.written),
            instead,
        })
    }

    /// Whether it is what docker reads: one image.
    fn is_docker(&self, client: &ClientOutput) -> bool {
        match client {
            ClientOutput::DockerTar { .. } | ClientOutput::Load => true,
            ClientOutput::OciFolder { .. } => self.kind == Type::Docker,
            ClientOutput::Image
            | ClientOutput::OciTar { .. }
            | ClientOutput::Tar { .. }
            | ClientOutput::Local { .. } => false,
        }
    }

    fn image_kind(&self, naming: &Naming) -> Result<OutputKind, FlagError> {
        let push = self.push || self.kind == Type::Registry;
        if push && !matches!(self.kind, Type::Image | Type::Registry) {
            return Err(malformed(&self.written, "push=true is for type=image".into()));
        }
        let names = self.names.as_ref().unwrap_or(&naming.names);
        if push && names.is_empty() {
            return Err(FlagError::Needs {
                what: self.written.clone(),
                needs: "a name to push to (-t NAME)",
            });
        }
        if push && self.push_by_digest {
            // `latest` may be what nobody wrote.
            let tagged = |name: &&ImageRef| name.tag().is_some_and(|tag| tag != "latest");
            if let Some(name) = names.iter().find(tagged) {
                return Err(FlagError::Conflict {
                    first: format!("the tag of {name}"),
                    second: format!("'{}'", self.written),
                    instead: "name the repository alone, or leave push-by-digest out",
                });
            }
        }
        let kept = match self.kind {
            Type::Image => self.store && !self.push_by_digest,
            Type::Docker => self.dest.is_none(),
            Type::Registry | Type::Oci | Type::Tar | Type::Local | Type::CacheOnly => false,
        };
        Ok(OutputKind::Image {
            keep: kept && !names.is_empty(),
            names: names.iter().map(ToString::to_string).collect(),
            push,
            push_by_digest: self.push_by_digest,
        })
    }

    fn client(&self) -> Result<ClientOutput, FlagError> {
        let dest = || match self.dest.as_deref() {
            None | Some("-") => Dest::Stdout,
            Some(path) => Dest::File(path.into()),
        };
        let folder = |what: &str| match self.dest.as_deref() {
            None | Some("" | "-") => {
                let what = format!("{what} ('{}')", self.written);
                Err(FlagError::Needs { what, needs: "a folder (dest=DIR)" })
            }
            Some(path) => Ok(PathBuf::from(path)),
        };
        match (self.kind, self.tar) {
            (Type::Image | Type::Registry, _) if self.dest.is_some() => Err(malformed(
                &self.written,
                "an image in the store or a registry has no dest=".into(),
            )),
            (Type::Image | Type::Registry | Type::CacheOnly, _) => Ok(ClientOutput::Image),
            (Type::Docker | Type::Oci, Some(false)) => {
                Ok(ClientOutput::OciFolder { dest: folder("tar=false")? })
            }
            (Type::Docker, _) if self.dest.is_none() => Ok(ClientOutput::Load),
            (Type::Docker, _) => Ok(ClientOutput::DockerTar { dest: dest() }),
            (Type::Oci, _) => Ok(ClientOutput::OciTar { dest: dest() }),
            (Type::Tar, _) => Ok(ClientOutput::Tar { dest: dest() }),
            (Type::Local, _) => Ok(ClientOutput::Local { dest: folder("type=local")? }),
        }
    }
}

fn read_names(value: &str) -> Result<Vec<ImageRef>, FlagError> {
    value.split(',').map(|name| image_name("output", name.trim())).collect()
}

/// The place and the name of the annotation that an attribute names, if it names one.
fn annotation(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix("annotation")?;
    let (place, name) = match rest.strip_prefix('.') {
        Some(name) => ("manifest", name),
        None => rest.strip_prefix('-')?.split_once('.')?,
    };
    (!name.is_empty()).then_some((place, name))
}

const GZIP_LEVEL_MAX: i32 = 12;
const ZSTD_LEVEL_MAX: i32 = 22;

fn malformed(text: &str, problem: String) -> FlagError {
    FlagError::Malformed { flag: "output", value: text.to_owned(), problem, example: EXAMPLE }
}

/// Reads what names an image.
pub(crate) fn image_reference(flag: &'static str, text: &str) -> Result<ImageRef, FlagError> {
    text.parse().map_err(|source| FlagError::Name { flag, value: text.to_owned(), source })
}

/// Reads the name of an image that is made: a tag, and no digest.
pub(crate) fn image_name(flag: &'static str, text: &str) -> Result<ImageRef, FlagError> {
    let name = image_reference(flag, text)?;
    if name.digest().is_some() {
        return Err(FlagError::Malformed {
            flag,
            value: text.to_owned(),
            problem: "a digest comes of the build, and cannot be given".into(),
            example: "-t registry.example.com/team/app:1.2",
        });
    }
    Ok(name)
}
