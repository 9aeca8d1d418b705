//! One build for several platforms: a plan for each, and what they share is there once.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_model::{
    ConfigDigest, DiffId, Digest, LayerDigest, ManifestDigest, Platform, SelectionDigest,
};
use dcbuild_oci::ImageConfig;
use dcbuild_plan::{
    Call, Called, ImageLayer, ImageSource, Need, Plan, PlanError, Planned, Report, Request,
    ResolvedImage, Sources, call, plan,
};
use expect_test::{Expect, expect};

fn request(dockerfile: &str, platforms: &[&str]) -> Request {
    Request {
        platforms: platforms.iter().map(|text| text.parse().unwrap()).collect(),
        build_platform: "linux/amd64".parse().unwrap(),
        ..Request::new(dockerfile)
    }
}

/// An image that differs from platform to platform, as behind an index.
fn image(platform: &Platform) -> ResolvedImage {
    let of = |what: &str| Digest::of(format!("{what} {platform}").as_bytes());
    let mut config = ImageConfig::for_platform(platform);
    config.config.env.push(format!("BASE={platform}"));
    ResolvedImage {
        manifest: ManifestDigest(of("manifest")),
        named: ManifestDigest(Digest::of(b"index")),
        config_digest: ConfigDigest(of("config")),
        config,
        layers: vec![ImageLayer {
            digest: LayerDigest(of("layer")),
            diff_id: DiffId(of("tar")),
            size: 1,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        }],
        source: ImageSource::Registry { repository: "docker.io/library/base".into() },
    }
}

/// Answers all that is asked; says how often.
fn planned(request: &Request) -> Result<(Plan, usize), PlanError> {
    let mut sources = Sources::default();
    for round in 0..20 {
        match plan(request, &sources)? {
            Planned::Ready(plan) => return Ok((*plan, round)),
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
                            let digest = Digest::of(format!("{selection:?}").as_bytes());
                            let found = Ok(SelectionDigest(digest));
                            sources.selections.insert((context, selection), found);
                        }
                    }
                }
            }
        }
    }
    panic!("the plan asks for ever");
}

fn shown(plan: &Plan) -> String {
    let mut out = String::new();
    for stage in &plan.stages {
        let state = stage.state.map_or("nothing".into(), |state| format!("step {}", state.0));
        out += &format!("stage {} {} for {}: {state}\n", stage.index.0, stage.name, stage.platform);
    }
    for (at, step) in plan.steps.iter().enumerate() {
        let upon = step.parent.map_or(String::new(), |parent| format!(" upon {}", parent.0));
        let name = step.name.split('@').next().unwrap();
        out += &format!("{at}: {name} for {}{upon}\n", step.platform);
    }
    for image in &plan.images {
        let state = image.state.map_or("nothing".into(), |state| format!("step {}", state.0));
        let config: serde_json::Value = serde_json::from_str(&image.template.config).unwrap();
        let platform = &image.template.platform;
        out += &format!("image for {platform}: {state}, {}\n", config["architecture"]);
    }
    out + &format!("index: {}\n", plan.index)
}

fn check(dockerfile: &str, platforms: &[&str], want: &Expect) {
    let (plan, _) = planned(&request(dockerfile, platforms)).unwrap();
    want.assert_eq(&shown(&plan));
}

const CROSS: &str = "FROM --platform=$BUILDPLATFORM base AS build\nRUN make tools\nARG TARGETARCH\n\
                     RUN make\nFROM base\nCOPY --from=build /app /app\nRUN /app\n";

