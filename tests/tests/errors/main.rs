//! What a user sees who made a mistake: every kind of mistake once, as it is printed. The texts stand in the files beside
//! this one; `UPDATE_EXPECT=1` writes them anew, and then somebody reads them.
#![expect(clippy::unwrap_used, reason = "test")]

use std::fmt::Write as _;

use dcbuild_tests::layout::architecture;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;
use expect_test::{ExpectFile, expect_file};

/// What a build may name: a folder, a file, and a hidden one.
const FILES: &[(&str, &str)] = &[
    ("app.txt", "app"),
    ("src/main.c", "int main;"),
    ("secret.txt", "s"),
    (".dockerignore", "secret*\n"),
    ("run.sh", "#!/bin/bash\necho hi\n"),
];

fn story() -> Story {
    Story::new("FROM scratch\n", FILES)
}

/// What was printed, with what differs from run to run taken out.
fn printed(story: &Story, title: &str, done: &Finished) -> String {
    let code = done.status.code().unwrap_or(-1);
    assert!(!done.stderr.contains("panicked at"), "{title}: {}", done.stderr);
    let mut text = done.stderr.clone();
    for (from, to) in [
        (story.home.arg("context"), "CONTEXT"),
        (story.home.arg(""), "HOME/"),
        (story.registry.host.clone(), "REGISTRY"),
        ("--platform linux/amd64,linux/arm64".into(), "--platform SOME"),
        ("--platform linux/amd64".into(), "--platform SOME"),
    ] {
        text = text.replace(&from, to);
    }
    let mut shown = format!("=== {title}\n");
    for line in text.lines() {
        writeln!(shown, "{}", steady(line)).unwrap();
    }
    writeln!(shown, "(exit code {code})\n").unwrap();
    shown
}

/// A line without what depends on the machine: its platform, how long something took, how docker's hub was not reached.
fn steady(line: &str) -> String {
    let line = line.trim_end().replace(&format!("linux/{}", architecture()), "linux/HERE");
    // A line of the log begins with its time.
    let line = match line.split_once("  WARN ") {
        Some((_, rest)) => format!("TIME  WARN {rest}"),
        None => line,
    };
    // Whether docker's hub itself is reached depends on the machine.
    if line.starts_with("hint: ") && line.contains("docker.io") {
        return "hint: ... docker.io ...".into();
    }
    let (line, _) = line.split_once(", and so did the registry").unwrap_or((&line, ""));
    let line = line.split("sha256:").enumerate().map(|(at, part)| match part.get(..64) {
        Some(hex) if at > 0 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("sha256:DIGEST{}", &part[64..])
        }
        _ if at > 0 => format!("sha256:{part}"),
        _ => part.to_owned(),
    });
    let line = line.collect::<String>();
    match line.split_once(' ') {
        Some((time, rest)) if time.contains('.') && time.parse::<f64>().is_ok() => {
            format!("0.0 {rest}")
        }
        _ => line,
    }
}

/// Builds each Dockerfile and compares all that is printed.
fn check_dockerfiles(cases: &[&str], want: &ExpectFile) {
    let story = story();
    let mut all = String::new();
    for case in cases {
        story.write("Dockerfile", case);
        let context = story.home.arg("context");
        let done = story.home.run(["build", "--progress=quiet", &context]);
        let title = case.trim_end().replace('\n', "\n    ").replace('\r', "\\r");
        all.push_str(&printed(&story, &title, &done));
    }
    want.assert_eq(&all);
}

/// Runs each command line and compares all that is printed; `@` is the context.
fn check_lines(story: &Story, cases: &[&str], want: &ExpectFile) {
    let mut all = String::new();
    for case in cases {
        let context = story.home.arg("context");
        let words = case.split_whitespace().map(|word| word.replace('@', &context));
        let mut command = story.home.command(words);
        command.stdin(std::process::Stdio::null());
        command.env("BUILDKIT_PROGRESS", "quiet").env("DOCKER_HOST", "unix:///none/docker.sock");
        let done = Running::start(command).finish(LONG);
        all.push_str(&printed(story, case, &done));
    }
    want.assert_eq(&all);
}

