use dcbuild_attest::SlsaVersion;
use dcbuild_model::{
    BuildId, ConfigDigest, DiffId, Digest, LayerDigest, Platform, Scope, SelectionDigest,
};
use dcbuild_oci::{Descriptor, ImageConfig};
use dcbuild_plan::{ImageLayer, ImageSource, Need, Planned, ResolvedImage, Scan, Sources, plan};
use dcbuild_proto::document::{Aim, Caches, Origin, Upload};
use expect_test::{Expect, expect};
use serde_json::Value;

use super::*;
use crate::journal::Journal;

const DOCKERFILE: &str = "FROM alpine:3.17 AS build\n\
                          ARG VERSION\n\
                          RUN --mount=type=secret,id=token,required=true --mount=type=ssh make $VERSION\n\
                          FROM scratch\n\
                          WORKDIR /app\n\
                          COPY --from=build /out /app/\n\
                          COPY <<EOF /note\nhello\nEOF\n\
                          ADD https://example.com/tool.tar.gz /tool\n";

fn sources(request: &Request) -> Plan {
    let mut sources = Sources::default();
    loop {
        match plan(request, &sources).unwrap() {
            Planned::Ready(plan) => return *plan,
            Planned::Lacks(needs) => {
                for need in needs {
                    match need {
                        Need::Verdict(_) | Need::Remote(_) => {
                            panic!("there is no policy of a client")
                        }
                        Need::Image { reference, platform } => {
                            let found = Ok(image(&platform));
                            sources.images.insert((reference, platform), found);
                        }
                        Need::Selection { context, selection } => {
                            let digest = SelectionDigest(Digest::of(context.as_bytes()));
                            sources.selections.insert((context, selection), Ok(digest));
                        }
                    }
                }
            }
        }
    }
}

fn image(platform: &Platform) -> ResolvedImage {
    let mut config = ImageConfig::for_platform(platform);
    config.config.env = vec!["PATH=/bin".into()];
    config.config.cmd = vec!["/bin/scan".into()];
    let layer = ImageLayer {
        digest: LayerDigest(Digest([2; 32])),
        diff_id: DiffId(Digest([3; 32])),
        size: 1,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
    };
    ResolvedImage {
        manifest: ManifestDigest(Digest([4; 32])),
        named: ManifestDigest(Digest([5; 32])),
        config_digest: ConfigDigest(Digest([6; 32])),
        config,
        layers: vec![layer],
        source: ImageSource::Registry { repository: "docker.io/library/alpine".into() },
    }
}

struct World {
    build: Build,
    planned: PlannedBuild,
}

fn world(request: Request, origin: Origin) -> World {
    let platform: Platform = "linux/amd64".parse().unwrap();
    let request = Request { build_platform: platform, ..request };
    let plan = sources(&request);
    let tool = Material::new("https://example.com/tool.tar.gz", "sha256", "77".repeat(32));
    let added = Added {
        remote: dcbuild_model::Remote::Http("https://example.com/tool.tar.gz".into()),
        checksum: None,
    };
    let planned = PlannedBuild {
        plan,
        taken: Vec::new(),
        packs: Vec::new(),
        secrets: BTreeSet::new(),
        hosts: BTreeSet::new(),
        mirrors: BTreeMap::new(),
        passed: Vec::new(),
        fetched: BTreeMap::from([(added.context(), tool)]),
        builds_on: None,
    };
    let submission = Submission {
        request,
        outputs: Vec::new(),
        detached: false,
        aim: Aim::Build {},
        in_place: false,
        title: "test".into(),
        agents: BTreeSet::new(),
        caches: Caches::default(),
        origin,
        upload: Upload::All,
        scope: None,
    };
    let submitted = UnixTime { secs: 1_700_000_000, nanos: 500_000_000 };
    let build = Build::new(
        BuildId::from_bits(1),
        submission,
        submitted,
        (&Scope::local(), Journal::in_memory()),
    );
    World { build, planned }
}

fn request() -> Request {
    let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    Request {
        build_args: one("VERSION", "1.2"),
        labels: one("team", "a"),
        ..Request::new(DOCKERFILE)
    }
}

fn finish() -> Finish {
    let at = UnixTime { secs: 1_700_000_060, nanos: 0 };
    Finish { at, layers: Vec::new() }
}

fn check(world: &World, spec: &ProvenanceSpec, want: &Expect) {
    let provenance = of(&world.build, &world.planned, 0, spec);
    let predicate = provenance.predicate(&finish());
    want.assert_eq(
        &(format!("{predicate:#}").replace(env!("CARGO_PKG_VERSION"), "VERSION") + "\n"),
    );
}

