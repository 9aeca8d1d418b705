//! Checks find what BuildKit's find: the cases follow the pages of docker's documentation, one for each rule.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;

use dcbuild_model::{ConfigDigest, Digest, LayerDigest, ManifestDigest, Platform};
use dcbuild_oci::ImageConfig;
use dcbuild_plan::report::{CheckReport, show};
use dcbuild_plan::{
    Call, Called, Finding, ImageLayer, ImageSource, Need, PlanError, Planned, Report, Request,
    ResolvedImage, Sources, call, plan,
};
use expect_test::{Expect, expect};

/// A base that sets a variable of its own.
fn image() -> ResolvedImage {
    let platform = Platform { os: "linux".into(), ..Platform::host() };
    let mut config = ImageConfig::for_platform(&platform);
    config.config.env = vec!["PATH=/bin".into(), "PYTHON_VERSION=3".into()];
    let digest = ManifestDigest(Digest::of(b"manifest"));
    ResolvedImage {
        manifest: digest,
        named: digest,
        config_digest: ConfigDigest(Digest::of(b"config")),
        config,
        layers: vec![ImageLayer {
            digest: LayerDigest(Digest::of(b"layer")),
            diff_id: dcbuild_model::DiffId(Digest::of(b"tar")),
            size: 1,
            media_type: String::new(),
        }],
        source: ImageSource::Registry { repository: "docker.io/library/busybox".into() },
    }
}

fn asked(request: &Request, what: Call) -> Result<Report, PlanError> {
    let mut sources = Sources::default();
    loop {
        match call(what, request, &sources)? {
            Called::Ready(report) => return Ok(report),
            Called::Lacks(needs) => find(needs, &mut sources),
        }
    }
}

fn find(needs: Vec<Need>, sources: &mut Sources) {
    for need in needs {
        match need {
            Need::Verdict(_) | Need::Remote(_) => panic!("there is no policy of a client"),
            Need::Image { reference, platform } => {
                sources.images.insert((reference, platform), Ok(image()));
            }
            Need::Selection { context, selection } => {
                let digest = dcbuild_model::SelectionDigest(Digest::of(b"selection"));
                sources.selections.insert((context, selection), Ok(digest));
            }
        }
    }
}

fn request(text: &str, args: &[(&str, &str)]) -> Request {
    let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Request { build_args: args.collect::<BTreeMap<_, _>>(), ..Request::new(text) }
}

fn listed(findings: &[Finding]) -> String {
    findings.iter().map(|finding| finding.short() + "\n").collect()
}

fn checked(text: &str, args: &[(&str, &str)]) -> String {
    let report = asked(&request(text, args), Call::Check).unwrap();
    let Report::Check(CheckReport { findings, error }) = report else { panic!("{report:?}") };
    let mut out = listed(&findings);
    if let Some(error) = error {
        out.push_str(&format!("error at {:?}: {}\n", error.lines, error.message));
    }
    out
}

fn check(text: &str, want: &Expect) {
    want.assert_eq(&checked(text, &[]));
}

/// Nothing is found.
fn clean(text: &str) {
    assert_eq!(checked(text, &[]), "", "{text}");
}