#[test]
fn what_platforms_share_is_planned_once() {
    check(
        CROSS,
        &["linux/amd64", "linux/arm64"],
        &expect![[r#"
        stage 0 build for linux/amd64: step 2
        stage 1 stage-1 for linux/amd64: step 4
        stage 2 build for linux/amd64: step 5
        stage 3 stage-1 for linux/arm64: step 8
        0: [linux/amd64 build 1/3] FROM docker.io/library/base:latest for linux/amd64
        1: [linux/amd64 build 2/3] RUN make tools for linux/amd64 upon 0
        2: [linux/amd64 build 3/3] RUN make for linux/amd64 upon 1
        3: [linux/amd64 stage-1 2/3] COPY --from=build /app /app for linux/amd64 upon 0
        4: [linux/amd64 stage-1 3/3] RUN /app for linux/amd64 upon 3
        5: [linux/amd64->arm64 build 3/3] RUN make for linux/amd64 upon 1
        6: [linux/arm64 stage-1 1/3] FROM docker.io/library/base:latest for linux/arm64
        7: [linux/arm64 stage-1 2/3] COPY --from=build /app /app for linux/arm64 upon 6
        8: [linux/arm64 stage-1 3/3] RUN /app for linux/arm64 upon 7
        image for linux/amd64: step 4, "amd64"
        image for linux/arm64: step 8, "arm64"
        index: true
    "#]],
    );
}

#[test]
fn one_platform_is_planned_as_ever() {
    check(
        CROSS,
        &["linux/arm64"],
        &expect![[r#"
        stage 0 build for linux/amd64: step 2
        stage 1 stage-1 for linux/arm64: step 5
        0: [build 1/3] FROM docker.io/library/base:latest for linux/amd64
        1: [build 2/3] RUN make tools for linux/amd64 upon 0
        2: [build 3/3] RUN make for linux/amd64 upon 1
        3: [stage-1 1/3] FROM docker.io/library/base:latest for linux/arm64
        4: [stage-1 2/3] COPY --from=build /app /app for linux/arm64 upon 3
        5: [stage-1 3/3] RUN /app for linux/arm64 upon 4
        image for linux/arm64: step 5, "arm64"
        index: false
    "#]],
    );
}

#[test]
fn a_stage_names_what_it_builds_for_as_buildkit_does() {
    let named = |arg: &str| {
        let dockerfile = format!("FROM --platform=linux/amd64 scratch\n{arg}\nWORKDIR /a\n");
        let (plan, _) = planned(&request(&dockerfile, &["linux/arm/v7", "linux/amd64"])).unwrap();
        plan.steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>().join(", ")
    };
    // Both platforms come to the same step: the first one names it.
    assert_eq!(named("ENV A=1"), "[linux/amd64 1/1] WORKDIR /a");
    assert_eq!(named("ARG TARGETARCH"), "[linux/amd64->arm/v7 1/1] WORKDIR /a");
    assert_eq!(named("ARG TARGETPLATFORM"), "[linux/amd64->arm/v7 1/1] WORKDIR /a");
    assert_eq!(named("ARG TARGETOS"), "[linux/amd64 1/1] WORKDIR /a");
    assert_eq!(named("ENV TARGETOS=windows"), "[linux/amd64->windows/amd64 1/1] WORKDIR /a");
}

#[test]
fn an_index_of_one_is_an_index() {
    let one = Request { index: true, ..request("FROM scratch\nWORKDIR /a\n", &["linux/arm64"]) };
    let (plan, _) = planned(&one).unwrap();
    expect![[r#"
        stage 0 stage-0 for linux/arm64: step 0
        0: [linux/arm64 1/1] WORKDIR /a for linux/arm64
        image for linux/arm64: step 0, "arm64"
        index: true
    "#]]
    .assert_eq(&shown(&plan));
}

#[test]
fn all_platforms_are_asked_for_at_once() {
    let all = request(CROSS, &["linux/amd64", "linux/arm64", "linux/s390x"]);
    let (plan, rounds) = planned(&all).unwrap();
    assert_eq!((plan.images.len(), rounds), (3, 1));
}

#[test]
fn each_platform_finds_its_variables() {
    let dockerfile = "FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDPLATFORM\n\
                      LABEL p=$TARGETPLATFORM a=$TARGETARCH v=$TARGETVARIANT b=$BUILDPLATFORM\n";
    let (plan, _) = planned(&request(dockerfile, &["linux/arm/v6", "linux/amd64"])).unwrap();
    let label = |at: usize| plan.images[at].template.history.last().unwrap().created_by.clone();
    assert_eq!(label(0), "LABEL p=linux/arm/v6 a=arm v=v6 b=linux/amd64");
    assert_eq!(label(1), "LABEL p=linux/amd64 a=amd64 v= b=linux/amd64");
}

#[test]
fn what_is_questionable_is_said_once() {
    let dockerfile = "FROM scratch\nCMD a\nCMD b\n";
    let findings = |platforms: &[&str]| {
        let request = request(dockerfile, platforms);
        let Called::Ready(Report::Check(report)) =
            call(Call::Check, &request, &Sources::default()).unwrap()
        else {
            panic!("no check")
        };
        let (plan, _) = planned(&request).unwrap();
        assert_eq!(plan.findings, report.findings);
        report.findings
    };
    let one = findings(&["linux/amd64"]);
    assert!(one.len() > 1, "{one:?}");
    assert_eq!(findings(&["linux/amd64", "linux/arm64"]), one);
}

#[test]
fn an_unused_argument_is_named_once() {
    let mut both = request("FROM scratch\n", &["linux/amd64", "linux/arm64"]);
    both.build_args.insert("NONE".into(), "1".into());
    assert_eq!(planned(&both).unwrap().0.notes.len(), 1);
}

#[test]
fn a_plan_of_several_platforms_is_shown() {
    let dockerfile = "FROM scratch AS a\nCOPY x /\nFROM scratch\nCOPY --from=a / /\n";
    let (plan, _) = planned(&request(dockerfile, &["linux/amd64", "linux/arm64"])).unwrap();
    let text = dcbuild_plan::show::text(&plan);
    for line in [
        "stage 3 stage-1 on scratch for linux/arm64",
        "  step 3 [linux/arm64 stage-1 1/1] COPY --from=a / /",
        "history of linux/arm64",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    assert!(dcbuild_plan::show::dot(&plan).contains("label=\"stage-1 for linux/arm64\""));
    assert!(dcbuild_plan::show::svg(&plan).contains("stage-1 on scratch for linux/arm64"));
}
