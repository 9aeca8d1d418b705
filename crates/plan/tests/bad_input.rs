//! Dockerfiles that name stages in circles, or too many of them, and words that grow: each is a prompt error that names
//! its place, or is planned.
#![expect(clippy::unwrap_used, reason = "test")]

use std::fmt::Write as _;

use dcbuild_model::{Digest, SelectionDigest};
use dcbuild_plan::op::{CopySource, Op};
use dcbuild_plan::{Need, Plan, PlanError, Planned, Request, Sources, plan};
use expect_test::{Expect, expect};

/// Plans where every folder is there and no image but those built upon scratch.
fn planned(dockerfile: &str) -> Result<Plan, PlanError> {
    let request = Request::new(dockerfile);
    let mut sources = Sources::default();
    loop {
        match plan(&request, &sources)? {
            Planned::Ready(plan) => return Ok(*plan),
            Planned::Lacks(needs) => {
                for need in needs {
                    match need {
                        Need::Verdict(_) | Need::Remote(_) => {
                            panic!("there is no policy of a client")
                        }
                        Need::Image { reference, platform } => {
                            let answer = Err(format!("{reference}: not found").into());
                            sources.images.insert((reference, platform), answer);
                        }
                        Need::Selection { context, selection } => {
                            let digest = SelectionDigest(Digest::of(b"selection"));
                            sources.selections.insert((context, selection), Ok(digest));
                        }
                    }
                }
            }
        }
    }
}

fn check(dockerfile: &str, want: &Expect) {
    let error = planned(dockerfile).unwrap_err();
    let mut out = match error.lines() {
        Some((line, _)) => format!("line {line}: {error}\n"),
        None => format!("{error}\n"),
    };
    if let Some(hint) = error.hint() {
        writeln!(out, "hint: {hint}").unwrap();
    }
    want.assert_eq(&out);
}

/// Stages that copy from the next each, the last from the first.
fn circle(length: usize) -> String {
    (0..length).fold(String::new(), |mut text, stage| {
        let next = (stage + 1) % length;
        writeln!(text, "FROM scratch AS s{stage}\nCOPY --from=s{next} /a /a").unwrap();
        text
    })
}

