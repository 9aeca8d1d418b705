//! Statements of in-toto: what is said, and of whom.

use dcbuild_model::{ContentDigest, Digest};
use dcbuild_oci::json::to_go_json;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::facts::{Finish, Provenance};
use crate::spec::SlsaVersion;

const STATEMENT_1: &str = "https://in-toto.io/Statement/v1";
const STATEMENT_01: &str = "https://in-toto.io/Statement/v0.1";
const SPDX: &str = "https://spdx.dev/Document";
const CYCLONE_DX: &str = "https://cyclonedx.org/bom";

/// What something is said of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Its name: a package URL, or a path.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
}

impl Subject {
    /// A file of an output of files.
    pub fn file(path: impl Into<String>, content: ContentDigest) -> Subject {
        Subject { name: path.into(), digest: content.0 }
    }
}

/// Something that is said of subjects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The type of the statement itself.
    pub kind: &'static str,
    /// The type of what is said.
    pub predicate_type: String,
    /// Of whom.
    pub subjects: Vec<Subject>,
    /// What.
    pub predicate: Value,
}

impl Statement {
    /// Says how its subjects were built.
    pub fn of_provenance(
        provenance: &Provenance,
        finish: &Finish,
        subjects: Vec<Subject>,
    ) -> Statement {
        // Who asks for the older predicate has readers that know the older statement.
        let kind = match provenance.spec.version {
            SlsaVersion::V02 => STATEMENT_01,
            SlsaVersion::V1 => STATEMENT_1,
        };
        Statement {
            kind,
            predicate_type: provenance.predicate_type().to_owned(),
            subjects,
            predicate: provenance.predicate(finish),
        }
    }

    /// Says what its subjects hold.
    pub fn of_sbom(sbom: Sbom, subjects: Vec<Subject>) -> Statement {
        let Sbom { predicate_type, predicate } = sbom;
        Statement { kind: STATEMENT_1, predicate_type, subjects, predicate }
    }

    /// The statement as it lies in a registry.
    pub fn to_json(&self) -> Vec<u8> {
        to_go_json(&self.as_written()).into_bytes()
    }

    /// The statement as it lies among files: indented.
    pub fn to_pretty_json(&self) -> Vec<u8> {
        let text = serde_json::to_string_pretty(&self.as_written())
            .expect("a statement has string keys and no failing parts");
        // As Go: none of these stands outside of a text.
        let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        text.into_bytes()
    }

    fn as_written(&self) -> Written<'_> {
        let subject = |subject: &Subject| json!({ "name": subject.name, "digest": { "sha256": hex(subject.digest) } });
        Written {
            kind: self.kind,
            predicate_type: &self.predicate_type,
            subject: self.subjects.iter().map(subject).collect(),
            predicate: &self.predicate,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(rename = "_type")]
    kind: &'a str,
    predicate_type: &'a str,
    subject: Vec<Value>,
    predicate: &'a Value,
}

/// The hex digits of a digest, without its algorithm.
pub(crate) fn hex(digest: Digest) -> String {
    let text = digest.to_string();
    text.split_once(':').map_or(text.clone(), |(_, digits)| digits.to_owned())
}

/// What a scanner found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sbom {
    /// The type of the list.
    pub predicate_type: String,
    /// The list.
    pub predicate: Value,
}

/// Says why what a scanner wrote is no list of what an image holds.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSbom {
    /// It is no JSON.
    #[error("it is not JSON")]
    Json(#[from] serde_json::Error),
    /// It is something else.
    #[error("it is neither a statement of in-toto nor a document of SPDX or CycloneDX")]
    Shape,
    /// It says how the image was built, which a scanner cannot know.
    #[error("it is a statement of provenance")]
    Provenance,
}

impl Sbom {
    /// Reads what a scanner wrote: a statement without subjects, as BuildKit's protocol has it, or the list alone.
    pub fn parse(bytes: &[u8]) -> Result<Sbom, InvalidSbom> {
        let mut fields: Map<String, Value> = match serde_json::from_slice(bytes)? {
            Value::Object(fields) => fields,
            _ => return Err(InvalidSbom::Shape),
        };
        let of = |predicate_type: &str, fields| Sbom {
            predicate_type: predicate_type.to_owned(),
            predicate: Value::Object(fields),
        };
        if fields.contains_key("spdxVersion") {
            return Ok(of(SPDX, fields));
        }
        if fields.get("bomFormat").is_some_and(|it| it == "CycloneDX") {
            return Ok(of(CYCLONE_DX, fields));
        }
        let kind = fields.get("predicateType").and_then(Value::as_str).map(str::to_owned);
        match (kind, fields.remove("predicate")) {
            (Some(kind), _) if kind.starts_with("https://slsa.dev/provenance/") => {
                Err(InvalidSbom::Provenance)
            }
            (Some(predicate_type), Some(predicate)) => Ok(Sbom { predicate_type, predicate }),
            _ => Err(InvalidSbom::Shape),
        }
    }
}
