//! Every golden case is planned, with the base image's config and without any file: config, history, layers and the
//! errors of planning must be those that BuildKit gave.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::path::Path;

use dcbuild_model::{ConfigDigest, DiffId, Digest, LayerDigest, ManifestDigest, SelectionDigest};
use dcbuild_oci::ImageConfig;
use dcbuild_plan::{
    ContextSource, ImageLayer, ImageSource, Need, Plan, PlanError, Planned, Request, ResolvedImage,
    Sources, plan,
};
use serde_json::{Value, json};

/// Cases that differ on purpose or whose feature is not there yet.
const OPEN: &[(&str, &str)] = &[
    ("lex-long-line", "BuildKit names the line before the one that is too long"),
    (
        "cmd-json-surrogate",
        "half a surrogate pair is no text: the array falls back to the shell form",
    ),
    (
        "multistage-named-context",
        "BuildKit adds a history line of its own for a base without a history",
    ),
];

/// Errors that only show when files are read or processes run.
const LATER: &[&str] = &[
    "did not complete successfully",
    "failed to compute cache key",
    "no such file or directory",
    "not a directory",
    "cannot copy to non-directory",
    "cannot replace to directory",
    "syntax error in pattern",
    "illegal exclusion pattern",
    "invalid syntax",
    "invalid chmod parameter",
    "invalid user index",
    "unexpected EOF",
    "secret none: not found",
    "secret nope: not found",
    "no SSH key",
    "failed to read dockerfile",
    "unpigz",
    "failed to parse check options",
    "open : is a directory",
    "open /a/b",
];

fn base() -> ResolvedImage {
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},"history":[{"created":"2026-01-01T00:00:00Z","created_by":"busybox"}]}"#;
    let digest = Digest::of(b"base");
    ResolvedImage {
        manifest: ManifestDigest(digest),
        named: ManifestDigest(digest),
        config_digest: ConfigDigest(digest),
        config: ImageConfig::parse(config).unwrap(),
        layers: vec![ImageLayer {
            digest: LayerDigest(digest),
            diff_id: DiffId(digest),
            size: 1,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        }],
        source: ImageSource::Registry { repository: "docker.io/library/busybox".into() },
    }
}

fn request(case: &Value) -> Request {
    let mut request = Request::new(case["dockerfile"].as_str().unwrap());
    request.target = case["target"].as_str().map(str::to_owned);
    for (name, value) in case["build_args"].as_object().into_iter().flatten() {
        request.build_args.insert(name.clone(), value.as_str().unwrap_or("").to_owned());
    }
    for name in case["contexts"].as_object().into_iter().flatten().map(|(name, _)| name) {
        request.contexts.insert(name.clone(), ContextSource::Folder {});
    }
    for (name, value) in case["opts"].as_object().into_iter().flatten() {
        option(&mut request, name, value.as_str().unwrap());
    }
    let platforms = case["platform"].as_str().into_iter();
    request.platforms = platforms.map(|platform| platform.parse().unwrap()).collect();
    request
}

fn option(request: &mut Request, name: &str, value: &str) {
    match name.split_once(':') {
        Some(("label", name)) => {
            request.labels.insert(name.into(), value.into());
        }
        Some(("context", name)) => {
            let reference = value.strip_prefix("docker-image://").unwrap().to_owned();
            request.contexts.insert(name.into(), ContextSource::DockerImage { reference });
        }
        Some(_) | None => {
            let (host, address) = value.split_once('=').unwrap();
            request.hosts.push((host.into(), address.into()));
        }
    }
}

fn planned(request: &Request) -> Result<Plan, PlanError> {
    let mut sources = Sources::default();
    for _ in 0..20 {
        match plan(request, &sources)? {
            Planned::Ready(plan) => return Ok(*plan),
            Planned::Lacks(needs) => {
                for need in needs {
                    match need {
                        Need::Verdict(_) | Need::Remote(_) => {
                            panic!("there is no policy of a client")
                        }
                        Need::Image { reference, platform } => {
                            let known = reference == "docker.io/library/busybox:golden";
                            let answer = if known {
                                Ok(base())
                            } else {
                                Err(format!("{reference}: not found").into())
                            };
                            sources.images.insert((reference, platform), answer);
                        }
                        Need::Selection { context, selection } => {
                            let digest =
                                SelectionDigest(Digest::of(format!("{selection:?}").as_bytes()));
                            sources.selections.insert((context, selection), Ok(digest));
                        }
                    }
                }
            }
        }
    }
    panic!("the plan asks for ever");
}

fn difference(case: &Value) -> Option<String> {
    let expect = &case["expect"];
    // A Dockerfile that cannot be read never comes to a plan.
    case["dockerfile"].as_str()?;
    let result = planned(&request(case));
    let error = expect["error"].as_str();
    match (result, error) {
        (Ok(_), Some(error)) if LATER.iter().any(|later| error.contains(later)) => None,
        (Ok(_), Some(error)) => Some(format!("planned, but BuildKit says: {error}")),
        (Err(found), None) => Some(format!("error: {found}")),
        (Err(found), Some(error)) => {
            let line = found.lines().map(|(first, last)| (u64::from(first), u64::from(last)));
            let expected = expect["line"].as_u64();
            let same = match (line, expected) {
                (Some((first, last)), Some(line)) => (first..=last).contains(&line),
                (_, None) => true,
                (None, Some(_)) => false,
            };
            (!same).then(|| {
                format!("at {line:?} instead of {expected:?}: {found}\n  BuildKit: {error}")
            })
        }
        (Ok(plan), None) => different_image(&plan, expect),
    }
}

fn different_image(plan: &Plan, expect: &Value) -> Option<String> {
    let config: Value = serde_json::from_str(&plan.images[0].template.config).unwrap();
    let sorted = |value: &Value| {
        value.as_object().cloned().unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>()
    };
    let (found, wanted) = (sorted(&config["config"]), sorted(&expect["config"]));
    if found != wanted {
        return Some(format!("config\n  found  {}\n  wanted {}", json!(found), json!(wanted)));
    }
    let template = &plan.images[0].template;
    let lines: Vec<Value> =
        template.history.iter().map(|line| json!([line.created_by, line.step.is_none()])).collect();
    if Value::from(lines.clone()) != expect["history"] {
        return Some(format!(
            "history\n  found  {}\n  wanted {}",
            Value::from(lines),
            expect["history"]
        ));
    }
    let layers = template.history.iter().filter(|line| line.step.is_some()).count();
    (Some(u64::try_from(layers).unwrap()) != expect["layers"].as_u64())
        .then(|| format!("{layers} layers instead of {}", expect["layers"]))
}

#[test]
fn plans_agree_with_buildkit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cases");
    let mut count = 0;
    let mut report = String::new();
    for file in std::fs::read_dir(folder).unwrap() {
        for line in std::fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let name = case["name"].as_str().unwrap();
            count += 1;
            let open = OPEN.iter().find(|(open, _)| *open == name);
            match (difference(&case), open) {
                (None, Some(_)) => {
                    report.push_str(&format!("{name}: agrees now; take it off the list\n"));
                }
                (Some(difference), None) => report.push_str(&format!("{name}: {difference}\n")),
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
    }
    assert!(count > 1200, "only {count} golden cases were found");
    assert!(report.is_empty(), "{report}");
}