#[test]
fn of_the_text_of_a_dockerfile() {
    check_dockerfiles(
        &[
            "",
            "# only a comment\n",
            "RUN true\n",
            "FORM busybox:golden\n",
            "FROM busybox:golden\nCOPPY a b\n",
            "FROM\n",
            "FROM a b c\n",
            "FROM busybox:golden AS 1st\n",
            "FROM Not/Valid:golden\n",
            "FROM ${BASE}\n",
            "ARG BASE\nFROM ${BASE:?name a base}\n",
            "FROM busybox:golden\nCOPY app.txt\n",
            "FROM busybox:golden\nCOPY --chwon=1 app.txt /\n",
            "FROM busybox:golden\nCOPY --chmod=rwx app.txt /\n",
            "FROM busybox:golden\nCOPY --from=biuld app.txt /\n",
            "FROM busybox:golden AS build\nFROM scratch\nCOPY --from=biuld /a /\n",
            "FROM busybox:golden AS a\nCOPY --from=a /x /y\n",
            "FROM busybox:golden\nENV NAME\n",
            "FROM busybox:golden\nENV A=1 B\n",
            "FROM busybox:golden\nLABEL \"open\n",
            "FROM busybox:golden\nEXPOSE http\n",
            "FROM busybox:golden\nEXPOSE 99999999\n",
            "FROM busybox:golden\nRUN <<EOF\necho never ended\n",
            "FROM busybox:golden\nCOPY <<-END /x\n\tline\n  END\nRUN true\n",
            "FROM busybox:golden\nRUN echo ${X:?it must be set}\n",
            "FROM busybox:golden\nWORKDIR ${X:?it must be set}\n",
            "FROM busybox:golden\nWORKDIR ${X\n",
            "FROM busybox:golden\nRUN --mount=type=bnid,target=/x true\n",
            "FROM busybox:golden\nRUN --mount=type=cache true\n",
            "FROM busybox:golden\nRUN --mount=type=cache,target=/x,sharing=some true\n",
            "FROM busybox:golden\nRUN --mount=type=secret,id=x,from=nowhere.invalid/x true\n",
            "FROM busybox:golden\nRUN --mount=target=/x,from=nowhere true\n",
            "FROM busybox:golden\nRUN --mount=type=secret,taget=/x true\n",
            "FROM busybox:golden\nRUN --network=some true\n",
            "FROM busybox:golden\nRUN []\n",
            "FROM busybox:golden\nHEALTHCHECK\n",
            "FROM busybox:golden\nHEALTHCHECK --interval=soon CMD true\n",
            "FROM busybox:golden # the base\n",
            "FROM busybox:golden build\n",
            "FROM busybox:golden as\n",
            "FROM busybox:golden\u{a0}AS build\n",
            "FROM\u{a0}busybox:golden\n",
            "FROM node:${NODE_VERSION}-alpine\n",
            "ARG V\nFROM node:$V-alpine\n",
            "FROM scratch\n<<<<<<< HEAD\nUSER a\n=======\nUSER b\n>>>>>>> other\n",
            "services:\n  app:\n    build: .\n",
            "FROM busybox:golden\nSHELL bash\n",
            "FROM busybox:golden\nSTOPSIGNAL\n",
            "FROM busybox:golden\nUSER\n",
            "FROM busybox:golden\nVOLUME\n",
            "FROM busybox:golden\nONBUILD FROM scratch\n",
            "FROM busybox:golden\nENV A='open\n",
            "FROM busybox:golden\nCOPY it's.txt /to/\n",
            "FROM busybox:golden\nHEALTHCHECK --retries=some CMD true\n",
            "FROM busybox:golden\nHEALTHCHECK --interval=5 CMD true\n",
            "FROM busybox:golden\nRUN --mount=type=secret,sharing=locked true\n",
            "FROM busybox:golden\nCOPY app.txt <<EOF\nx\nEOF\n",
            "FROM busybox:golden\nCOPY --exclude app.txt /\n",
            "# check=error=perhaps\nFROM scratch\n",
            "FROM busybox:golden\nADD --checksum=sha256:12 http://127.0.0.1:9/x /\n",
            "# escape=x\nFROM scratch\n",
            "# syntax=example.com/other:1\nFROM scratch\n",
            "# syntax=docker/dockerfile:1.27\nFROM scratch\nCOPY --reflink app.txt /\n",
            "# syntax=docker/dockerfile:1.27\nARG SOURCE_DATE_EPOCH=build\nFROM scratch AS build\n",
            "ARG SOURCE_DATE_EPOCH=yesterday\nFROM scratch\n",
        ],
        &expect_file!["texts.txt"],
    );
}

