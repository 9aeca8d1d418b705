use clap::Parser;
use dcbuild_attest::ProvenanceSpec;
use dcbuild_oci::ImageRef;
use dcbuild_process::{Hint as _, Proxies};
use dcbuild_proto::document::Attests;
use dcbuild_rego::Detail;
use expect_test::{Expect, expect};

use super::*;
use crate::RegoReach;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: BuildFlags,
}

fn parse(line: &str) -> BuildFlags {
    Line::try_parse_from(std::iter::once("build").chain(line.split(' '))).unwrap().flags
}

fn wanted(line: &str, env: &[(&str, &str)]) -> Result<Wanted, FlagError> {
    Wanted::new(&parse(line), &env.iter().copied().collect())
}

fn request(line: &str, env: &[(&str, &str)]) -> Request {
    let wanted = wanted(line, env).unwrap();
    let handover = Handover::default();
    let found = Found { dockerfile: "FROM a".into(), filename: "D".into(), ..Found::default() };
    wanted.submission(found, handover).request
}

#[test]
fn flags_may_stand_behind_the_context() {
    let flags = parse(". -t a -f b/Dockerfile --build-arg X=1 --push -t c");
    assert_eq!((flags.context.as_str(), flags.tags.len(), flags.push), (".", 2, true));
}

#[test]
fn a_request_holds_what_the_flags_say() {
    let line = "--target T --build-arg A=1 --build-arg B --label l=v --no-cache-filter X,y \
                --keep-cache-mounts --pull --network host --add-host h:1.2.3.4 --ulimit nofile=5 --shm-size 1k \
                --platform linux/arm64 --build-context n=docker-image://alpine dir";
    let request = request(line, &[("B", "2"), ("SOURCE_DATE_EPOCH", "7")]);
    let args = [("A", "1"), ("B", "2"), ("SOURCE_DATE_EPOCH", "7")];
    let args = args.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(request.build_args, BTreeMap::from(args));
    assert_eq!(request.target.as_deref(), Some("T"));
    let names = ["x".to_owned(), "y".to_owned()].into();
    assert_eq!(request.no_cache, NoCache::Stages { names });
    assert!(request.keep_cache_mounts);
    assert_eq!((request.pull, request.network), (PullPolicy::Always, RunNetwork::Host));
    assert!(request.allow.contains("network.host"));
    assert_eq!(request.hosts, [("h".to_owned(), "1.2.3.4".to_owned())]);
    assert_eq!((request.ulimits.len(), request.shm_bytes), (1, 1024));
    assert_eq!(request.platforms, ["linux/arm64".parse().unwrap()]);
    assert_eq!((request.contexts.len(), request.dockerfile.as_str()), (1, "FROM a"));
}

#[test]
fn a_flag_goes_before_the_environment() {
    let env = [("SOURCE_DATE_EPOCH", "7"), ("BUILDKIT_PROGRESS", "plain")];
    let request = request("--build-arg SOURCE_DATE_EPOCH=9 .", &env);
    assert_eq!(request.build_args.get("SOURCE_DATE_EPOCH").map(String::as_str), Some("9"));
    for (line, mode) in
        [(".", Mode::Plain), ("--progress tty .", Mode::Tty), ("-q --progress tty .", Mode::Quiet)]
    {
        assert_eq!(wanted(line, &env).unwrap().mode, mode, "{line}");
    }
    assert!(wanted("--progress fancy .", &[]).is_err());
    for (name, value) in [("BUILDKIT_PROGRESS", "fancy"), ("DOCKER_DEFAULT_PLATFORM", "bo+gus")] {
        let error = wanted(".", &[(name, value)]).unwrap_err().to_string();
        assert_eq!(error, format!("{name} cannot be '{value}'"));
    }
}

#[test]
fn proxies_and_names_travel() {
    let wanted = wanted("-t app -t ghcr.io/x/y:1 .", &[]).unwrap();
    let proxies = Proxies { http: Some("http://p".into()), ..Proxies::default() };
    let handover = Handover { purpose: Purpose::Detached, ..Handover::default() };
    let submission = wanted.submission(Found { proxies, ..Found::default() }, handover);
    assert_eq!(submission.request.proxies.len(), 2);
    assert_eq!((submission.title.as_str(), submission.detached), ("app:latest", true));
    assert_eq!(submission.outputs.len(), wanted.client_outputs().len());
    assert!("app".parse::<ImageRef>().is_ok());
}

