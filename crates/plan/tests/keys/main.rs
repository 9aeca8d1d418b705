//! What changes a key and what does not; each named fault is one that another builder shipped.
#![expect(clippy::unwrap_used, reason = "test")]

mod cones;

use dcbuild_model::{Digest, SelectionDigest, StepKey};
use dcbuild_plan::{ContextSource, Need, Plan, Planned, Request, Sources, plan};

fn planned(request: &Request) -> Plan {
    let mut sources = Sources::default();
    loop {
        match plan(request, &sources).unwrap() {
            Planned::Ready(plan) => return *plan,
            Planned::Lacks(needs) => {
                for need in needs {
                    let Need::Selection { context, selection } = need else { panic!("{need:?}") };
                    let digest =
                        SelectionDigest(Digest::of(selection.sources.join(" ").as_bytes()));
                    sources.selections.insert((context, selection), Ok(digest));
                }
            }
        }
    }
}

/// The keys of a Dockerfile's steps; it stands on a folder, so that no image is asked for.
fn keys(dockerfile: &str, change: impl FnOnce(&mut Request)) -> Vec<StepKey> {
    let mut request = Request::new(format!("FROM base\n{dockerfile}\n"));
    request.contexts.insert("base".into(), ContextSource::Folder {});
    change(&mut request);
    planned(&request).steps.iter().map(|step| step.recipe).collect()
}

fn plain(dockerfile: &str) -> Vec<StepKey> {
    keys(dockerfile, |_| {})
}

#[test]
fn a_change_of_meaning_changes_the_key() {
    let cases = [
        // osscontainertools/kaniko#873: joined ARGs collide.
        ("ARG a='1 b=2'\nARG b=\nRUN true", "ARG a=1\nARG b=2\nRUN true"),
        // osscontainertools/kaniko#824: the body of a heredoc is missing.
        ("RUN <<E\necho 1\nE", "RUN <<E\necho 2\nE"),
        ("COPY <<E /f\n1\nE", "COPY <<E /f\n2\nE"),
        // osscontainertools/kaniko#791: `COPY foo /$A` unresolved.
        ("ARG A=x\nCOPY foo /$A", "ARG A=y\nCOPY foo /$A"),
        // GoogleContainerTools/kaniko#728: ARG and ENV are ignored.
        ("ARG A=x\nRUN true", "ARG A=y\nRUN true"),
        ("ENV A=x\nRUN true", "ENV A=y\nRUN true"),
        // moby/buildkit#2076: mounts are missing.
        ("RUN --mount=type=cache,target=/a true", "RUN --mount=type=cache,target=/b true"),
        ("RUN --mount=type=tmpfs,target=/a true", "RUN true"),
        ("RUN --mount=type=tmpfs,target=/a,ro true", "RUN --mount=type=tmpfs,target=/a true"),
        ("RUN --mount=type=secret,id=a true", "RUN --mount=type=secret,id=b true"),
        ("RUN --mount=target=/a,source=x true", "RUN --mount=target=/a,source=y true"),
        ("RUN --mount=target=/a,rw true", "RUN --mount=target=/a true"),
        ("RUN a b", "RUN [\"a\", \"b\"]"),
        ("USER 1\nRUN true", "USER 2\nRUN true"),
        ("WORKDIR /a\nRUN true", "WORKDIR /b\nRUN true"),
        ("SHELL [\"/bin/ash\", \"-c\"]\nRUN true", "RUN true"),
        ("RUN --network=none true", "RUN true"),
        ("COPY a /", "COPY b /"),
        ("COPY a /x", "COPY a /x/"),
        ("COPY --chown=1 a /", "COPY a /"),
        ("COPY --chmod=600 a /", "COPY a /"),
        ("COPY --link a /", "COPY a /"),
        ("COPY --parents a /", "COPY a /"),
        ("COPY --exclude=b a /", "COPY a /"),
        ("ADD a /", "COPY a /"),
        ("USER 1\nWORKDIR /a", "USER 2\nWORKDIR /a"),
        // What is linked knows nothing of what lies below; who stands upon it or reads it does.
        ("RUN a\nCOPY --link x /\nRUN c", "RUN b\nCOPY --link x /\nRUN c"),
        ("RUN a\nCOPY --link x /\nWORKDIR /w", "RUN b\nCOPY --link x /\nWORKDIR /w"),
        ("RUN a\nCOPY --link x /\nCOPY c /", "RUN b\nCOPY --link x /\nCOPY c /"),
        (
            "RUN a\nCOPY --link x /\nADD --link y /\nRUN c",
            "RUN b\nCOPY --link x /\nADD --link y /\nRUN c",
        ),
        (
            "RUN a\nCOPY --link x /\nFROM scratch\nCOPY --from=0 /y /",
            "RUN b\nCOPY --link x /\nFROM scratch\nCOPY --from=0 /y /",
        ),
        (
            "FROM base AS s\nRUN a\nCOPY --link x /\nFROM base\nRUN --mount=from=s,target=/m true",
            "FROM base AS s\nRUN b\nCOPY --link x /\nFROM base\nRUN --mount=from=s,target=/m true",
        ),
    ];
    for (left, right) in cases {
        assert_ne!(plain(left).last(), plain(right).last(), "{left}\n--\n{right}");
    }
}