#[test]
fn of_what_a_dockerfile_finds() {
    check_dockerfiles(
        &[
            "FROM busybox:none\n",
            "FROM nosuch/image:1\n",
            "FROM 127.0.0.1:9/image:1\n",
            "FROM busybox:golden@sha256:0000000000000000000000000000000000000000000000000000000000000000\n",
            "FROM --platform=linux/s390x busybox:golden\nRUN true\n",
            "FROM busybox:golden\nCOPY ap.txt /\n",
            "FROM busybox:golden\nCOPY secret.txt /\n",
            "FROM busybox:golden\nCOPY ../shared/*.txt /\n",
            "FROM busybox:golden\nCOPY /etc/hostname /\n",
            "FROM busybox:golden\nCOPY app.txt --chown=1 /x\n",
            "FROM busybox:golden\nCOPY -from=a app.txt /\n",
            "FROM busybox:golden\nCOPY app.txt /x # the application\n",
            "FROM busybox:golden AS a\nFROM scratch\nCOPY --from=a /bin/busybox --chown=1 /x\n",
            "FROM busybox:golden\nCOPY \"sp ace/q.txt\" /s/\n",
            "FROM busybox:golden\nCOPY app\u{a0}txt /\n",
            "FROM busybox:golden\nCOPY App.txt SRC/main.c /\n",
            "FROM busybox:golden\nCOPY ~/app.txt /\n",
            "FROM busybox:golden\nCOPY C:\\src\\app.txt /\n",
            "FROM busybox:golden AS a\nFROM scratch\nCOPY --from=a /bin/BusyBox /\n",
            "FROM busybox:golden AS a\nFROM scratch\nCOPY --from=a ~/x /\n",
            "FROM busybox:golden\nCOPY app.txt src /file\n",
            "FROM busybox:golden\nCOPY app.txt /bin/busybox/x\n",
            "FROM busybox:golden AS a\nFROM scratch\nCOPY --from=a /nothing /\n",
            "FROM busybox:golden\nADD http://127.0.0.1:9/x /\n",
            "FROM busybox:golden\nRUN exit 3\n",
            "FROM busybox:golden\nRUN nosuchprogram\n",
            "FROM busybox:golden\nRUN [\"/no/such/program\"]\n",
            "FROM busybox:golden\nRUN apt-get update && apt-get install -y curl\n",
            "FROM busybox:golden\nSHELL [\"/bin/bash\", \"-c\"]\nRUN true\n",
            "FROM busybox:golden\nCOPY --chmod=755 run.sh /\nRUN /run.sh\n",
            "FROM busybox:golden\nRUN [\"echo\" \"a\"]\n",
            "FROM busybox:golden\nRUN true && \\\n\nCOPY app.txt /\n",
            "FROM busybox:golden\nRUN <<EOF\r\nset -e\r\ntrue\r\nEOF\r\n",
            "FROM busybox:golden\nCOPY <<EOF /run.sh\n#!/bin/sh\r\ntrue\r\nEOF\nRUN chmod +x /run.sh\nRUN /run.sh\n",
            "FROM busybox:golden\nRUN mkdir -p /w/.wh.x\n",
            "FROM busybox:golden\nUSER nosuchuser\nRUN true\n",
            "FROM busybox:golden\nRUN --mount=type=secret,id=token,required cat /run/secrets/token\n",
            "FROM busybox:golden\nRUN --mount=type=ssh,required true\n",
            "FROM busybox:golden\nRUN --mount=type=bind,source=none,target=/x true\n",
            "FROM busybox:golden\nRUN --mount=type=tmpfs,target=/proc true\n",
            "FROM scratch\nRUN true\n",
        ],
        &expect_file!["finds.txt"],
    );
}