#[test]
fn standard_input_holds_one_dockerfile() {
    let places =
        |line: &str| wanted(line, &[]).map(|wanted| (wanted.context, wanted.dockerfile)).ok();
    assert_eq!(places("-"), Some((MainContext::Stdin, DockerfilePlace::Usual)));
    let named = DockerfilePlace::File("x".into());
    assert_eq!(places("-f x -"), Some((MainContext::Stdin, named)));
    assert_eq!(places("-f - -"), None);
    let url = "https://example.com/a.tar.gz";
    let remote = || MainContext::Remote(Remote::Http(url.into()));
    assert_eq!(places(url), Some((remote(), DockerfilePlace::Usual)));
    assert_eq!(places(&format!("-f - {url}")), Some((remote(), DockerfilePlace::Stdin)));
    let dockerfile = "https://example.com/Dockerfile";
    let there = DockerfilePlace::Url(dockerfile.into());
    assert_eq!(
        places(&format!("-f {dockerfile} .")),
        Some((MainContext::Folder(".".into()), there))
    );
    let here = || MainContext::Folder(".".into());
    assert_eq!(places("-f - ."), Some((here(), DockerfilePlace::Stdin)));
    assert_eq!(places("."), Some((here(), DockerfilePlace::Usual)));
    assert_eq!(places("-f x ."), Some((here(), DockerfilePlace::File("x".into()))));
}

#[test]
fn several_names_in_one_flag_are_told_apart() {
    let several = wanted("-t app:1,app:2 .", &[]).unwrap_err();
    assert_eq!(several.hint().unwrap(), "give -t once for each name: -t app:1 -t app:2");
}

#[test]
fn what_is_not_done_says_so() {
    for (line, want) in [
        ("--ssh default .", "--ssh 'default' forwards an ssh agent, and SSH_AUTH_SOCK names none"),
        ("--ssh =x .", "--ssh '=x' is malformed: it has no id"),
        ("--ssh a=x, .", "--ssh 'a=x,' is malformed: a file has no name"),
        ("--ssh a=x --ssh a=y .", "--ssh 'a=y' is malformed: its id was given before"),
        ("--ssh a=x,raw=true .", "--ssh 'a=x,raw=true' is not supported"),
        ("--opt target=x .", "--opt 'target=x' is not supported"),
        ("--opt build-arg:A=1 .", "--opt 'build-arg:A=1' is not supported"),
        ("--opt what=x .", "--opt 'what=x' is malformed: the frontend has no such option"),
        (
            "--opt contextsubdir=../x .",
            "--opt 'contextsubdir=../x' is malformed: the folder leads out of the context",
        ),
        (
            "--allow all .",
            "--allow 'all' is malformed: it is none of network.host, security.insecure and device",
        ),
        (
            "--cgroup-parent /x/../y .",
            "--cgroup-parent '/x/../y' is malformed: it is no path of control groups",
        ),
        (
            "--policy reset=true,file=x .",
            "--policy 'reset=true,file=x' is malformed: 'file' is none of filename=, disabled=, reset=, strict= and log-level=",
        ),
        (
            "--call subrequests .",
            "--call 'subrequests' is malformed: 'subrequests' is none of build, check, advice, outline, targets and subrequests.describe",
        ),
        ("--disable-content-trust=false .", "--disable-content-trust 'false' is not supported"),
        ("--invoke sh .", "--invoke 'sh' is not supported"),
        ("--root /x .", "--root '/x' is not supported"),
        ("--server-config /x .", "--server-config '/x' is not supported"),
        (
            "--iidfile x -o out .",
            "--iidfile and outputs of which none is an image do not go together",
        ),
        (
            "--iidfile x -o type=cacheonly .",
            "--iidfile and outputs of which none is an image do not go together",
        ),
        ("--check --call=outline .", "--check and --call=outline do not go together"),
        (
            "https://example.com/x.git#a:../..",
            "the context 'https://example.com/x.git#a:../..' is no address that can be fetched from",
        ),
        ("--platform linux/amd64,linux/bo+gus .", "--platform is malformed"),
        ("-t UPPER .", "--tag 'UPPER' is no name of an image"),
        ("-o - -o type=oci .", "an output to standard output and another one do not go together"),
    ] {
        assert_eq!(wanted(line, &[]).unwrap_err().to_string(), want);
    }
    let line = format!("-t a@sha256:{} .", "a".repeat(64));
    assert!(wanted(&line, &[]).is_err());
    for line in [
        "--call build .",
        "--provenance=false --sbom=false .",
        "--attest type=sbom,disabled=true --builder default .",
        "--attest type=provenance,mode=max,inline-only=true --load .",
        "--sbom=generator=a:1,SELECT=x,inline-only=true --load .",
        "--provenance= --sbom= .",
        "--allow device --allow device=vendor.com/gpu .",
        "--call subrequests.describe,format=json .",
        "--disable-content-trust --iidfile x -o out -o type=image .",
    ] {
        assert!(wanted(line, &[]).is_ok(), "{line}");
    }
}

