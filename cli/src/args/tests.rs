//! Every flag of `docker buildx build`, and lines as CI systems write them, given to `build` and to `submit`.

use std::fmt::Write as _;

use clap::Parser as _;
use dcbuild_client::Wanted;
use dcbuild_process::{Env, report_with_hint};
use expect_test::expect;

use super::{Arguments, Command};

/// What `docker buildx build --help` of buildx 0.37 lists, each flag with a sample of its value; then what older ones and
/// the builder before `BuildKit` took, which they hide. `@` stands for the context.
const FLAGS: &[&str] = &[
    "--add-host db:10.0.0.7",
    "--add-host a:10.0.0.7,b=[2001:db8::1] --add-host host.docker.internal:host-gateway",
    "--allow network.host --allow security.insecure",
    "--allow device=vendor.com/gpu,alias=gpu",
    "--annotation a=b --annotation manifest[linux/amd64]:c=d",
    "--annotation index:a=b -t app",
    "--attest type=provenance,mode=max --attest type=sbom,generator=a/scanner:1",
    "--build-arg A=1 --build-arg B --build-arg C=",
    "--build-context lib=../lib --build-context base=docker-image://alpine:3",
    "--builder ci",
    "--cache-from app:cache --cache-from type=local,src=cache",
    "--cache-from type=gha",
    "--cache-to type=registry,ref=h/app:cache,mode=max,image-manifest=true,oci-mediatypes=true",
    "--cache-to type=inline",
    "--cache-to type=azblob,name=x",
    "--call check,format=json",
    "--call outline",
    "--call targets",
    "--call subrequests.describe",
    "--call build",
    "--cgroup-parent /ci",
    "--check",
    "--check=false",
    "-D",
    "--debug",
    "-f docker/Dockerfile",
    "--file docker/Dockerfile",
    "--iidfile id -t app",
    "--label a=b --label c",
    "--load -t app",
    "--metadata-file meta.json",
    "--network none",
    "--network default",
    "--no-cache",
    "--no-cache-filter build,test --no-cache-filter lint",
    "-o out",
    "--output type=local,dest=out,mode=copy",
    "--output type=local,dest=out,mode=delete",
    r#"--output type=image,"name=a/b:1,a/b:2",push=true"#,
    "--platform linux/amd64,linux/arm64 --platform linux/arm/v7",
    "--platform local",
    "--policy filename=p.json,strict=true",
    "--policy filename=p.rego",
    "--policy reset=true,filename=cwd://p.rego,strict=true,log-level=debug",
    "--policy disabled=true",
    "--progress auto",
    "--progress none",
    "--progress plain",
    "--progress quiet",
    "--progress rawjson",
    "--progress tty",
    "--provenance mode=max",
    "--provenance=false",
    "--pull",
    "--push -t h/app",
    "-q",
    "--quiet=true",
    "--resource memory=2g --resource=cpu-quota=50000 --resource cpuset-cpus=0-1",
    "--resource cpus=2",
    "--sbom generator=a/scanner:1",
    "--sbom=true",
    r#"--secret id=a,src=token --secret type=env,id=B --secret "id=c","env=C""#,
    "--shm-size 128m",
    "--ssh default --ssh deploy=key,other",
    "-t app -t h/app:1",
    "--tag app",
    "--target build",
    "--ulimit nofile=1024:2048 --ulimit core=-1",
    // Hidden, or of older versions.
    "--print outline",
    "--compress",
    "--isolation default",
    "--security-opt seccomp=unconfined",
    "--squash",
    "-m 1g --memory-swap -1",
    "-c 512 --cpu-period 1000 --cpu-quota 500 --cpuset-cpus 0-3 --cpuset-mems 0,1",
    "--rm --force-rm --rm=false",
    "--disable-content-trust",
    "--disable-content-trust=false",
    "--invoke /bin/sh",
    "--root /x",
    "--server-config /x",
    "--detach",
];

fn env() -> Env {
    [("B", "b"), ("C", "c"), ("SSH_AUTH_SOCK", "/run/agent")].into_iter().collect()
}

/// What a line comes to: nothing where it is understood, else what is said of it.
fn refused(command: &str, line: &str) -> Option<String> {
    let words = ["dcbuild", command].into_iter().chain(line.split_whitespace()).chain(["."]);
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return Some(error.to_string()),
    };
    let flags = match arguments.command {
        Command::Build(flags) if flags.detach => return Some("--detach is refused".into()),
        Command::Build(flags) => flags.build,
        Command::Submit(flags) => flags.build,
        other => panic!("{other:?}"),
    };
    Wanted::new(&flags, &env()).err().map(|error| report_with_hint(&error))
}

