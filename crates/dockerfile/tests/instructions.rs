//! Instructions, heredocs and mounts as they come out of the parser.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_dockerfile::{InstructionKind, Mount, parse, parse_trigger};
use expect_test::{Expect, expect};

fn mount(text: &str) -> String {
    let file = parse(format!("FROM a\nRUN --mount={text} x\n").as_bytes()).unwrap();
    let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else {
        return "no RUN".to_owned();
    };
    match run.mounts[0].resolve(&mut |value| Ok(value.replace("$t", "/t").replace("$k", "secret")))
    {
        Ok(Mount::Secret(secret)) => format!("secret {} {:?}", secret.id, secret.target),
        Ok(Mount::Cache(cache)) => format!("cache {:?} {:?}", cache.target, cache.sharing),
        Ok(Mount::Bind(bind)) => format!("bind {:?} {:?}", bind.from, bind.read_only),
        Ok(Mount::Tmpfs(tmpfs)) => format!("tmpfs {:?}", tmpfs.size_bytes),
        Ok(Mount::Ssh(ssh)) => format!("ssh {:?} {}", ssh.target, ssh.required),
        Err(error) => error.to_string(),
    }
}

#[test]
fn mounts_are_typed() {
    for (text, expected) in [
        ("type=cache,target=$t,sharing=locked", "cache \"/t\" Locked"),
        ("from=a,target=/x,rw", "bind Some(\"a\") false"),
        ("type=tmpfs,size=1.5k,target=/x", "tmpfs Some(1536)"),
        ("type=secret,id=a/b", "secret a/b Some(\"/run/secrets/b\")"),
        ("type=secret,id=a,env=B", "secret a None"),
        ("type=ssh,required", "ssh None true"),
        ("type=cahce,target=/x", "unsupported mount type \"cahce\" (did you mean cache?)"),
        ("required,target=/x", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,rw=maybe", "invalid value for rw: maybe"),
        ("type=$k,from=a,id=x", "secret mount should not have a from"),
        ("uid=1,target=/x", "uid not allowed for \"bind\" type mounts"),
    ] {
        assert_eq!(mount(text), expected, "{text}");
    }
}

/// The stages or images that a RUN names in its mounts.
fn froms(mounts: &str) -> Result<Vec<Option<String>>, String> {
    let file = parse(format!("FROM a\nRUN {mounts} x\n").as_bytes());
    let file = file.map_err(|error| error.to_string())?;
    let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else { panic!("no RUN") };
    Ok(run.mounts.iter().map(|mount| mount.from.clone()).collect())
}

#[test]
fn nothing_is_looked_for_that_a_mount_cannot_read() {
    let all =
        "--mount=from=b,target=/x --mount=type=tmpfs,from=c,target=/y --mount=type=secret,id=x";
    assert_eq!(froms(all).unwrap(), [Some("b".to_owned()), None, None]);
    let secret = "--mount=target=/x --mount=from=b,id=x,type=Secret";
    assert!(froms(secret).unwrap_err().ends_with("secret mount should not have a from"));
}

fn check(text: &str, expected: &Expect) {
    let file = match parse(text.as_bytes()) {
        Ok(file) => file,
        Err(error) => return expected.assert_eq(&error.to_string()),
    };
    let mut out = String::new();
    for instruction in &file.stages[0].instructions {
        let (start, end) = (instruction.span.start_line, instruction.span.end_line);
        out.push_str(&format!("{start}-{end} {:?}\n", instruction.source));
        for heredoc in &instruction.heredocs {
            out.push_str(&format!("    {} {:?}\n", heredoc.name, heredoc.chomped()));
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn lines_are_joined_and_heredocs_gathered() {
    check(
        "FROM a\nRUN x \\\n# note\n\n  y\nCOPY <<A <<-'B' /d/\n\ta\nA\n\tb\n\tB\nUSER u",
        &expect![[r#"
            2-5 "RUN x   y"
            6-10 "COPY <<A <<-'B' /d/"
                A "\ta\n"
                B "b\n"
            11-11 "USER u"
        "#]],
    );
    check("FROM a\nRUN <<E\nx", &expect!["dockerfile parse error on line 2: unterminated heredoc"]);
    check(
        "FROM a\nCOPY --chwn=1 a b",
        &expect!["dockerfile parse error on line 2: unknown flag: --chwn (did you mean chown?)"],
    );
}

#[test]
fn a_trigger_is_one_instruction() {
    assert_eq!(parse_trigger("RUN x").unwrap().kind.keyword(), "RUN");
    assert_eq!(parse_trigger("COPY <<E /x\na\nE").unwrap().heredocs[0].content, "a\n");
    assert!(parse_trigger("RUN x\nRUN y").is_err());
    assert!(parse_trigger("FROM a").is_err());
    assert!(parse_trigger("").is_err());
}