#[test]
fn switches_take_a_value_and_the_last_one_counts() {
    let flags = parse("--push=false --load=true --no-cache=1 --pull=F -q=false .");
    assert_eq!((flags.push, flags.load, flags.no_cache), (false, true, true));
    assert_eq!((flags.pull, flags.quiet), (false, false));
    let flags = parse("--push --push=false --pull --pull -f a -f b .");
    assert_eq!((flags.push, flags.pull, flags.file), (false, true, Some("b".into())));
    let line = ["build", "--push=perhaps", "."];
    assert!(Line::try_parse_from(line).unwrap_err().to_string().contains("neither true nor false"));
}

#[test]
fn a_client_that_leaves_can_write_nothing() {
    for (line, refused) in [
        ("-t a .", false),
        ("-t h/a --push .", false),
        (".", false),
        ("-o out .", true),
        ("-t a --load .", true),
        ("-t a --iidfile x .", true),
        ("-t a --metadata-file x .", true),
        ("--check .", true),
    ] {
        assert_eq!(wanted(line, &[]).unwrap().refuse_to_stay().is_err(), refused, "{line}");
    }
}

/// What `docker buildx build --help` lists, and the flags of the builder before it that docker still takes.
#[test]
fn every_flag_of_docker_is_known_and_may_stand_behind_the_context() {
    let switches = "check debug load no-cache pull push quiet rm force-rm compress squash";
    let values = "add-host allow annotation attest build-arg build-context builder cache-from \
                  cache-to call opt policy resource cgroup-parent file iidfile label metadata-file network \
                  no-cache-filter output platform progress provenance sbom secret shm-size ssh tag \
                  target ulimit memory memory-swap cpu-shares cpu-period cpu-quota cpuset-cpus \
                  cpuset-mems isolation security-opt";
    let switches = switches.split_whitespace().map(|flag| format!(". --{flag}"));
    let values = values.split_whitespace().map(|flag| format!(". --{flag} 1"));
    let short =
        ["-D", "-q", "-f x", "-o x", "-t x", "-m 1g", "-c 2"].map(|flag| format!(". {flag}"));
    for line in switches.chain(values).chain(short) {
        assert_eq!(parse(&line).context, ".", "{line}");
    }
}

#[test]
fn a_flag_without_effect_is_told() {
    let flags = parse("--rm --force-rm --compress -m 1g --cpu-shares 2 .");
    assert_eq!(flags.without_effect(), ["memory", "cpu-shares"]);
    assert!(flags.skipped().is_empty());
    let skipped = parse("--builder ci --print outline .").skipped();
    assert!(skipped[0].starts_with("--builder ci names") && skipped[1].starts_with("--print is"));
}

#[test]
fn caches_at_other_places_are_submitted_and_keep_the_client() {
    let asked =
        wanted("--cache-from app:cache --cache-to type=local,dest=x,mode=max -t app .", &[]);
    let asked = asked.unwrap();
    let submission = asked.submission(Found::default(), Handover::default());
    let told = serde_json::to_value(&submission.caches).unwrap();
    let want = serde_json::json!({
        "from": [{ "title": "app:cache" }],
        "to": [{ "title": "x", "mode": "max", "compression": null }],
    });
    assert_eq!(told, want);
    assert!(asked.refuse_to_stay().is_err());
    for flags in [
        "--cache-to type=inline -o type=oci,dest=x .",
        "--build-arg BUILDKIT_INLINE_CACHE=1 -t a .",
    ] {
        let asked = wanted(flags, &[]).unwrap();
        assert!(asked.outputs.iter().all(|output| output.spec.inline_cache), "{flags}");
        assert!(asked.refuse_to_stay().is_ok() || flags.contains("oci"), "{flags}");
    }
}

