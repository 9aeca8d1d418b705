//! Provenance in the words of SLSA, with the fields that BuildKit adds to them.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::facts::{Detail, Finish, Material, Named, Provenance};
use crate::spec::{Mode, SlsaVersion};

/// What the predicate's fields mean: BuildKit's description of them, which this crate follows.
const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// Who built it, where nobody else vouches for the builder.
const BUILDER: &str = "urn:dcbuild";

/// The frontend, by the name that BuildKit has for its own: both read Dockerfiles themselves.
const FRONTEND: &str = "dockerfile.v0";

/// The options of the frontend whose values are told only where everything is told.
const VALUES: [&str; 2] = ["build-arg:", "label:"];

impl Provenance {
    /// The type of the predicate.
    pub fn predicate_type(&self) -> &'static str {
        match self.spec.version {
            SlsaVersion::V02 => "https://slsa.dev/provenance/v0.2",
            SlsaVersion::V1 => "https://slsa.dev/provenance/v1",
        }
    }

    /// Writes the predicate.
    pub fn predicate(&self, finish: &Finish) -> Value {
        match self.spec.version {
            SlsaVersion::V02 => self.version_02(finish),
            SlsaVersion::V1 => self.version_1(finish),
        }
    }

    /// The predicate as buildx puts it into a metadata file: less steps, text and times.
    pub fn brief(&self, finish: &Finish) -> Value {
        let mut told = self.predicate(finish);
        for (path, field) in [
            ("", "metadata"),
            ("", "buildConfig"),
            ("/runDetails", "metadata"),
            ("/buildDefinition/internalParameters", "buildConfig"),
        ] {
            if let Some(Value::Object(fields)) = told.pointer_mut(path) {
                fields.shift_remove(field);
            }
        }
        told
    }

    fn version_1(&self, finish: &Finish) -> Value {
        let mut config = Map::new();
        if let Some(Material { uri, digest }) = &self.source.context {
            config.insert("uri".into(), json!(uri));
            config.insert("digest".into(), json!(digest));
        }
        config.insert("path".into(), json!(self.source.path));
        let mut internal = Map::new();
        if let Some(steps) = self.build_config() {
            internal.insert("buildConfig".into(), steps);
        }
        internal.insert("builderPlatform".into(), json!(self.builder_platform));
        let mut definition = Map::new();
        definition.insert("buildType".into(), json!(BUILD_TYPE_1));
        let external = json!({ "configSource": config, "request": self.parameters() });
        definition.insert("externalParameters".into(), external);
        definition.insert("internalParameters".into(), Value::Object(internal));
        if !self.materials.is_empty() {
            definition.insert("resolvedDependencies".into(), json!(self.materials));
        }
        let mut metadata = Map::new();
        metadata.insert("invocationID".into(), json!(self.invocation));
        metadata.insert("startedOn".into(), json!(self.started.rfc3339()));
        metadata.insert("finishedOn".into(), json!(finish.at.rfc3339()));
        metadata.insert("buildkit_metadata".into(), self.further(finish));
        if self.is_hermetic() {
            metadata.insert("buildkit_hermetic".into(), json!(true));
        }
        let complete = json!({
            "request": self.is_whole(),
            "resolvedDependencies": self.has_all_materials(),
        });
        metadata.insert("buildkit_completeness".into(), complete);
        if self.spec.reproducible {
            metadata.insert("buildkit_reproducible".into(), json!(true));
        }
        let builder =
            json!({ "id": self.builder(), "version": { "dcbuild": env!("CARGO_PKG_VERSION") } });
        json!({
            "buildDefinition": definition,
            "runDetails": { "builder": builder, "metadata": metadata },
        })
    }

    fn version_02(&self, finish: &Finish) -> Value {
        let mut config = Map::new();
        if let Some(Material { uri, digest }) = &self.source.context {
            config.insert("uri".into(), json!(uri));
            config.insert("digest".into(), json!(digest));
        }
        config.insert("entryPoint".into(), json!(self.source.path));
        let mut metadata = Map::new();
        metadata.insert("buildInvocationID".into(), json!(self.invocation));
        metadata.insert("buildStartedOn".into(), json!(self.started.rfc3339()));
        metadata.insert("buildFinishedOn".into(), json!(finish.at.rfc3339()));
        let complete = json!({
            "parameters": self.is_whole(),
            "environment": true,
            "materials": self.has_all_materials(),
        });
        metadata.insert("completeness".into(), complete);
        metadata.insert("reproducible".into(), json!(self.spec.reproducible));
        metadata.insert(format!("{BUILD_TYPE_02}#metadata"), self.further(finish));
        if self.is_hermetic() {
            metadata.insert(format!("{BUILD_TYPE_02}#hermetic"), json!(true));
        }
        let mut predicate = Map::new();
        predicate.insert("builder".into(), json!({ "id": self.builder() }));
        predicate.insert("buildType".into(), json!(BUILD_TYPE_02));
        if !self.materials.is_empty() {
            predicate.insert("materials".into(), json!(self.materials));
        }
        let invocation = json!({
            "configSource": config,
            "parameters": self.parameters(),
            "environment": { "platform": self.builder_platform },
        });
        predicate.insert("invocation".into(), invocation);
        if let Some(steps) = self.build_config() {
            predicate.insert("buildConfig".into(), steps);
        }
        predicate.insert("metadata".into(), Value::Object(metadata));
        Value::Object(predicate)
    }

    fn builder(&self) -> &str {
        self.spec.builder_id.as_deref().unwrap_or(BUILDER)
    }

    /// Whether nothing is kept back of what was asked.
    fn is_whole(&self) -> bool {
        self.spec.mode == Mode::Max || !self.request.args.keys().any(|name| is_value(name))
    }

    /// A client's folder has no digest that anybody could look up.
    fn has_all_materials(&self) -> bool {
        self.request.locals.is_empty()
    }

    fn is_hermetic(&self) -> bool {
        self.has_all_materials() && !self.network
    }

    fn parameters(&self) -> Value {
        let all = self.spec.mode == Mode::Max;
        let args = self.request.args.iter().filter(|(name, _)| all || !is_value(name));
        let args: BTreeMap<&String, &String> = args.collect();
        let mut parameters = Map::new();
        parameters.insert("frontend".into(), json!(FRONTEND));
        if !args.is_empty() {
            parameters.insert("args".into(), json!(args));
        }
        for (field, named) in [("secrets", &self.request.secrets), ("ssh", &self.request.ssh)] {
            if all && !named.is_empty() {
                parameters.insert(field.into(), named.iter().map(of_named).collect());
            }
        }
        if !self.request.locals.is_empty() {
            let local = |name: &String| json!({ "name": name });
            parameters.insert("locals".into(), self.request.locals.iter().map(local).collect());
        }
        Value::Object(parameters)
    }

    fn detail(&self) -> Option<&Detail> {
        self.detail.as_ref().filter(|_| self.spec.mode == Mode::Max)
    }

    fn build_config(&self) -> Option<Value> {
        let steps = &self.detail()?.steps;
        let step = |(number, step): (usize, &crate::facts::Step)| {
            let mut fields = Map::new();
            fields.insert("id".into(), json!(format!("step{number}")));
            fields.insert("op".into(), step.op.clone());
            if !step.inputs.is_empty() {
                let inputs = step.inputs.iter().map(|input| format!("step{input}:0"));
                fields.insert("inputs".into(), json!(inputs.collect::<Vec<_>>()));
            }
            Value::Object(fields)
        };
        let keys = steps
            .iter()
            .enumerate()
            .filter_map(|(number, step)| Some((step.key.clone()?, json!(format!("step{number}")))));
        Some(json!({
            "llbDefinition": steps.iter().enumerate().map(step).collect::<Vec<_>>(),
            "digestMapping": keys.collect::<Map<_, _>>(),
        }))
    }

    /// What BuildKit tells that SLSA has no field for.
    fn further(&self, finish: &Finish) -> Value {
        let mut fields = Map::new();
        if !self.vcs.is_empty() {
            fields.insert("vcs".into(), json!(self.vcs));
        }
        let Some(Detail { text, steps, layers }) = self.detail() else {
            return Value::Object(fields);
        };
        let located = steps.iter().enumerate().filter_map(|(number, step)| {
            let (first, last) = step.lines?;
            let range = json!({ "start": { "line": first }, "end": { "line": last } });
            Some((format!("step{number}"), json!({ "locations": [{ "ranges": [range] }] })))
        });
        let source = json!({
            "locations": located.collect::<Map<_, _>>(),
            "infos": [{
                "filename": self.source.path,
                "language": "Dockerfile",
                "data": base64::engine::general_purpose::STANDARD.encode(text),
            }],
        });
        fields.insert("source".into(), source);
        let made = layers.iter().filter_map(|layers| {
            let chain = finish.layers.get(..layers.count).filter(|chain| !chain.is_empty())?;
            Some((format!("step{}:0", layers.step), json!([chain])))
        });
        let made: Map<String, Value> = made.collect();
        if !made.is_empty() {
            fields.insert("layers".into(), Value::Object(made));
        }
        Value::Object(fields)
    }
}

fn is_value(name: &str) -> bool {
    VALUES.iter().any(|prefix| name.starts_with(prefix))
}

fn of_named(Named { id, optional }: &Named) -> Value {
    if *optional { json!({ "id": id, "optional": true }) } else { json!({ "id": id }) }
}