fn min(version: SlsaVersion) -> ProvenanceSpec {
    ProvenanceSpec { mode: Mode::Min, version, ..ProvenanceSpec::default() }
}

#[test]
fn little_is_told_of_a_build_of_a_folder() {
    check(
        &world(request(), Origin::default()),
        &min(SlsaVersion::V1),
        &expect![[r#"
        {
          "buildDefinition": {
            "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            "externalParameters": {
              "configSource": {
                "path": "Dockerfile"
              },
              "request": {
                "frontend": "dockerfile.v0",
                "locals": [
                  {
                    "name": "dockerfile"
                  }
                ]
              }
            },
            "internalParameters": {
              "builderPlatform": "linux/amd64"
            },
            "resolvedDependencies": [
              {
                "uri": "pkg:docker/alpine@3.17?platform=linux%2Famd64",
                "digest": {
                  "sha256": "0505050505050505050505050505050505050505050505050505050505050505"
                }
              },
              {
                "uri": "https://example.com/tool.tar.gz",
                "digest": {
                  "sha256": "7777777777777777777777777777777777777777777777777777777777777777"
                }
              }
            ]
          },
          "runDetails": {
            "builder": {
              "id": "urn:dcbuild",
              "version": {
                "dcbuild": "VERSION"
              }
            },
            "metadata": {
              "invocationID": "00000000000000000000000001",
              "startedOn": "2023-11-14T22:13:20.5Z",
              "finishedOn": "2023-11-14T22:14:20Z",
              "buildkit_metadata": {},
              "buildkit_completeness": {
                "request": false,
                "resolvedDependencies": false
              }
            }
          }
        }
    "#]],
    );
}

#[test]
fn the_older_form_says_the_same() {
    check(
        &world(request(), Origin::default()),
        &min(SlsaVersion::V02),
        &expect![[r#"
        {
          "builder": {
            "id": "urn:dcbuild"
          },
          "buildType": "https://mobyproject.org/buildkit@v1",
          "materials": [
            {
              "uri": "pkg:docker/alpine@3.17?platform=linux%2Famd64",
              "digest": {
                "sha256": "0505050505050505050505050505050505050505050505050505050505050505"
              }
            },
            {
              "uri": "https://example.com/tool.tar.gz",
              "digest": {
                "sha256": "7777777777777777777777777777777777777777777777777777777777777777"
              }
            }
          ],
          "invocation": {
            "configSource": {
              "entryPoint": "Dockerfile"
            },
            "parameters": {
              "frontend": "dockerfile.v0",
              "locals": [
                {
                  "name": "dockerfile"
                }
              ]
            },
            "environment": {
              "platform": "linux/amd64"
            }
          },
          "metadata": {
            "buildInvocationID": "00000000000000000000000001",
            "buildStartedOn": "2023-11-14T22:13:20.5Z",
            "buildFinishedOn": "2023-11-14T22:14:20Z",
            "completeness": {
              "parameters": false,
              "environment": true,
              "materials": false
            },
            "reproducible": false,
            "https://mobyproject.org/buildkit@v1#metadata": {}
          }
        }
    "#]],
    );
}

#[test]
fn everything_is_told_with_its_steps() {
    let spec = ProvenanceSpec {
        builder_id: Some("https://ci.example/1".into()),
        reproducible: true,
        ..ProvenanceSpec::default()
    };
    let world = world(request(), Origin::default());
    let predicate = of(&world.build, &world.planned, 0, &spec).predicate(&finish());
    let parameters = &predicate["buildDefinition"]["internalParameters"];
    let steps = parameters["buildConfig"]["llbDefinition"].as_array().unwrap();
    let mapped = parameters["buildConfig"]["digestMapping"].as_object().unwrap().values();
    let mut lines: Vec<String> = steps.iter().map(Value::to_string).collect();
    lines.push(mapped.map(Value::to_string).collect::<Vec<_>>().join(" "));
    lines.push(predicate["buildDefinition"]["externalParameters"].to_string());
    let mut details = predicate["runDetails"].clone();
    details["builder"]["version"] = Value::Null;
    lines.push(details.to_string());
    expect![[r#"
        {"id":"step0","op":{"Op":{"source":{"identifier":"docker-image://docker.io/library/alpine:3.17@sha256:0505050505050505050505050505050505050505050505050505050505050505"}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}}}
        {"id":"step1","op":{"Op":{"exec":{"meta":{"args":["/bin/sh","-c","make $VERSION"],"env":["PATH=/bin","VERSION=1.2"],"cwd":"/"},"mounts":[{"input":0,"dest":"/","output":0},{"input":-1,"dest":"/run/secrets/token","output":-1,"mountType":1,"secretOpt":{"ID":"token","optional":false}},{"input":-1,"dest":"/run/buildkit/ssh_agent.0","output":-1,"mountType":2,"SSHOpt":{"ID":"default","optional":true}}]}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}},"inputs":["step0:0"]}
        {"id":"step2","op":{"Op":{"file":{"actions":[{"input":-1,"output":0,"Action":{"mkdir":{"path":"/app","mode":493,"makeParents":true}}}]}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}}}
        {"id":"step3","op":{"Op":{"file":{"actions":[{"input":0,"secondaryInput":1,"output":0,"Action":{"copy":{"src":["/out"],"dest":"/app/","createDestPath":true}}}]}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}},"inputs":["step2:0","step1:0"]}
        {"id":"step4","op":{"Op":{"file":{"actions":[{"input":0,"secondaryInput":-1,"output":0,"Action":{"mkfile":{"path":"/note","name":"EOF","data":"aGVsbG8K"}}}]}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}},"inputs":["step3:0"]}
        {"id":"step5","op":{"Op":{"source":{"identifier":"https://example.com/tool.tar.gz"}},"constraints":{}}}
        {"id":"step6","op":{"Op":{"file":{"actions":[{"input":0,"secondaryInput":1,"output":0,"Action":{"copy":{"src":["tool.tar.gz"],"dest":"/tool","createDestPath":true}}}]}},"platform":{"Architecture":"amd64","OS":"linux"},"constraints":{}},"inputs":["step4:0","step5:0"]}
        {"id":"step7","op":{"Op":{}},"inputs":["step6:0"]}
        "step0" "step1" "step2" "step3" "step4" "step6"
        {"configSource":{"path":"Dockerfile"},"request":{"frontend":"dockerfile.v0","args":{"build-arg:VERSION":"1.2","label:team":"a"},"secrets":[{"id":"token"}],"ssh":[{"id":"default","optional":true}],"locals":[{"name":"dockerfile"}]}}
        {"builder":{"id":"https://ci.example/1","version":null},"metadata":{"invocationID":"00000000000000000000000001","startedOn":"2023-11-14T22:13:20.5Z","finishedOn":"2023-11-14T22:14:20Z","buildkit_metadata":{"source":{"locations":{"step0":{"locations":[{"ranges":[{"start":{"line":1},"end":{"line":1}}]}]},"step1":{"locations":[{"ranges":[{"start":{"line":3},"end":{"line":3}}]}]},"step2":{"locations":[{"ranges":[{"start":{"line":5},"end":{"line":5}}]}]},"step3":{"locations":[{"ranges":[{"start":{"line":6},"end":{"line":6}}]}]},"step4":{"locations":[{"ranges":[{"start":{"line":7},"end":{"line":9}}]}]},"step6":{"locations":[{"ranges":[{"start":{"line":10},"end":{"line":10}}]}]}},"infos":[{"filename":"Dockerfile","language":"Dockerfile","data":"RlJPTSBhbHBpbmU6My4xNyBBUyBidWlsZApBUkcgVkVSU0lPTgpSVU4gLS1tb3VudD10eXBlPXNlY3JldCxpZD10b2tlbixyZXF1aXJlZD10cnVlIC0tbW91bnQ9dHlwZT1zc2ggbWFrZSAkVkVSU0lPTgpGUk9NIHNjcmF0Y2gKV09SS0RJUiAvYXBwCkNPUFkgLS1mcm9tPWJ1aWxkIC9vdXQgL2FwcC8KQ09QWSA8PEVPRiAvbm90ZQpoZWxsbwpFT0YKQUREIGh0dHBzOi8vZXhhbXBsZS5jb20vdG9vbC50YXIuZ3ogL3Rvb2wK"}]}},"buildkit_completeness":{"request":true,"resolvedDependencies":false},"buildkit_reproducible":true}}
    "#]].assert_eq(&(lines.join("\n") + "\n"));
}

const COMMIT: &str = "4b220de5058abfd01ff619c9d2ff6b09a049bea0";

#[test]
fn what_came_from_elsewhere_is_a_material_and_no_folder() {
    let context = Material::of_commit("https://example.com/app.git#main", COMMIT);
    let origin = Origin {
        fetched: BTreeMap::from([(CONTEXT.to_owned(), context)]),
        vcs: BTreeMap::from([("revision".to_owned(), COMMIT.to_owned())]),
        told: None,
    };
    let dockerfile = "FROM alpine:3.17\nCOPY a /\nRUN --network=none true\n";
    check(
        &world(Request::new(dockerfile), origin),
        &min(SlsaVersion::V1),
        &expect![[r#"
        {
          "buildDefinition": {
            "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            "externalParameters": {
              "configSource": {
                "uri": "https://example.com/app.git#main",
                "digest": {
                  "sha1": "4b220de5058abfd01ff619c9d2ff6b09a049bea0"
                },
                "path": "Dockerfile"
              },
              "request": {
                "frontend": "dockerfile.v0"
              }
            },
            "internalParameters": {
              "builderPlatform": "linux/amd64"
            },
            "resolvedDependencies": [
              {
                "uri": "pkg:docker/alpine@3.17?platform=linux%2Famd64",
                "digest": {
                  "sha256": "0505050505050505050505050505050505050505050505050505050505050505"
                }
              },
              {
                "uri": "https://example.com/app.git#main",
                "digest": {
                  "sha1": "4b220de5058abfd01ff619c9d2ff6b09a049bea0"
                }
              }
            ]
          },
          "runDetails": {
            "builder": {
              "id": "urn:dcbuild",
              "version": {
                "dcbuild": "VERSION"
              }
            },
            "metadata": {
              "invocationID": "00000000000000000000000001",
              "startedOn": "2023-11-14T22:13:20.5Z",
              "finishedOn": "2023-11-14T22:14:20Z",
              "buildkit_metadata": {
                "vcs": {
                  "revision": "4b220de5058abfd01ff619c9d2ff6b09a049bea0"
                }
              },
              "buildkit_hermetic": true,
              "buildkit_completeness": {
                "request": true,
                "resolvedDependencies": true
              }
            }
          }
        }
    "#]],
    );
}

#[test]
fn the_scanner_is_a_material_and_no_step_of_the_image() {
    let scan = Scan { generator: "scan:1".into(), parameters: BTreeMap::new() };
    let request = Request { scan: Some(scan), ..Request::new("FROM scratch\nCOPY a /\n") };
    let world = world(request, Origin::default());
    let spec = ProvenanceSpec::default();
    let provenance = of(&world.build, &world.planned, 0, &spec);
    let uris: Vec<&str> = provenance.materials.iter().map(|it| it.uri.as_str()).collect();
    assert_eq!(uris, ["pkg:docker/scan@1"]);
    let steps = provenance.detail.unwrap().steps;
    assert!(!serde_json::to_string(&steps).unwrap().contains("/bin/scan"), "{steps:?}");
    assert!(provenance.network, "the scanner may reach one");
}

#[test]
fn layers_are_those_that_are_there_after_a_step() {
    let world = world(request(), Origin::default());
    let mut provenance = of(&world.build, &world.planned, 0, &ProvenanceSpec::default());
    let (plan, state) = (&world.planned.plan, world.planned.plan.images[0].state);
    count_layers(provenance.detail.as_mut().unwrap(), plan, state, &|_| 1);
    let layer = |number: u8| Descriptor::new("tar", Digest([number; 32]), u64::from(number));
    let layers = (1..=4).map(layer).collect();
    let predicate = provenance.predicate(&Finish { layers, ..finish() });
    let told = &predicate["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    let counts: Vec<(String, usize)> = told
        .as_object()
        .unwrap()
        .iter()
        .map(|(step, chains)| (step.clone(), chains[0].as_array().unwrap().len()))
        .collect();
    assert_eq!(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let steps = predicate["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]
        .as_array()
        .unwrap();
    let last = steps.last().unwrap();
    let (result, _) = counts.last().unwrap();
    assert_eq!(last["inputs"][0], Value::from(result.as_str()));
    for (at, step) in steps.iter().enumerate() {
        for input in step["inputs"].as_array().into_iter().flatten() {
            let from: usize = input.as_str().unwrap()[4..].trim_end_matches(":0").parse().unwrap();
            assert!(from < at, "{step}");
        }
    }
}

#[test]
fn a_client_is_told_the_request_whole_and_less_of_the_rest() {
    let origin = |told| Origin { told, ..Origin::default() };
    let tell = |mode| {
        let world = world(request(), origin(mode));
        super::told(&world.build, &world.planned, finish().at)
    };
    assert_eq!(tell(None), []);
    let [brief] = &tell(Some(Mode::Min))[..] else { panic!() };
    assert_eq!(brief.platform.to_string(), "linux/amd64");
    let predicate: Value = serde_json::from_str(&brief.predicate).unwrap();
    let args = &predicate["buildDefinition"]["externalParameters"]["request"]["args"];
    assert_eq!(args["build-arg:VERSION"], "1.2");
    assert_eq!(predicate["runDetails"]["metadata"], Value::Null);
    assert!(!brief.predicate.contains("llbDefinition"));
    let [whole] = &tell(Some(Mode::Max))[..] else { panic!() };
    assert!(whole.predicate.contains("llbDefinition") && whole.predicate.contains("finishedOn"));
}