#[test]
fn casing() {
    check(
        "FROM scratch AS Bad\nFROM scratch as base2\nFROM scratch AS base3\n",
        &expect![[r#"
            StageNameCasing: Stage name 'Bad' should be lowercase (line 1)
            FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2)
        "#]],
    );
    check(
        "from scratch AS base\nfrom scratch as base2\n",
        &expect![[r#"
            FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)
        "#]],
    );
    check(
        "From scratch as base\nFROM scratch AS base2\n",
        &expect![[r#"
            ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase) (line 1)
        "#]],
    );
    check(
        "frOM scratch as base\nfrom scratch as base2\nCOPY a /b\n",
        &expect![[r#"
            ConsistentInstructionCasing: Command 'frOM' should match the case of the command majority (uppercase) (line 1)
            ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 2)
        "#]],
    );
    check(
        "FROM scratch\ncopy a /foo\ncopy a /bar\n",
        &expect![[r#"
            ConsistentInstructionCasing: Command 'FROM' should match the case of the command majority (lowercase) (line 1)
        "#]],
    );
    clean("from scratch\ncopy a /foo\n");
    clean("FROM alpine\nRUN <<'EOT'\nenv\nEOT\n");
}

#[test]
fn lines_and_names() {
    check(
        "FROM scratch\nCOPY a \\\n\n.\nCOPY a \\\n.\nMAINTAINER me@example.org\n",
        &expect![[r#"
            NoEmptyContinuation: Empty continuation line (line 4)
            MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 7)
        "#]],
    );
    check(
        "FROM scratch AS b\nFROM scratch AS b\nFROM scratch AS scratch\nFROM scratch AS context\n",
        &expect![[r#"
            DuplicateStageName: Duplicate stage name "b", stage names should be unique (line 2)
            ReservedStageName: Stage name should not use the same name as reserved stage "scratch" (line 3)
            ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 4)
        "#]],
    );
    clean("FROM scratch AS b1\nFROM scratch AS b2\n");
}

#[test]
fn processes() {
    check(
        "FROM scratch\nCMD mycommand\nENTRYPOINT mycommand\nHEALTHCHECK CMD x\n",
        &expect![[r#"
            JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)
            JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals (line 3)
        "#]],
    );
    clean("FROM scratch AS base\nSHELL [\"/bin/x\"]\nFROM base\nCMD mycommand\n");
    check(
        "FROM scratch\nENTRYPOINT [\"a\"]\nCMD [\"a\"]\nHEALTHCHECK CMD [\"a\"]\nCOPY <<EOF /a.txt\nHi\nEOF\n\
         ENTRYPOINT [\"b\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\n",
        &expect![[r#"
            MultipleInstructionsDisallowed: Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used (line 2)
            MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 3)
            MultipleInstructionsDisallowed: Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used (line 4)
        "#]],
    );
    clean("FROM scratch AS a\nCMD [\"a\"]\nFROM a AS b\nCMD [\"b\"]\n");
}

#[test]
fn arguments_of_from() {
    clean("ARG base=scratch\nFROM $base\n");
    clean("FROM --platform=$BUILDPLATFORM scratch\n");
    clean("ARG DEBUG\nFROM scratch${DEBUG}\n");
    clean("ARG DEBUG=\"\"\nFROM scratch${DEBUG-@bogus}\n");
    check(
        "FROM --platform=$BULIDPLATFORM scratch\n",
        &expect![[r#"
            UndefinedArgInFrom: FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?) (line 1)
            error at Some((1, 1)): empty platform value from expression $BULIDPLATFORM
        "#]],
    );
    check(
        "ARG tag=latest\nFROM busybox:${tag}${version} AS b\n",
        &expect![[r#"
            UndefinedArgInFrom: FROM argument 'version' is not declared (line 2)
        "#]],
    );
    check(
        "FROM --platform=$TARGETPLATFORM scratch\nFROM --platform=${TARGETPLATFORM} scratch\n",
        &expect![[r#"
            RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)
            RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior (line 2)
        "#]],
    );
    check(
        "FROM --platform=linux/amd64 scratch\nFROM --platform=linux/amd64 scratch AS my_amd64_stage\n\
         FROM --platform=linux/amd64 scratch AS linux\n",
        &expect![[r#"
            FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/amd64" (line 1)
        "#]],
    );
}

#[test]
fn defaults_of_from() {
    let found = checked("ARG VERSION\nFROM busybox:$VERSION\n", &[("VERSION", "latest")]);
    expect![[r#"
        InvalidDefaultArgInFrom: Default value for ARG busybox:$VERSION results in empty or invalid base image name (line 2)
    "#]].assert_eq(&found);
    let found = checked("ARG IMAGE\nFROM $IMAGE\n", &[("IMAGE", "busybox:latest")]);
    expect![[r#"
        InvalidDefaultArgInFrom: Default value for ARG $IMAGE results in empty or invalid base image name (line 2)
    "#]].assert_eq(&found);
    let found = checked("ARG VARIANT\nFROM busybox:stable${VARIANT}\n", &[("VARIANT", "-musl")]);
    assert_eq!(found, "");
}

#[test]
fn variables() {
    clean("FROM scratch\nARG foo\nCOPY Dockerfile${foo} .\n");
    clean("FROM alpine AS base\nARG foo=Dockerfile\nFROM base\nCOPY $foo .\n");
    clean("FROM alpine\nRUN echo $NOTHING\nCMD [\"$NOTHING\"]\n");
    clean("FROM python AS base\nARG VERSION=$PYTHON_VERSION\n");
    check(
        "FROM alpine\nCOPY $foo .\nARG foo=bar\nRUN echo $foo\n",
        &expect![[r#"
            UndefinedVar: Usage of undefined variable '$foo' (line 2)
        "#]],
    );
    check(
        "FROM alpine\nARG DIR_ASSETS=assets/\nCOPY $DIR_ASSET .\nENV PATH=$PAHT:/tmp/bin\nARG VALUE=$w\n\
         RUN --mount=type=cache,target=$elsewhere true\nCOPY <<E /a\n$inside \"$quoted\"\nE\n",
        &expect![[r#"
            UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?) (line 3)
            UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 4)
            UndefinedVar: Usage of undefined variable '$w' (line 5)
            UndefinedVar: Usage of undefined variable '$elsewhere' (line 6)
            UndefinedVar: Usage of undefined variable '$inside' (line 7)
            UndefinedVar: Usage of undefined variable '$quoted' (line 7)
            error at Some((6, 6)): invalid mount target "/"
        "#]],
    );
}

#[test]
fn values() {
    check(
        "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\n\
         ENV apikey=bar sunflower=foo\nENV PUBLIC_KEY=\nARG public_token\nENV monkey=1\n",
        &expect![[r#"
            SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "SECRET_PASSPHRASE") (line 2)
            SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "SUPER_Secret") (line 3)
            SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "password") (line 4)
            SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "secret") (line 4)
            SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "apikey") (line 5)
        "#]],
    );
    check(
        "FROM scratch\nENV testkey value\nLABEL key value\nENV a=b\nLABEL c=d\n",
        &expect![[r#"
            LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)
            LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format (line 3)
        "#]],
    );
    check(
        "FROM scratch\nWORKDIR app/\nWORKDIR sub\nFROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR sub/\n",
        &expect![[r#"
            WorkdirRelativePath: Relative workdir "app/" can have unexpected results if the base image changes (line 2)
        "#]],
    );
    check(
        "FROM scratch\nEXPOSE 80/TcP\nEXPOSE 127.0.0.1:80:80\nEXPOSE 5000:5000 81/udp 82\n",
        &expect![[r#"
            ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)
            ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80' (line 3)
            ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '5000:5000' (line 4)
        "#]],
    );
}

#[test]
fn descriptions_are_checked_where_that_is_asked() {
    let text = "# bar this is the bar\nARG foo=bar\n# BasE this is the image\nFROM scratch AS base\n\
                # a bad comment\nARG version=latest\n# a bad comment\nARG foo=baz bar=qux\n\
                # foo this is the foo\nARG foo=bar\n# apart\n\nARG x=1\n# apart\n#\nARG y=1\n# of no definition\nUSER u\n";
    clean(text);
    check(
        &format!("# check=experimental=InvalidDefinitionDescription\n{text}"),
        &expect![[r#"
            InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>` (line 3)
            InvalidDefinitionDescription: Comment for FROM should follow the format: `# base <description>` (line 5)
            InvalidDefinitionDescription: Comment for ARG should follow the format: `# version <description>` (line 7)
            InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 9)
        "#]],
    );
}

#[test]
fn the_platform_of_a_base_is_the_one_that_is_built_for() {
    let request = Request {
        platforms: vec!["linux/riscv64".parse().unwrap()],
        build_platform: "linux/amd64".parse().unwrap(),
        ..Request::new("FROM busybox AS b\n")
    };
    let report = asked(&request, Call::Check).unwrap();
    let Report::Check(report) = report else { panic!("{report:?}") };
    let own = Platform { os: "linux".into(), ..Platform::host() };
    let want = format!(
        "InvalidBaseImagePlatform: Base image busybox was pulled with platform \"{own}\", \
         expected \"linux/riscv64\" for current build (line 1)\n"
    );
    assert_eq!(listed(&report.findings), want);
}

#[test]
fn what_is_wanted_can_be_said() {
    let text = "FROM scratch as base\ncopy a .\n";
    let with = |line: &str| format!("{line}\n{text}");
    clean(&with("#check=skip=all"));
    clean(&with("#check=skip=all;error=true"));
    clean(&with("#check=skip=ConsistentInstructionCasing,FromAsCasing;error=true"));
    check(
        &with("#check=skip=ConsistentInstructionCasing;error=true"),
        &expect![[r#"
            FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2)
            error at None: lint violation found for rules: FromAsCasing
        "#]],
    );
    let argument = |value| [("BUILDKIT_DOCKERFILE_CHECK", value)];
    assert_eq!(checked(&with("#check=error=true"), &argument("skip=all")), "");
    let found = checked(&with("#check=skip=all"), &argument("skip=FromAsCasing;error=true"));
    expect![[r#"
        ConsistentInstructionCasing: Command 'copy' should match the case of the command majority (uppercase) (line 3)
        error at None: lint violation found for rules: ConsistentInstructionCasing
    "#]].assert_eq(&found);
    let found = checked(text, &argument("nonsense"));
    assert_eq!(
        found,
        "error at None: failed to parse check options: invalid check option \"nonsense\"\n"
    );
}

#[test]
fn what_stands_above_a_mistake_is_checked_too() {
    check(
        "FROM scratch AS Bad\nMAINTAINER me@example.org\nBADCMD\n",
        &expect![[r#"
            StageNameCasing: Stage name 'Bad' should be lowercase (line 1)
            MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)
            error at Some((3, 3)): dockerfile parse error on line 3: unknown instruction: BADCMD
        "#]],
    );
}

fn built(text: &str) -> Result<String, String> {
    let mut sources = Sources::default();
    loop {
        match plan(&Request::new(text), &sources).map_err(|error| error.to_string())? {
            Planned::Ready(plan) => return Ok(listed(&plan.findings)),
            Planned::Lacks(needs) => find(needs, &mut sources),
        }
    }
}

#[test]
fn a_build_speaks_of_the_stages_that_it_needs() {
    let text = "FROM scratch AS first\nCOPY $foo .\nFROM scratch AS second\nCOPY $bar .\n";
    check(
        text,
        &expect![[r#"
            UndefinedVar: Usage of undefined variable '$foo' (line 2)
            UndefinedVar: Usage of undefined variable '$bar' (line 4)
        "#]],
    );
    let want = "UndefinedVar: Usage of undefined variable '$bar' (line 4)\n";
    assert_eq!(built(text).unwrap(), want);
    let error = built(&format!("# check=error=true\n{text}")).unwrap_err();
    assert_eq!(error, "lint violation found for rules: UndefinedVar");
    assert_eq!(built("FROM scratch\nONBUILD COPY $x /\n").unwrap(), "");
    let trigger = "FROM scratch AS a\nONBUILD COPY $x /\nFROM a\n";
    assert_eq!(
        built(trigger).unwrap(),
        "UndefinedVar: Usage of undefined variable '$x' (line 3)\n"
    );
}

const PARAMETERS: &str = "\
# BASE is what it stands on
ARG BASE=scratch
ARG UNUSED=1
ARG WORD=deep
ARG NAMED=${WORD}
# build compiles
FROM $BASE AS build
# MODE is debug or release
ARG MODE=debug
ARG NAMED
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
FROM scratch AS other
ARG OTHER
FROM $BASE
COPY --from=build / /
RUN --mount=type=secret,id=more --mount=type=ssh,id=deploy,required true
";

fn shown(what: Call, target: Option<&str>, args: &[(&str, &str)]) -> (String, String) {
    let target = target.map(str::to_owned);
    let request = Request { target, ..request(PARAMETERS, args) };
    let report = asked(&request, what).unwrap();
    (show::text(&report, &request), show::json(&report, &request))
}

#[test]
fn an_outline_names_what_the_target_takes() {
    let (text, _) = shown(Call::Outline, None, &[]);
    expect![[r#"
        BUILD ARG   VALUE     DESCRIPTION
        BASE        scratch   is what it stands on
        WORD        deep      
        NAMED       deep      
        MODE        debug     is debug or release

        SECRET   REQUIRED
        token    true
        more     

        SSH       REQUIRED
        default   
        deploy    true

    "#]]
    .assert_eq(&text);
    let (text, json) = shown(Call::Outline, Some("build"), &[("MODE", "release")]);
    expect![[r#"
        TARGET:      build
        DESCRIPTION: compiles

        BUILD ARG   VALUE     DESCRIPTION
        BASE        scratch   is what it stands on
        WORD        deep      
        NAMED       deep      
        MODE        release   is debug or release

        SECRET   REQUIRED
        token    true

        SSH       REQUIRED
        default   

    "#]]
    .assert_eq(&text);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["name"], "build");
    let lines = serde_json::json!({ "ranges": [{ "start": { "line": 9 }, "end": { "line": 9 } }] });
    assert_eq!(json["args"][3]["location"], lines);
    assert_eq!(json["secrets"][0]["required"], true);
}

#[test]
fn targets_are_listed() {
    let (text, json) = shown(Call::Targets, None, &[]);
    expect![[r#"
        TARGET    DESCRIPTION
        build     compiles
        other     
        (default) 
    "#]]
    .assert_eq(&text);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["targets"][0]["base"], "$BASE");
    assert_eq!(json["targets"][2]["default"], true);
}

/// What advice says of a Dockerfile, but for what checks say.
fn advised(text: &str) -> String {
    let Report::Check(report) = asked(&request(text, &[]), Call::Advice).unwrap() else {
        panic!("another report")
    };
    let advice = report.findings.iter().filter(|finding| finding.rule.is_advice());
    advice.fold(String::new(), |text, finding| text + &finding.short() + "\n")
}

#[test]
fn advice_is_given_where_it_is_asked_for() {
    let text = "FROM golang
ARG DB_DSN=postgres://app:hunter2@db/app
ENV TOKEN_FILE=/run/token PGPASS=x AWS=AKIAIOSFODNN7EXAMPLE
RUN apt-get -qq update && apt-get install -y gcc=4:12 libc6-dev make
RUN apk add curl && pip install flask; dnf -y install jq
";
    expect![[r#"
        UnpinnedBaseImage: 'golang' is another image each time that somebody pushes it: name a version, or a digest (line 1)
        SecretsInValues: DB_DSN looks like a secret, and stays in the image or its history: use RUN --mount=type=secret (line 2)
        SecretsInValues: AWS looks like a secret, and stays in the image or its history: use RUN --mount=type=secret (line 3)
        BuildToolsInFinalStage: the image stands on golang, which is for building and has 1 bytes of compressed layers: build there, and COPY --from it into a stage that only runs (line 1)
        PackageListsKept: the package lists of apt stay in the layer: end the RUN with rm -rf /var/lib/apt/lists/*, or mount a cache at /var/lib/apt (line 4)
        BuildToolsInFinalStage: gcc=4:12, make stay in the image: build in a stage of its own, and COPY --from it (line 4)
        PackageListsKept: the index of apk stays in the layer: use apk add --no-cache (line 5)
        PackageListsKept: the cache of yum stays in the layer: end the RUN with yum clean all (dnf, microdnf), or mount a cache at /var/cache (line 5)
        PackageListsKept: the cache of pip stays in the layer: use pip install --no-cache-dir, or mount a cache at /root/.cache/pip (line 5)
    "#]]
    .assert_eq(&advised(text));
    let Report::Check(report) = asked(&request(text, &[]), Call::Check).unwrap() else {
        panic!("another report")
    };
    assert!(report.findings.iter().all(|finding| !finding.rule.is_advice()));
}

#[test]
fn advice_is_silent_where_it_was_followed() {
    let text = "# check=skip=UnpinnedBaseImage
FROM golang AS build
RUN apt-get update && apt-get install -y gcc
RUN go build -o /app .
FROM debian:12-slim
ENV PIP_NO_CACHE_DIR=1
RUN --mount=type=cache,target=/var/lib/apt apt-get update
RUN apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*
RUN apk add --no-cache curl && pip install flask
RUN apk add --no-cache build-base && make && apk del build-base
COPY --from=build /app /app
CMD [\"/app\"]
";
    assert_eq!(advised(text), "");
}

#[test]
fn a_final_stage_may_do_with_less() {
    let from = |base: &str, start: &str| {
        advised(&format!(
            "FROM golang:1.24 AS build\nRUN go build -o /out/app .\nFROM {base}\nCOPY --from=build /out/ /bin/\n{start}\n"
        ))
    };
    expect![[r#"
        FinalStageCouldBeSmaller: the final stage only copies files and starts /bin/app: FROM scratch would do for a static binary, a distroless image for others; debian:12 is the base now and has 1 bytes of compressed layers (line 3)
    "#]]
    .assert_eq(&from("debian:12", "ENTRYPOINT [\"/bin/app\"]"));
    assert_eq!(from("scratch", "ENTRYPOINT [\"/bin/app\"]"), "");
    assert_eq!(from("gcr.io/distroless/static:nonroot", "CMD [\"/bin/app\"]"), "");
    assert_eq!(from("debian:12", "CMD [\"java\", \"-jar\", \"/bin/app\"]"), "");
    assert_eq!(from("debian:12", "RUN useradd app\nCMD [\"/bin/app\"]"), "");
}

#[test]
fn copies_of_what_is_left_out_are_found() {
    let found = |ignore: &str, text: &str| {
        let request = Request { ignore: ignore.into(), ..request(text, &[]) };
        let Report::Check(report) = asked(&request, Call::Check).unwrap() else { panic!() };
        listed(&report.findings)
    };
    let excluded = |verb: &str, path: &str, line: u32| {
        format!(
            "CopyIgnoredFile: Attempting to {verb} file \"{path}\" that is excluded by .dockerignore (line {line})\n"
        )
    };
    let text = "FROM scratch AS a\nARG N=b\nCOPY ./tmp/a /x\nADD tmp/$N https://e.example/tmp/c /x/\nCOPY src /src\n";
    let want = excluded("Copy", "tmp/a", 3) + &excluded("Add", "tmp/b", 4);
    for ignore in ["tmp", "*/a\n*/b", "tmp/*", "# tmp\n/tmp/\n"] {
        assert_eq!(found(ignore, text), want, "{ignore}");
    }
    // A folder of which something is taken in again is copied, and so is one that has a name like another.
    assert_eq!(found("tmp\n!tmp/a", "FROM scratch\nCOPY tmp /x\nCOPY tmp/a /x/\n"), "");
    assert_eq!(found("tmp\n!other", "FROM scratch\nCOPY tmp /x\n"), excluded("Copy", "tmp", 2));
    assert_eq!(found(".*", "FROM scratch\nCOPY . /x\n"), "");
    assert_eq!(found("*", "FROM scratch\nCOPY . /x\n"), excluded("Copy", ".", 2));
    assert_eq!(found("*\n!a", "FROM scratch\nCOPY . /x\n"), "");
    // What comes from elsewhere, or from the Dockerfile itself, is in no context.
    let elsewhere =
        "FROM scratch AS a\nFROM scratch\nCOPY --from=a /tmp/a /x\nCOPY <<tmp /x\nt\ntmp\n";
    assert_eq!(found("tmp", elsewhere), "");
    assert_eq!(found("tmp", &format!("# check=skip=CopyIgnoredFile\n{text}")), "");
}