fn said(line: &str, env: &[(&str, &str)]) -> String {
    let wanted = wanted(line, env).unwrap();
    let one = |output: &Output| {
        let Attests { provenance, sbom, storage, prefix } = &output.spec.attest;
        let provenance = provenance.as_ref().map(|spec| {
            let ProvenanceSpec { mode, version, builder_id, reproducible, file: _ } = spec;
            format!("{mode:?} {version:?} {builder_id:?} {reproducible} {}", spec.file_name())
        });
        let oci = output.spec.oci_media_types;
        format!("{provenance:?} sbom={sbom} {storage:?} prefix='{prefix}' oci={oci}\n")
    };
    let scan = wanted.request.scan.iter();
    let scan = scan.map(|scan| format!("{} {:?}\n", scan.generator, scan.parameters));
    scan.chain(wanted.outputs.iter().map(one)).collect()
}

#[test]
fn an_empty_value_is_none() {
    let empty = "--file= --iidfile= --metadata-file= --output= --annotation= --target= --cache-from= --ssh= \
                 --secret= --allow= --add-host= --build-context= .";
    let (none, given) = (wanted(".", &[]).unwrap(), wanted(empty, &[]).unwrap());
    assert_eq!(format!("{given:?}"), format!("{none:?}"));
}

#[test]
fn an_attestation_that_cannot_be_meant_says_so() {
    for (line, want) in [
        (
            "--provenance mode=much .",
            "--provenance 'mode=much' is malformed: 'much' is no value of mode (min or max)",
        ),
        ("--provenance . .", "--provenance '.' is malformed: '.' has no value"),
        (
            "--provenance version=v3 .",
            "--provenance 'version=v3' is malformed: 'v3' is no value of version (v0.2 or v1)",
        ),
        (
            "--provenance filename=a/b .",
            "--provenance 'filename=a/b' is malformed: 'a/b' is no value of filename (a name without folders)",
        ),
        (
            "--attest type=provenance,reproducible=maybe .",
            "--attest 'type=provenance,reproducible=maybe' is malformed: 'maybe' is no value of reproducible (true or false)",
        ),
        (
            "--attest mode=max .",
            "--attest 'mode=max' is malformed: it has no type= (provenance or sbom)",
        ),
        (
            "--attest type=vex .",
            "--attest 'type=vex' is malformed: 'vex' is no type of attestation (provenance or sbom)",
        ),
        (
            "--attest type=sbom --sbom=true .",
            "--sbom 'true' is malformed: sbom was asked for before",
        ),
        (
            "--sbom generator=UPPER .",
            "--sbom 'generator=UPPER' is malformed: 'UPPER' is no name of an image: invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        ("--sbom a=b=c,x .", "--sbom 'a=b=c,x' is malformed: 'x' has no value"),
        ("--sbom a/b=1 .", "--sbom 'a/b=1' is malformed: 'a/b' is no name of a variable"),
        ("--load --provenance=true .", "an attestation and '--load' do not go together"),
    ] {
        assert_eq!(wanted(line, &[]).unwrap_err().to_string(), want);
    }
}

#[test]
fn attestations_are_understood() {
    let check = |line: &str, want: &Expect| want.assert_eq(&said(line, &[]));
    check(
        "--provenance=true -o type=image -o type=local,dest=out,attestation-prefix=x- .",
        &expect![[r#"
            Some("Max V1 None false provenance.json") sbom=false Artifact prefix='' oci=true
            Some("Max V1 None false provenance.json") sbom=false Artifact prefix='x-' oci=true
        "#]],
    );
    // What CI actions ask by themselves: nothing in files, nothing for docker.
    check(
        "--attest type=provenance,mode=min,version=v0.2,inline-only=true,builder-id=https://ci/1 --push -t a -o out --load .",
        &expect![[r#"
            None sbom=false Artifact prefix='' oci=true
            Some("Min V02 Some(\"https://ci/1\") false provenance.json") sbom=false Artifact prefix='' oci=true
            None sbom=false Artifact prefix='' oci=false
        "#]],
    );
    check(
        "--sbom=generator=r/scan:1,Select=a,b=c --provenance=mode=max,reproducible=true,filename=p.json \
         -o type=oci,dest=x,oci-artifact=false,oci-mediatypes=false .",
        &expect![[r#"
            r/scan:1 {"Select": "a", "b": "c"}
            Some("Max V1 None true p.json") sbom=true Image prefix='' oci=true
        "#]],
    );
    check(
        "--sbom=true --attest type=provenance,disabled=true -t a .",
        &expect![[r#"
        docker/buildkit-syft-scanner:stable-1 {}
        None sbom=true Artifact prefix='' oci=true
    "#]],
    );
    let older = said("--provenance=true -t a .", &[("BUILDX_NO_DEFAULT_OCI_ARTIFACT", "1")]);
    assert!(older.contains(" Image "), "{older}");
    assert!(wanted("-t a .", &[("BUILDX_NO_DEFAULT_OCI_ARTIFACT", "x")]).is_err());
    assert_eq!(said("-t a .", &[("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")]), said("-t a .", &[]));
}

#[test]
fn the_metadata_file_has_as_much_provenance_as_is_asked() {
    let told = |value: &str| {
        let env = [("BUILDX_METADATA_PROVENANCE", value)];
        wanted("--metadata-file m .", &env).map(|wanted| wanted.told)
    };
    assert_eq!(told("").unwrap(), Some(dcbuild_attest::Mode::Min));
    assert_eq!(told("max").unwrap(), Some(dcbuild_attest::Mode::Max));
    assert_eq!(told("disabled").unwrap(), None);
    assert!(told("much").is_err());
    assert_eq!(wanted(".", &[]).unwrap().told, None);
}

#[test]
fn variables_say_what_is_told_of_a_build() {
    let asked =
        |name, value| wanted("--metadata-file m --provenance=true -t a .", &[(name, value)]);
    assert!(!wanted(".", &[]).unwrap().tells_warnings);
    assert!(asked("BUILDX_METADATA_WARNINGS", "1").unwrap().tells_warnings);
    assert!(asked("BUILDX_GIT_INFO", "1").unwrap().asks_git().info);
    assert!(!asked("BUILDX_GIT_INFO", "0").unwrap().asks_git().info);
    assert!(asked("BUILDX_GIT_LABELS", "full").unwrap().asks_git().labels);
    // Nobody is told of the commit: git need not be asked.
    assert_eq!(wanted(".", &[]).unwrap().asks_git(), GitAsked::default());
    for name in ["BUILDX_METADATA_WARNINGS", "BUILDX_GIT_LABELS", "BUILDX_METADATA_PROVENANCE"] {
        let error = asked(name, "perhaps").unwrap_err().to_string();
        assert_eq!(error, format!("{name} cannot be 'perhaps'"));
    }
}

#[test]
fn what_a_flag_says_of_a_label_goes_before_the_repository() {
    let wanted = wanted("--label a=flag .", &[]).unwrap();
    let labels =
        [("a", "git"), ("b", "git")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let found = Found { labels: labels.into(), ..Found::default() };
    let labels = wanted.submission(found, Handover::default()).request.labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("flag", "git"));
}

#[test]
fn a_policy_that_nobody_asks_is_not_passed_over() {
    let policy = [("BUILDX_DEFAULT_POLICY", "1")];
    let error = wanted("--sbom=true -t a .", &policy).unwrap_err().to_string();
    assert_eq!(error, "BUILDX_DEFAULT_POLICY=1 and --sbom by docker's scanner do not go together");
    assert!(wanted("--sbom=generator=own/scanner:1 -t a .", &policy).is_ok());
    assert!(wanted("-t a .", &policy).is_ok());
}

#[test]
fn an_annotation_that_nothing_can_carry_is_told() {
    for (line, told) in [
        ("--annotation a=b .", true),
        ("--annotation a=b -o out .", true),
        ("--annotation a=b -o type=tar,dest=- .", true),
        ("--annotation a=b -t app .", false),
        ("--annotation a=b -o out -o type=image,name=app .", false),
        ("--annotation a=b --check .", false),
        ("-o out .", false),
    ] {
        let said: Vec<String> = wanted(line, &[]).unwrap().warnings().cloned().collect();
        assert_eq!(said.iter().any(|it| it.contains("--annotation has no effect")), told, "{line}");
    }
}

#[test]
fn the_frontend_is_told_what_has_no_flag() {
    let wanted = wanted("--opt hostname=box --opt contextsubdir=/a//b folder", &[]).unwrap();
    assert_eq!(wanted.context, MainContext::Folder("folder/a/b".into()));
    assert_eq!(request("--opt hostname=box .", &[]).hostname, "box");
}

#[test]
fn policies_are_named_by_flags_and_by_the_environment() {
    let env = [("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "policy.json")];
    let policies =
        wanted("--policy a.json --policy filename=b.json,strict=true .", &env).unwrap().policies;
    let files = ["policy.json", "a.json", "b.json"].map(PathBuf::from);
    assert_eq!(
        policies,
        PolicyFlags { files: files.into(), strict: true, ..PolicyFlags::default() }
    );
    let policies = wanted("--policy reset=true,filename=a.rego --policy log-level=debug .", &[]);
    let policies = policies.unwrap().policies;
    assert_eq!((policies.reach, policies.detail), (RegoReach::Named, Detail::Inputs));
    assert_eq!(policies.rego, [PathBuf::from("a.rego")]);
    let policies = wanted("--policy disabled=true .", &[]).unwrap().policies;
    assert_eq!(policies.reach, RegoReach::None);
    for (line, part) in [
        ("--policy disabled=true,filename=a.rego .", "disabled=true goes with no other policy"),
        (
            "--policy disabled=true --policy strict=true .",
            "disabled=true goes with no other policy",
        ),
        ("--policy log-level=loud .", "'loud' is none of error, warn, info, debug and none"),
        ("--policy strict=yes .", "'yes' is no value of strict (true or false)"),
        ("--policy level=debug .", "'level' is none of filename="),
    ] {
        let error = wanted(line, &[]).unwrap_err();
        assert!(dcbuild_process::report_with_hint(&error).contains(part), "{error:?}");
    }
}

#[test]
fn a_group_is_asked_for_with_its_grant() {
    let request = request("--cgroup-parent /ci/builds .", &[]);
    assert_eq!(request.cgroup_parent, "ci/builds");
    assert!(request.allow.contains("cgroup-parent"));
}

proptest::proptest! {
    #[test]
    fn any_value_of_a_flag_is_understood_or_refused(
        flag in proptest::sample::select(vec![
            "--output", "--cache-to", "--cache-from", "--secret", "--ssh", "--ulimit", "--shm-size",
            "--add-host", "--network", "--allow", "--build-context", "--build-arg", "--label",
            "--annotation", "--platform", "--policy", "--cgroup-parent", "--call", "--tag", "--no-cache-filter", "--attest", "--progress", "--opt",
        ]),
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "type=", "image", "oci", "local", "dest=", "/x", "name=", "a/b:c", ",", ",,", "\"", "\"\"",
            "=", ":", "id=", "src=", "env=", "X", "ref=", "mode=max", "push=true", "compression=zstd",
            "compression-level=", "-1", "99999999999999999999", "docker-image://", "oci-layout://", "@",
            "sha256:", "nofile", "64m", "linux/arm64", "é", " ", "\n", "annotation.a=", "index:", "[::1]",
        ]), 0..8),
    ) {
        let value = pieces.concat();
        let line = Line::try_parse_from(["build", &format!("{flag}={value}"), "."]);
        let env: Env = [("X", "value")].into_iter().collect();
        if let Ok(line) = line
            && let Err(error) = Wanted::new(&line.flags, &env)
        {
            proptest::prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn files_of_a_repository_are_as_old_as_its_commit_where_the_image_has_an_age() {
    let mtime = |context: &str, env: &[(&str, &str)]| {
        let MainContext::Remote(Remote::Git(source)) = wanted(context, env).unwrap().context else {
            panic!("{context} is a repository")
        };
        source.mtime
    };
    let (url, epoch) = ("https://example.com/a.git", [("SOURCE_DATE_EPOCH", "7")]);
    assert_eq!(mtime(url, &[]), GitTime::Usual);
    assert_eq!(mtime(url, &epoch), GitTime::Commit);
    assert_eq!(mtime(url, &[("SOURCE_DATE_EPOCH", "")]), GitTime::Usual);
    assert_eq!(mtime(&format!("{url}?mtime=checkout"), &epoch), GitTime::Checkout);
    assert_eq!(mtime(&format!("{url}?mtime=commit"), &[]), GitTime::Commit);
}