#[test]
fn every_flag_of_docker_is_understood_or_refused_by_its_name() {
    let mut all = String::new();
    for line in FLAGS {
        let (here, there) = (refused("build", line), refused("submit", line));
        if *line != "--detach" {
            assert_eq!(here, there, "{line}");
        }
        let Some(said) = here else { continue };
        let flag = line.trim_start_matches('-').split([' ', '=']).next().unwrap();
        let named = said.contains(&format!("--{flag}")) || flag == "annotation";
        assert!(named && !said.contains("unexpected argument"), "{line}: {said}");
        writeln!(all, "{line}\n{said}").unwrap();
    }
    expect![[r#"
        --output type=local,dest=out,mode=delete
        error: --output 'type=local,dest=out,mode=delete' is not supported
        hint: empty the folder yourself before the build, and write mode=copy

        --resource cpus=2
        error: --resource 'cpus=2' is malformed: there is none but memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems
        hint: such as --resource memory=2g or --resource cpu-quota=50000

        --disable-content-trust=false
        error: --disable-content-trust 'false' is not supported
        hint: name base images by their digest: dcbuild does not verify signatures

        --invoke /bin/sh
        error: --invoke '/bin/sh' is not supported
        hint: leave it out: dcbuild has no debugger; --target builds up to a stage, whose image can be run

        --root /x
        error: --root '/x' is not supported
        hint: leave it out: dcbuild has no server of its own; `dcbuild submit` builds on a cluster

        --server-config /x
        error: --server-config '/x' is not supported
        hint: leave it out: dcbuild has no server of its own; `dcbuild submit` builds on a cluster

        --detach
        --detach is refused
    "#]]
    .assert_eq(&all);
}

/// Lines that GitHub's `docker/build-push-action`, GitLab's templates, Jenkins, Bitbucket, `CircleCI` and people write.
#[test]
fn lines_of_ci_are_understood() {
    for line in [
        "--iidfile /tmp/iid --metadata-file /tmp/meta --attest type=provenance,mode=max,builder-id=https://github.com/o/r/actions/runs/1/attempts/1 \
         --secret id=GIT_AUTH_TOKEN,src=/tmp/token --tag ghcr.io/o/r:main --label org.opencontainers.image.revision=abc --platform linux/amd64,linux/arm64 \
         --cache-from type=registry,ref=ghcr.io/o/r:cache --cache-to type=registry,ref=ghcr.io/o/r:cache,mode=max --push",
        "--add-host docker:10.180.0.1 --allow network.host --annotation manifest:a=b --build-context base=docker-image://alpine@sha256:\
         e1c082e3d3c45cccac829840a25941e679c25d438cc8412c2fa221cf1a824e6a --no-cache-filter build --sbom true --shm-size 2g --ulimit nofile=1024:1024 \
         --secret id=B,env=B --ssh default --target release --file ./Dockerfile --load=false --network host --pull",
        "--output type=image,name=ghcr.io/o/r,push-by-digest=true,name-canonical=true,push=true --platform linux/arm64 --metadata-file m",
        "--cache-from ghcr.io/o/r:latest --build-arg BUILDKIT_INLINE_CACHE=1 --pull -t ghcr.io/o/r:latest --push",
        "--pull --rm --force-rm -t r/app:1 -f Dockerfile --build-arg VERSION=1 --label ci=true --no-cache",
        "--provenance=false --sbom=false --push=true -t r/app:1 --progress=plain --cache-to=type=inline",
        "-q --rm=true --compress --tag r/app --network=host",
    ] {
        for command in ["build", "submit"] {
            assert_eq!(refused(command, line), None, "{line}");
        }
    }
}

#[test]
fn a_shell_completes_the_flags_of_a_build() {
    use clap::CommandFactory as _;
    for shell in [super::Shell::Bash, super::Shell::Zsh, super::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "dcbuild", &mut script);
        let script = String::from_utf8(script).unwrap();
        for flag in ["add-host", "call", "metadata-file", "provenance", "cache-upload"] {
            assert!(script.contains(flag), "{shell}: {flag}");
        }
    }
}

#[test]
fn shells_complete_the_words_of_flags() {
    use clap::CommandFactory as _;
    let mut script = Vec::new();
    let bash = clap_complete::Shell::Bash;
    clap_complete::generate(bash, &mut Arguments::command(), "dcbuild", &mut script);
    let script = String::from_utf8(script).unwrap();
    for words in [
        "auto tty plain quiet rawjson none",
        "default none host",
        "all outputs none",
        "build check advice outline targets subrequests.describe",
        "network.host security.insecure device",
        "mode=min mode=max",
    ] {
        assert!(script.contains(words), "no {words:?}");
    }
}