/// Command lines; `@` is the context.
const LINES: &[&str] = &[
    "biuld @",
    "build",
    "build @ @",
    "build --tarhet a @",
    "build --target none @",
    "build -t Name @",
    "build -t name:tag:more @",
    "build --build-arg =1 @",
    "build --build-context x @",
    "build --build-context x=oci-layout://: @",
    "build --platform amd @",
    "build --label =x @",
    "build --annotation x @",
    "build -o type=oic @",
    "build -o type=oci,dst=x @",
    "build -o dest=x @",
    "build -o type=local @",
    "build -o type=tar -o - @",
    "build -o type=image,compression=lzma,name=x @",
    "build -o type=image,compression-level=much,name=x @",
    "build --push @",
    "build --push=maybe @",
    "build --load -t x @",
    "build --secret src=x @",
    "build --secret id=x,what=y @",
    "build --secret id=x,src=none @",
    "build --ssh default @",
    "build --ssh default=none @",
    "build --network some @",
    "build --allow all @",
    "build --add-host db @",
    "build --add-host db:nowhere @",
    "build --ulimit nofile @",
    "build --shm-size big @",
    "build --progress some @",
    "build --call some @",
    "build --check --call=outline @",
    "build --call check,format=xml @",
    "build --call check,ignorestatus=perhaps @",
    "build --cgroup-parent x/../y @",
    "build --annotation index:a=b -t x @",
    "build --add-host a:1.2.3.4,b @",
    "build --iidfile id -o out @",
    "build --detach @",
    "build --invoke sh @",
    "build --disable-content-trust=false @",
    "build -o type=docker,context=rootless @",
    "build -o type=local,dest=out,mode=delete @",
    "build -o type=registry,name=x,registry.insecure=true @",
    "build --cache-to type=gha @",
    "build --platform linux/amd64,linux/arm64 --load @",
    "build --opt hostname @",
    "build --build-context context=x @",
    "bake app",
    "buildx imagetools inspect x",
    "buildx nonsense",
    "push x",
    "info",
    "inspect x",
    "cp x:/y .",
    "buildx --builder ci ls",
    "buildx prune --max-used-space much",
    "build --provenance mode=much @",
    "build --sbom generator=A @",
    "build --attest type=vex @",
    "build --provenance=true --load @",
    "build --attest type=provenance,max=true @",
    "build --policy x @",
    "build --policy reset=perhaps @",
    "build --resource cpus=1 @",
    "build --resource memory-swap=10m @",
    "build --resource memory=2g --resource memory-swap=1g @",
    "build -t app:1,app:2 @",
    "build -o type=image,compression-level=99,name=x @",
    "build --opt target=x @",
    "build --cache-upload some @",
    "build --store dir:/elsewhere @",
    "submit --detach --ssh x=none -o out @",
    "submit @",
    "submit --coordinator http://127.0.0.1:9 @",
    "attach nonsense --coordinator http://127.0.0.1:9",
    "ps",
    "images -f label=x",
    "images [a",
    "cancel 01arz3ndektsv4rrffq69g5fav --coordinator http://127.0.0.1:9",
    "prune --keep-storage much",
    "rmi none",
    "--tlsverify --tlscacert /none/ca.pem -H tcp://127.0.0.1:9 build --load -t x @",
    "--tls --tlscert /none/cert.pem -H tcp://127.0.0.1:9 build --load -t x @",
    "--config none.toml build @",
];

#[test]
fn of_a_command_line() {
    let story = story();
    let mut config = std::fs::read_to_string(story.home.path("config.toml")).unwrap();
    config.push_str("\n[submit]\nwait = \"0s\"\n");
    std::fs::write(story.home.path("config.toml"), config).unwrap();
    check_lines(&story, LINES, &expect_file!["lines.txt"]);
}

