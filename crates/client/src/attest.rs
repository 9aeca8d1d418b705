//! `--attest`, `--provenance` and `--sbom`: what is to be said of what is made.

use std::collections::BTreeMap;

use dcbuild_attest::{Mode, ProvenanceSpec, SlsaVersion, Storage};
use dcbuild_oci::ImageRef;
use dcbuild_plan::Scan;
use dcbuild_process::Env;

use crate::FlagError;
use crate::args::BuildFlags;
use crate::csv;
use crate::variables::{self, switch};

const PROVENANCE: &str = "provenance";
const SBOM: &str = "sbom";

/// The scanner that buildx takes where none is named.
const GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";

/// Where something may be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Places {
    /// In every output; one that has no room for it is an error.
    #[default]
    All,
    /// In images alone; where there is no room for it, it is left out.
    Images,
}

/// What is to be said of what is made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attesting {
    /// How it was built.
    pub provenance: Option<(ProvenanceSpec, Places)>,
    /// What it holds.
    pub sbom: Option<(Scan, Places)>,
    /// How that lies in an index.
    pub storage: Storage,
}

impl Attesting {
    /// Reads the flags; of two words about the same kind nobody knows which is meant.
    pub(crate) fn new(flags: &BuildFlags, env: &Env) -> Result<Attesting, FlagError> {
        let mut attesting = Attesting { storage: storage(env)?, ..Attesting::default() };
        let mut seen = Vec::new();
        let short = [(PROVENANCE, &flags.provenance), (SBOM, &flags.sbom)];
        let short = short.into_iter().filter_map(|(kind, value)| Some((kind, value.as_ref()?)));
        let short = short.filter(|(_, value)| !value.is_empty());
        let short = short.map(|(kind, value)| Asked::short(kind, value));
        for asked in flags.attests.iter().map(|text| Asked::long(text)).chain(short) {
            let asked = asked?;
            if seen.contains(&asked.kind) {
                return Err(asked.malformed(format!("{} was asked for before", asked.kind)));
            }
            seen.push(asked.kind);
            match asked.kind {
                _ if asked.is_disabled()? => {}
                PROVENANCE => attesting.provenance = Some(asked.provenance()?),
                _ => attesting.sbom = Some(asked.sbom()?),
            }
        }
        Ok(attesting)
    }
}

/// How attestations lie in an index, where an output does not say so.
fn storage(env: &Env) -> Result<Storage, FlagError> {
    Ok(match variables::switched(env, "BUILDX_NO_DEFAULT_OCI_ARTIFACT")? {
        Some(true) => Storage::Image,
        Some(false) | None => Storage::Artifact,
    })
}

/// How much provenance goes into the metadata file.
pub(crate) fn told(env: &Env) -> Result<Option<Mode>, FlagError> {
    match env.metadata_provenance() {
        None | Some("min") => Ok(Some(Mode::Min)),
        Some("max") => Ok(Some(Mode::Max)),
        Some("disabled") => Ok(None),
        Some(other) => match switch(other) {
            Some(told) => Ok(told.then_some(Mode::Min)),
            None => Err(FlagError::Variable {
                variable: "BUILDX_METADATA_PROVENANCE",
                value: other.to_owned(),
                instead: "set it to min, max or disabled",
            }),
        },
    }
}

/// An attestation as it was written.
struct Asked {
    flag: &'static str,
    written: String,
    kind: &'static str,
    attributes: Vec<(String, String)>,
}

impl Asked {
    /// Reads a value of `--attest`.
    fn long(written: &str) -> Result<Asked, FlagError> {
        let mut asked = Asked {
            flag: "attest",
            written: written.to_owned(),
            kind: PROVENANCE,
            attributes: Vec::new(),
        };
        asked.attributes = asked.read(written)?;
        let kind = asked.attributes.iter().find(|(key, _)| key == "type");
        let Some((_, kind)) = kind else {
            return Err(asked.malformed("it has no type= (provenance or sbom)".into()));
        };
        asked.kind = match kind.as_str() {
            PROVENANCE => PROVENANCE,
            SBOM => SBOM,
            other => {
                let problem = format!("'{other}' is no type of attestation (provenance or sbom)");
                return Err(asked.malformed(problem));
            }
        };
        Ok(asked)
    }