#[test]
fn a_change_without_meaning_leaves_the_key() {
    let cases = [
        ("LABEL a=1\nRUN true", "RUN true"),
        (
            "CMD a\nEXPOSE 1\nVOLUME /v\nSTOPSIGNAL 9\nHEALTHCHECK NONE\nONBUILD RUN x\nRUN true",
            "RUN true",
        ),
        ("ENTRYPOINT [\"x\"]\nMAINTAINER me\nRUN true", "RUN true"),
        // Neither ENV nor ARG is in the key of a COPY.
        ("ENV a=1\nARG b=2\nCOPY a /", "COPY a /"),
        ("USER 7\nCOPY a /", "COPY a /"),
        ("# a comment\nRUN    true", "RUN true"),
        ("RUN a \\\n  b", "RUN a   b"),
        // A linked copy knows nothing of its parent.
        ("RUN x\nCOPY --link a /", "COPY --link a /"),
    ];
    for (left, right) in cases {
        assert_eq!(plain(left).last(), plain(right).last(), "{left}\n--\n{right}");
    }
}

#[test]
fn options_count_where_a_process_sees_them() {
    let run = "RUN true";
    let same = plain(run);
    let differs = |change: fn(&mut Request)| assert_ne!(keys(run, change).last(), same.last());
    differs(|request| request.hosts.push(("h".into(), "1.2.3.4".into())));
    differs(|request| request.hostname = "h".into());
    differs(|request| request.shm_bytes = 1);
    differs(|request| request.network = dcbuild_plan::RunNetwork::None);
    differs(|request| request.platforms = vec!["linux/arm64".parse().unwrap()]);
    let equal = |change: fn(&mut Request)| assert_eq!(keys(run, change).last(), same.last());
    equal(|request| {
        request.labels.insert("a".into(), "b".into());
    });
    equal(|request| {
        request.build_args.insert("UNDECLARED".into(), "x".into());
    });
    // The Dockerfile reference: predefined proxy variables are left out of the cache unless an ARG declares them.
    equal(|request| {
        request.build_args.insert("HTTP_PROXY".into(), "http://proxy".into());
    });
    let declared = "ARG HTTP_PROXY\nRUN true";
    let proxied = keys(declared, |request| {
        request.build_args.insert("HTTP_PROXY".into(), "http://proxy".into());
    });
    assert_ne!(proxied.last(), plain(declared).last());
}

#[test]
fn a_stage_has_the_same_keys_wherever_it_stands() {
    let alone = plain("RUN a\nRUN b");
    let second = plain("RUN z\nFROM base AS other\nRUN a\nRUN b");
    assert_eq!(alone.last(), second.last());
}