/// Variables of the environment that say what cannot be meant, or what nobody does.
#[test]
fn of_the_environment() {
    let story = story();
    let mut all = String::new();
    for (name, value, flags) in [
        ("BUILDX_METADATA_PROVENANCE", "much", "--metadata-file m -t x"),
        ("BUILDX_METADATA_WARNINGS", "perhaps", "--metadata-file m -t x"),
        ("BUILDX_GIT_LABELS", "some", ""),
        ("BUILDX_NO_DEFAULT_OCI_ARTIFACT", "x", ""),
        ("BUILDX_DEFAULT_POLICY", "1", "--sbom=true -t x"),
        ("BUILDKIT_PROGRESS", "fancy", ""),
        ("DOCKER_DEFAULT_PLATFORM", "amd", ""),
        ("DOCKER_HOST", "npipe:////./pipe/docker_engine", "--load -t x"),
        ("DOCKER_HOST", "ssh://me:secret@host", "--load -t x"),
        ("DOCKER_HOST", "ssh://me:sec/ret@host", "--load -t x"),
        ("DOCKER_CONTEXT", "nowhere", "--load -t x"),
        ("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "none.json", ""),
        ("BUILDX_BUILDER", "ci", "--check"),
        ("BUILDKIT_HOST", "tcp://host:1234", "--check"),
        ("BUILDKIT_COLORS", "run=pinkish", "--check"),
        ("DOCKER_BUILDKIT", "0", "--check"),
    ] {
        let context = story.home.arg("context");
        let words = ["build", "--progress=quiet"].into_iter().chain(flags.split_whitespace());
        let words = words.filter(|word| name != "BUILDKIT_PROGRESS" || *word == "build");
        let mut command = story.home.command(words.chain([context.as_str()]));
        command.env(name, value);
        let done = Running::start(command).finish(LONG);
        all.push_str(&printed(&story, &format!("{name}={value} build {flags}"), &done));
    }
    expect_file!["environment.txt"].assert_eq(&all);
}

#[test]
fn of_contexts_and_files() {
    let story = story();
    let bad = story.home.path("bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    std::fs::write(bad.join(".dockerignore"), "[a-\n").unwrap();
    let empty = story.home.path("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(
        story.home.path("wrong.toml"),
        "[worker]\nslots = 0\nsolts = 1\n[log]\nlevel = 3\n",
    )
    .unwrap();
    std::fs::write(story.home.path("broken.toml"), "[worker\n").unwrap();
    check_lines(
        &story,
        &[
            "build none",
            "build @/app.txt",
            "build empty",
            "build -f none @",
            "build -f @/src @",
            "build bad",
            "build -",
            "build -f - @",
            "build http://127.0.0.1:9/context.tar",
            "build -f none -",
            "build --build-context x=none @",
            "build --cache-to type=local,dest=@/app.txt/x,ignore-error=false @",
            "build --policy @/app.txt @",
            "build --iidfile none/id -t x @",
            "build --metadata-file none/meta -t x @",
            "build --push -t 127.0.0.1:9/app @",
            "--config wrong.toml build @",
            "--config broken.toml build @",
        ],
        &expect_file!["places.txt"],
    );
}

/// What stands between a user and a registry: a login, a helper that is not there, a file of docker's that is none.
#[test]
fn of_logins() {
    let story = story();
    let login = dcbuild_tests::registry::Registry::with_login();
    let mut all = String::new();
    let mut run = |title: &str, flags: &[&str]| {
        let context = story.home.arg("context");
        let fixed = ["build", "--progress=quiet"];
        let words = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
        let done = story.home.run(words);
        let shown = printed(&story, title, &done).replace(&login.host, "LOGIN");
        all.push_str(&shown);
    };
    let docker = story.home.path("user/.docker");
    std::fs::create_dir_all(&docker).unwrap();
    let config = |text: &str| std::fs::write(docker.join("config.json"), text).unwrap();
    let name = format!("{}/team/app:1", login.host);
    run("push without a login", &["--push", "-t", &name]);
    story.write("Dockerfile", &format!("FROM {name}\n"));
    run("pull without a login", &[]);
    let auth = "d3Jvbmc6d29yZA==";
    config(&format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, login.host));
    run("pull with a wrong login", &[]);
    config(&format!(r#"{{"credHelpers":{{"{}":"nowhere"}}}}"#, login.host));
    run("a helper that is not there", &[]);
    config("{ auths");
    run("a docker config that is none", &[]);
    expect_file!["logins.txt"].assert_eq(&all);
}