    /// Reads a value of `--provenance` or `--sbom`: a word for yes or no, or attributes.
    fn short(kind: &'static str, written: &str) -> Result<Asked, FlagError> {
        let mut asked =
            Asked { flag: kind, written: written.to_owned(), kind, attributes: Vec::new() };
        asked.attributes = match switch(written) {
            Some(wanted) => vec![("disabled".to_owned(), (!wanted).to_string())],
            None => asked.read(written)?,
        };
        Ok(asked)
    }

    /// The attributes; their names keep their letters, for a scanner may care.
    fn read(&self, written: &str) -> Result<Vec<(String, String)>, FlagError> {
        let fields = csv::fields(written);
        let fields = fields.ok_or_else(|| self.malformed("a quote is not closed".into()))?;
        let attribute = |field: String| match field.split_once('=') {
            Some((key, value)) => {
                let key = key.trim();
                let known = ["type", "disabled", "generator", "inline-only"];
                let known = known.into_iter().find(|known| key.eq_ignore_ascii_case(known));
                Ok((known.unwrap_or(key).to_owned(), value.to_owned()))
            }
            None => Err(self.malformed(format!("'{field}' has no value"))),
        };
        fields.into_iter().map(attribute).collect()
    }

    fn malformed(&self, problem: String) -> FlagError {
        let example = match self.flag {
            PROVENANCE => "--provenance=true, --provenance=mode=min or --provenance=false",
            SBOM => "--sbom=true, --sbom=generator=IMAGE or --sbom=false",
            _ => "--attest type=provenance,mode=min or --attest type=sbom,generator=IMAGE",
        };
        FlagError::Malformed { flag: self.flag, value: self.written.clone(), problem, example }
    }

    fn switch(&self, key: &str, value: &str) -> Result<bool, FlagError> {
        let bad = || self.malformed(format!("'{value}' is no value of {key} (true or false)"));
        switch(value).ok_or_else(bad)
    }

    fn is_disabled(&self) -> Result<bool, FlagError> {
        match self.attributes.iter().rev().find(|(key, _)| key == "disabled") {
            Some((key, value)) => self.switch(key, value),
            None => Ok(false),
        }
    }

    fn places(&self, value: &str) -> Result<Places, FlagError> {
        let inline = self.switch("inline-only", value)?;
        Ok(if inline { Places::Images } else { Places::All })
    }

    fn provenance(&self) -> Result<(ProvenanceSpec, Places), FlagError> {
        let (mut spec, mut places) = (ProvenanceSpec::default(), Places::All);
        for (key, value) in &self.attributes {
            let bad = |known: &str| {
                Err(self.malformed(format!("'{value}' is no value of {key} ({known})")))
            };
            match key.as_str() {
                "type" | "disabled" => {}
                "inline-only" => places = self.places(value)?,
                "mode" => {
                    spec.mode = match value.as_str() {
                        "min" => Mode::Min,
                        "max" | "full" => Mode::Max,
                        _ => return bad("min or max"),
                    }
                }
                "version" => {
                    spec.version = match value.as_str() {
                        "v0.2" => SlsaVersion::V02,
                        "v1" => SlsaVersion::V1,
                        _ => return bad("v0.2 or v1"),
                    }
                }
                "builder-id" => spec.builder_id = Some(value.clone()),
                "reproducible" => spec.reproducible = self.switch(key, value)?,
                "filename" if value.is_empty() || value.contains('/') => {
                    return bad("a name without folders");
                }
                "filename" => spec.file = Some(value.clone()),
                _ => {
                    return Err(self.malformed(format!(
                        "'{key}' is no attribute of provenance (mode, version, builder-id, reproducible, filename, inline-only, disabled)"
                    )));
                }
            }
        }
        Ok((spec, places))
    }

    fn sbom(&self) -> Result<(Scan, Places), FlagError> {
        let (mut generator, mut places) = (GENERATOR.to_owned(), Places::All);
        let mut parameters = BTreeMap::new();
        for (key, value) in &self.attributes {
            match key.as_str() {
                "type" | "disabled" => {}
                "inline-only" => places = self.places(value)?,
                "generator" => generator.clone_from(value),
                "" => return Err(self.malformed("an attribute has no name".into())),
                _ if key
                    .chars()
                    .any(|char| !char.is_ascii_alphanumeric() && !"_-.".contains(char)) =>
                {
                    return Err(self.malformed(format!("'{key}' is no name of a variable")));
                }
                _ => drop(parameters.insert(key.clone(), value.clone())),
            }
        }
        generator.parse::<ImageRef>().map_err(|error| {
            self.malformed(format!("'{generator}' is no name of an image: {error}"))
        })?;
        Ok((Scan { generator, parameters }, places))
    }
}