#[test]
fn circles_of_stages_are_named_in_order() {
    check(
        "FROM scratch AS a\nCOPY --from=a /x /x\n",
        &expect![[r#"
            line 2: circular dependency detected on stage: a
            hint: the circle is a -> a
        "#]],
    );
    check(
        &circle(2),
        &expect![[r#"
        line 2: circular dependency detected on stage: s0
        hint: the circle is s0 -> s1 -> s0
    "#]],
    );
    check(
        &circle(3),
        &expect![[r#"
        line 2: circular dependency detected on stage: s0
        hint: the circle is s0 -> s1 -> s2 -> s0
    "#]],
    );
    check(
        "FROM scratch AS a\nRUN --mount=from=b,target=/b true\nFROM a AS b\n",
        &expect![[r#"
        line 2: circular dependency detected on stage: a
        hint: the circle is a -> b -> a
    "#]],
    );
    let error = planned(&circle(100)).unwrap_err();
    let hint = error.hint().unwrap();
    assert_eq!(hint.matches(" -> ").count(), 100, "{hint}");
    assert!(planned(&circle(9_000)).is_err());
}

#[test]
fn stages_that_are_not_there_are_named() {
    check(
        "FROM scratch\nCOPY --from=99 /a /a\n",
        &expect![[r#"
            line 2: invalid stage index 99
        "#]],
    );
    check(
        "FROM scratch\nCOPY --from=0 /a /a\n",
        &expect![[r#"
        line 2: circular dependency detected on stage: stage-0
        hint: the circle is stage-0 -> stage-0
    "#]],
    );
    check(
        "FROM scratch\nCOPY --from=-1 /a /a\n",
        &expect![[r#"
            line 2: invalid stage index -1
        "#]],
    );
    // A stage further down is none to build upon: the name is an image's.
    check(
        "FROM later AS x\nFROM scratch AS later\nFROM x\n",
        &expect![[r#"
        line 1: later: failed to resolve source metadata for docker.io/library/later:latest: docker.io/library/later:latest: not found
        hint: the stage later is defined further down, at line 2; FROM takes those above it
    "#]],
    );
}

#[test]
fn the_last_of_two_stages_of_one_name_counts() {
    let text = "FROM scratch AS a\nCOPY one /\nFROM scratch AS a\nCOPY two /\nFROM scratch\nCOPY --from=a / /\n";
    let plan = planned(text).unwrap();
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert!(names.iter().any(|name| name.ends_with("COPY two /")), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with("COPY one /")), "{names:?}");
}

#[test]
fn long_chains_of_stages_are_planned() {
    let mut text = "FROM scratch AS s0\nCOPY a /\n".to_owned();
    for stage in 1..2_000 {
        writeln!(text, "FROM s{} AS s{stage}", stage - 1).unwrap();
    }
    assert_eq!(planned(&text).unwrap().steps.len(), 1);
    let mut text = "FROM scratch AS s0\nCOPY a /\n".to_owned();
    for stage in 1..2_000 {
        writeln!(text, "FROM scratch AS s{stage}\nCOPY --from=s{} / /", stage - 1).unwrap();
    }
    assert_eq!(planned(&text).unwrap().steps.len(), 2_000);
}

#[test]
fn words_that_double_are_an_error_of_their_line() {
    let mut text = "FROM scratch\nARG A0=0123456789\n".to_owned();
    for number in 1..=30 {
        writeln!(text, "ARG A{number}=${{A{0}}}${{A{0}}}", number - 1).unwrap();
    }
    check(
        &text,
        &expect![[r#"
        line 19: failed to process "${A16}${A16}": expansion is longer than 1048576 bytes
    "#]],
    );
}

#[test]
fn a_config_that_is_too_large_is_an_error() {
    let value = "v".repeat(60_000);
    let labels = |count: usize| {
        let head = format!("FROM scratch\nARG V={value}\n");
        (0..count).fold(head, |mut text, number| {
            writeln!(text, "LABEL l{number}=$V").unwrap();
            text
        })
    };
    assert!(planned(&labels(50)).is_ok());
    check(
        &labels(250),
        &expect![[r#"
            the image's config would have 30065229 bytes; it may have 8388608
            hint: variables, labels and the text of each instruction count: keep long texts in files
        "#]],
    );
}

/// A process gets its words up to the first NUL and no further: the line says where one stands.
#[test]
fn a_nul_that_a_process_would_be_given_is_found() {
    let out = |text: &str| {
        let error = planned(text).unwrap_err();
        format!("{:?}: {error}", error.lines().map(|(line, _)| line))
    };
    let command = "the command of this RUN holds a NUL byte, which no process can be given";
    for text in ["FROM scratch\nRUN x\0y\n", "FROM scratch\nRUN <<E\nx\0y\nE\n"] {
        assert_eq!(out(text), format!("Some(2): {command}"));
    }
    assert_eq!(
        out("FROM scratch\nENV A=x\0y\nRUN true\n"),
        "Some(3): the variable A, which this RUN sees, holds a NUL byte, which no process can be given"
    );
    assert!(planned("FROM scratch\n# x\0y\nRUN true\n").is_ok());
}

/// A few lines may make gigabytes of one: each variable stands in the image, and in each RUN behind it.
#[test]
fn variables_that_grow_are_refused_where_they_do() {
    let doubled = |times: usize| {
        (0..times)
            .fold(String::new(), |text, at| text + &format!("ENV B{at}={}\n", "$A".repeat(15)))
    };
    let head = format!("FROM scratch\nENV A={}\n", "a".repeat(60_000));
    let grown = head.clone() + &doubled(100);
    check(&grown, &expect!["line 12: the variables here have more than 8 MiB\n"]);
    let arguments = grown.replace("ENV", "ARG").replace("FROM scratch\n", "") + "FROM scratch\n";
    check(&arguments, &expect!["line 11: the variables here have more than 8 MiB\n"]);
    let many =
        (0..100).fold(head.clone() + &doubled(8), |text, at| text + &format!("RUN echo {at}\n"));
    let words = "the plan up to here has 32 MiB of variables, commands and texts";
    let labels = (0..100).fold(head.clone() + &doubled(8), |text, _| text + "LABEL a=$B0\n");
    let stages = (1..100)
        .fold(head + &doubled(8), |text, at| text + &format!("FROM s{} AS s{at}\n", at - 1));
    let stages = stages.replacen("FROM scratch", "FROM scratch AS s0", 1);
    for dockerfile in [many, labels, stages] {
        let error = planned(&dockerfile).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.lines().is_some_and(|(line, _)| line < 50), "{:?}", error.lines());
    }
}

/// A heredoc of COPY is a file of its own, wherever its name seems to lie.
#[test]
fn heredocs_are_files_without_folders() {
    let copy = |name: &str| format!("FROM scratch\nCOPY <<{name} /d/\ntext\n{name}\n");
    for name in ["x", "../x", "/x", "./x", "a/../x"] {
        let plan = planned(&copy(name)).unwrap();
        let Op::Copy(op) = &plan.steps[0].op else { panic!("a COPY") };
        let [CopySource::Inline(file)] = &op.sources[..] else { panic!("{:?}", op.sources) };
        assert_eq!(file.name, "x", "{name}");
    }
    check(
        &copy("a/b"),
        &expect![[r#"
            line 2: the heredoc <<a/b names a file in a folder: name the file alone, and the folder with the destination
        "#]],
    );
    check(&copy(".."), &expect!["line 2: the heredoc <<.. names no file\n"]);
}
