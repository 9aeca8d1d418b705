//! What is said of each miss: one table, from what changed between two builds to the reason that is found.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_explain::{
    Account, AccountImage, AccountInput, AccountStep, Asked, Change, Evidence, FileChange, Passed,
    Reason, StepEnd, Verdict, explain, file_questions, pick,
};
use dcbuild_model::{
    BuildId, Component, Digest, Eviction, EvictionRule, LayerId, ManifestDigest, StepIndex,
    StepKey, UnixTime,
};
use expect_test::{Expect, expect};

fn key(text: &str) -> StepKey {
    StepKey(Digest::of(text.as_bytes()))
}

/// A step whose key is made of all that its components say, as a real one is.
fn step(name: &str, stage: &str, components: &[(&str, &str)]) -> AccountStep {
    let component =
        |(name, value): &(&str, &str)| Component { name: (*name).into(), value: (*value).into() };
    let components: Vec<Component> = components.iter().map(component).collect();
    AccountStep {
        name: name.into(),
        stage: stage.into(),
        lines: (1, 1),
        recipe: key(&format!("{components:?}")),
        components,
        parent: None,
        inputs: Vec::new(),
        image: None,
        asked: Asked::Usual,
        passed: None,
        end: StepEnd::Ran { took_ms: 1_500 },
        layer: None,
        held: false,
    }
}

fn image(manifest: &str) -> AccountStep {
    let manifest = ManifestDigest(Digest::of(manifest.as_bytes()));
    AccountStep {
        image: Some(AccountImage { name: "busybox:1".into(), manifest }),
        ..step(
            "[build 1/3] FROM busybox:1",
            "build",
            &[("operation", "image"), ("layers", &manifest.to_string())],
        )
    }
}

fn on(parent: u32, account: &Account, step: AccountStep) -> AccountStep {
    let below = account.steps[StepIndex(parent).index()].recipe;
    let mut components = step.components.clone();
    components.insert(0, Component { name: "parent".into(), value: format!("recipe {below}") });
    let recipe = key(&format!("{components:?}"));
    AccountStep { components, recipe, parent: Some(StepIndex(parent)), ..step }
}

/// What a build was made of, as a test changes it.
struct Build {
    number: u32,
    title: &'static str,
    manifest: &'static str,
    content: &'static str,
    command: &'static str,
    version: Option<&'static str>,
}

impl Build {
    fn new(number: u32) -> Build {
        let (title, manifest, content) = ("app:1", "one", "A");
        Build { number, title, manifest, content, command: "make", version: Some("1") }
    }

    /// An image, a COPY of the context, a RUN, and a COPY of another stage from that.
    fn account(&self) -> Account {
        let submitted = UnixTime { secs: i64::from(self.number) * 100, nanos: 0 };
        let id = BuildId::from_bits(u128::from(self.number));
        let mut account = Account::new(id, self.title.into(), submitted);
        account.arguments.insert("VERSION".into());
        account.steps.push(image(self.manifest));
        let content = format!("content {}", self.content);
        let copy = step(
            "[build 2/3] COPY src .",
            "build",
            &[
                ("input 0: context src", &content),
                ("operation", "copy"),
                ("sources of input 0", "[\"src\"]"),
            ],
        );
        let layer = Some(LayerId(Digest::of(self.content.as_bytes())));
        let inputs = vec![AccountInput::Context { name: "context".into() }];
        let copy = on(0, &account, AccountStep { inputs, layer, ..copy });
        account.steps.push(copy);
        let mut components = vec![("operation", "run"), ("command", self.command)];
        components.extend(self.version.map(|version| ("env VERSION", version)));
        components.push(("env HOME", "/root"));
        let run = step(&format!("[build 3/3] RUN {}", self.command), "build", &components);
        let run = on(1, &account, run);
        account.steps.push(run);
        let made = account.steps[2].recipe;
        let input = format!("recipe {made}");
        let last = step(
            "[stage-1 1/1] COPY --from=build /out /",
            "stage-1",
            &[("parent", "none"), ("input 0: stage /out", &input), ("operation", "copy")],
        );
        let inputs = vec![AccountInput::Step { step: StepIndex(2) }];
        account.steps.push(AccountStep { inputs, ..last });
        account
    }
}

/// Explains the steps of the newest account that differ from all before.
fn check(earlier: &[Account], evictions: &[Eviction], account: &Account, want: Expect) {
    let newest_first: Vec<Account> = earlier.iter().rev().cloned().collect();
    let evidence = Evidence { earlier: &newest_first, evictions };
    let all = pick(account, None).unwrap();
    let explained = explain(account, &all, evidence, &|_| {
        let file = FileChange { path: "/src/main.c".into(), how: "content".into() };
        (vec![file], 2)
    });
    let mut text = String::new();
    for step in explained.steps {
        let reason = step.reason.map_or(String::new(), |reason| format!(": {}", show(&reason)));
        text.push_str(&format!("{} {:?}{reason}\n", step.number, step.verdict));
    }
    want.assert_eq(&text);
}

fn show(reason: &Reason) -> String {
    match reason {
        Reason::Changed { since, changes, .. } => {
            let changes: Vec<String> = changes.iter().map(show_change).collect();
            format!("since {} {}", since.to_string().trim_start_matches('0'), changes.join(", "))
        }
        Reason::Lost { since, .. } => {
            format!("lost, {} had it", since.to_string().trim_start_matches('0'))
        }
        other => format!("{other:?}"),
    }
}

fn show_change(change: &Change) -> String {
    match change {
        Change::Files { input, files, more } => {
            let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            format!("files of {input}: {} and {more}", names.join(" "))
        }
        Change::Parent { step, .. } => format!("on {step}"),
        Change::Stage { input, step, .. } => format!("reads {input} of {step}"),
        Change::Base { name, .. } => format!("base {name}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_first_build_of_all_was_made_by_nobody() {
    check(
        &[],
        &[],
        &Build::new(1).account(),
        expect![[r#"
            1 Miss: Never
            2 Miss: Never
            3 Miss: Never
            4 Miss: Never
        "#]],
    );
}

#[test]
fn a_file_is_named_and_what_stands_on_it_names_the_step() {
    check(
        &[Build::new(1).account()],
        &[],
        &Build { content: "B", ..Build::new(2) }.account(),
        expect![[r#"
            1 Miss: lost, 1 had it
            2 Miss: since 1 files of context src: /src/main.c and 2
            3 Miss: since 1 on 2
            4 Miss: since 1 reads stage /out of 3
        "#]],
    );
}

#[test]
fn a_variable_is_named_with_both_values() {
    let before = [Build::new(1).account()];
    let account = Build { version: Some("2"), ..Build::new(2) }.account();
    check(
        &before,
        &[],
        &account,
        expect![[r#"
            1 Miss: lost, 1 had it
            2 Miss: lost, 1 had it
            3 Miss: since 1 Variable { name: "VERSION", given: true, before: Some("1"), after: Some("2") }
            4 Miss: since 1 reads stage /out of 3
        "#]],
    );
    let account = Build { version: None, ..Build::new(2) }.account();
    let steps = [StepIndex(2)];
    let evidence = Evidence { earlier: &before, evictions: &[] };
    let explained = explain(&account, &steps, evidence, &|_| (Vec::new(), 0));
    let Some(Reason::Changed { changes, .. }) = &explained.steps[0].reason else { panic!() };
    assert!(matches!(&changes[..], [Change::Variable { after: None, .. }]), "{changes:?}");
}

#[test]
fn what_only_stands_elsewhere_is_named() {
    let before = [Build::new(1).account()];
    let mut account = Build::new(2).account();
    account.steps[2].components.swap(3, 4);
    account.steps[2].recipe = key("swapped");
    let evidence = Evidence { earlier: &before, evictions: &[] };
    let explained = explain(&account, &[StepIndex(2)], evidence, &|_| (Vec::new(), 0));
    let Some(Reason::Changed { changes, .. }) = &explained.steps[0].reason else { panic!() };
    let order = Change::Part {
        name: "the order of the variables".into(),
        before: Some("VERSION, HOME".into()),
        after: Some("HOME, VERSION".into()),
    };
    assert_eq!(*changes, [order]);
}

#[test]
fn the_text_of_an_instruction_and_the_base_are_named() {
    check(
        &[Build::new(1).account()],
        &[],
        &Build { manifest: "two", command: "make all", ..Build::new(2) }.account(),
        expect![[r#"
            1 Miss: since 1 base busybox:1
            2 Miss: since 1 on 1
            3 Miss: since 1 Instruction { before: "RUN make", after: "RUN make all" }, on 2
            4 Miss: since 1 reads stage /out of 3
        "#]],
    );
}

#[test]
fn the_nearest_build_is_the_one_that_differs_least() {
    let one = Build { content: "B", version: Some("1"), ..Build::new(1) }.account();
    let two = Build { content: "B", version: Some("2"), ..Build::new(2) }.account();
    let other = Build { title: "other:1", content: "C", ..Build::new(3) }.account();
    check(
        &[one, two, other],
        &[],
        &Build { content: "C", version: Some("1"), title: "app:7", ..Build::new(4) }.account(),
        expect![[r#"
            1 Miss: lost, 2 had it
            2 Miss: since 2 files of context src: /src/main.c and 2
            3 Miss: since 1 on 2
            4 Miss: since 2 reads stage /out of 3
        "#]],
    );
}

#[test]
fn a_new_instruction_is_not_an_old_one_that_changed() {
    let before = Build::new(1).account();
    let mut account = Build::new(2).account();
    let new = step("[build 4/4] RUN strip", "build", &[("operation", "run"), ("command", "strip")]);
    let new = on(2, &account, new);
    account.steps.push(new);
    check(
        &[before],
        &[],
        &account,
        expect![[r#"
            1 Miss: lost, 1 had it
            2 Miss: lost, 1 had it
            3 Miss: lost, 1 had it
            4 Miss: lost, 1 had it
            5 Miss: Never
        "#]],
    );
}

#[test]
fn a_step_that_failed_before_is_nothing_to_compare_with() {
    let mut before = Build::new(1).account();
    before.steps[2].end = StepEnd::Failed {};
    let mut account = Build::new(2).account();
    account.steps[0].end = StepEnd::Hit {};
    account.steps[1].end = StepEnd::HitByResult {};
    account.steps[2].end = StepEnd::Failed {};
    account.steps[3].end = StepEnd::Open {};
    check(
        &[before],
        &[],
        &account,
        expect![[r#"
            1 Hit
            2 HitByResult
            3 Failed: Never
            4 NotRun: lost, 1 had it
        "#]],
    );
}

#[test]
fn what_was_asked_for_comes_first() {
    let mut account = Build::new(2).account();
    account.steps[0].asked = Asked::NoCache;
    account.steps[1].asked = Asked::NoCacheFilter;
    account.steps[2].passed = Some(Passed::OtherResults {});
    account.steps[3].end = StepEnd::Unneeded {};
    check(
        &[Build::new(1).account()],
        &[],
        &account,
        expect![[r#"
            1 Miss: NoCache
            2 Miss: NoCacheFilter { stage: "build" }
            3 Miss: OtherResults
            4 Unneeded
        "#]],
    );
}

#[test]
fn an_eviction_is_told_unless_it_came_later_or_the_record_was_made_again() {
    let account = Build::new(2).account();
    let (recipe, layer) = (account.steps[1].recipe, LayerId(Digest::of(b"A")));
    let note = |secs, rule, records, layers| Eviction {
        at: UnixTime { secs, nanos: 0 },
        rule,
        records,
        layers,
    };
    let bytes = EvictionRule::Bytes { keep: 7 };
    let age = EvictionRule::Age { max_secs: 60 };
    let one = |account: &Account, evictions: &[Eviction], earlier: &[Account]| {
        let evidence = Evidence { earlier, evictions };
        let explained = explain(account, &[StepIndex(1)], evidence, &|_| (Vec::new(), 0));
        assert_eq!(explained.steps[0].verdict, Verdict::Miss);
        explained.steps[0].reason.clone().unwrap()
    };
    let earlier = [Build::new(1).account()];
    let notes = [note(150, age, vec![recipe], vec![]), note(120, bytes, vec![recipe], vec![layer])];
    let at = UnixTime { secs: 150, nanos: 0 };
    assert_eq!(one(&account, &notes, &earlier), Reason::Evicted { at, rule: age });
    let afterwards = [note(250, age, vec![recipe], vec![])];
    assert!(
        matches!(one(&account, &afterwards, &earlier), Reason::Lost { .. }),
        "it was there then"
    );
    let before = [note(50, age, vec![recipe], vec![])];
    assert!(matches!(one(&account, &before, &earlier), Reason::Lost { .. }), "it was made again");
    let [mut kept_not] = earlier.clone();
    kept_not.steps[1].held = true;
    let held = one(&account, &[], std::slice::from_ref(&kept_not));
    assert!(matches!(held, Reason::Held { since, .. } if since == kept_not.build), "{held:?}");
    let mut account = account;
    account.steps[1].passed = Some(Passed::LayerGone { layer });
    let evicted = Some((UnixTime { secs: 120, nanos: 0 }, bytes));
    assert_eq!(one(&account, &notes, &earlier), Reason::LayerGone { layer, evicted });
    assert_eq!(one(&account, &[], &earlier), Reason::LayerGone { layer, evicted: None });
    // A layer that was made again since went for some other reason.
    let again = Build { command: "other", ..Build::new(1) }.account();
    let again = Account { submitted: UnixTime { secs: 130, nanos: 0 }, ..again };
    let gone = one(&account, &notes[1..], &[again]);
    assert_eq!(gone, Reason::LayerGone { layer, evicted: None });
    // Nobody knows what the store has that was not to be asked.
    account.steps[1].passed = Some(Passed::Unreachable {});
    let unreachable = one(&account, &[], &earlier);
    assert!(matches!(unreachable, Reason::Unreachable { .. }), "{unreachable:?}");
    let other = Build { content: "B", ..Build::new(1) }.account();
    let changed = one(&account, &[], &[other]);
    assert!(matches!(changed, Reason::Changed { .. }), "it is another step: {changed:?}");
    // It was found while the build went on.
    let at = UnixTime { secs: 250, nanos: 0 };
    account.steps[1].passed = Some(Passed::LayerDamaged { layer, at });
    assert_eq!(one(&account, &notes, &earlier), Reason::LayerDamaged { layer, at });
}

#[test]
fn a_step_that_came_to_the_same_result_is_no_cause() {
    let before = Build::new(1).account();
    let mut now = Build { content: "B", version: Some("2"), ..Build::new(2) }.account();
    now.steps[1].end = StepEnd::HitByResult {};
    check(
        std::slice::from_ref(&before),
        &[],
        &now,
        expect![[r#"
            1 Miss: lost, 1 had it
            2 HitByResult
            3 Miss: since 1 Variable { name: "VERSION", given: true, before: Some("1"), after: Some("2") }
            4 Miss: since 1 reads stage /out of 3
        "#]],
    );
    // Where nothing else is known, it is all there is to say.
    let mut now = Build { content: "B", ..Build::new(2) }.account();
    now.steps[1].end = StepEnd::HitByResult {};
    let evidence = Evidence { earlier: &[before], evictions: &[] };
    let told = explain(&now, &[StepIndex(2)], evidence, &|_| (Vec::new(), 0));
    assert_eq!(show(told.steps[0].reason.as_ref().unwrap()), "since 1 on 2");
}

#[test]
fn another_image_is_named_with_both_digests_though_its_key_says_nothing_of_it() {
    let of = |number, manifest: &str, name: &str| {
        let mut account = Build::new(number).account();
        let image = image(manifest);
        let told = image.image.clone().unwrap();
        // The key of an image is of its layers; what is told of it is how many those are.
        let components = vec![Component { name: "layers".into(), value: "1 layers".into() }];
        let image = Some(AccountImage { name: format!("{name}@{}", told.manifest), ..told });
        let recipe = key(manifest);
        account.steps[0] = AccountStep { components, image, recipe, ..account.steps[0].clone() };
        account
    };
    let digest = |manifest: &str| ManifestDigest(Digest::of(manifest.as_bytes())).to_string();
    let before = [of(1, "one", "busybox:1")];
    for (name, was) in
        [("busybox:1", digest("one")), ("busybox:3", format!("{}, busybox:1", digest("one")))]
    {
        let account = of(2, "two", name);
        let evidence = Evidence { earlier: &before, evictions: &[] };
        let explained = explain(&account, &[StepIndex(0)], evidence, &|_| (Vec::new(), 0));
        let Some(Reason::Changed { changes, .. }) = &explained.steps[0].reason else {
            panic!("{explained:?}")
        };
        let (name, after) = (name.to_owned(), digest("two"));
        assert_eq!(*changes, [Change::Base { name, before: was, after }]);
    }
}

#[test]
fn files_are_asked_of_copies_alone() {
    let before = Build::new(1).account();
    let mut account = Build { content: "B", ..Build::new(2) }.account();
    let all = pick(&account, None).unwrap();
    let evidence = Evidence { earlier: std::slice::from_ref(&before), evictions: &[] };
    let questions = file_questions(&account, &all, evidence);
    assert_eq!(questions.len(), 1);
    let layer = |text: &[u8]| LayerId(Digest::of(text));
    assert_eq!((questions[0].before, questions[0].after), (layer(b"A"), layer(b"B")));
    // What a RUN made of its context says nothing of the context.
    for step in [&mut account.steps[1]] {
        for it in step.components.iter_mut().filter(|it| it.name == "operation") {
            it.value = "run".into();
        }
    }
    assert_eq!(file_questions(&account, &all, evidence), []);
}

#[test]
fn steps_are_found_by_number_stage_and_text() {
    let account = Build::new(1).account();
    for (asked, want) in [
        ("1", vec![0]),
        ("build", vec![0, 1, 2]),
        ("run MAKE", vec![2]),
        ("copy", vec![1, 3]),
        ("[build 2/3]", vec![1]),
    ] {
        let found = pick(&account, Some(asked)).unwrap();
        assert_eq!(found, want.into_iter().map(StepIndex).collect::<Vec<_>>(), "{asked}");
    }
    let error = pick(&account, Some("5")).unwrap_err().to_string();
    expect![[r#"
        build 00000000000000000000000001 has no step '5'; it has
          1 [build 1/3] FROM busybox:1
          2 [build 2/3] COPY src .
          3 [build 3/3] RUN make
          4 [stage-1 1/1] COPY --from=build /out /"#]]
    .assert_eq(&error);
}

/// A build of one RUN with these parts of its key.
fn run_with(number: u32, parts: &[(&str, &str)]) -> Account {
    let id = BuildId::from_bits(u128::from(number));
    let submitted = UnixTime { secs: i64::from(number) * 100, nanos: 0 };
    let mut account = Account::new(id, "app:1".into(), submitted);
    let mut components = vec![("operation", "run"), ("command", r#"["/bin/sh", "-c", "make"]"#)];
    components.extend_from_slice(parts);
    account.steps.push(step("[stage-0 2/2] RUN make", "stage-0", &components));
    account
}

#[test]
fn parts_are_told_in_the_words_of_their_flags() {
    let before = [
        ("network", "Default"),
        ("hosts", "[]"),
        ("shm size", "0"),
        ("ulimits", r#"[Ulimit { name: "nofile", soft: 10, hard: 20 }]"#),
        ("user", "root"),
    ];
    let now = [
        ("network", "None"),
        ("hosts", r#"[("a", "1.2.3.4")]"#),
        ("shm size", "10485760"),
        ("ulimits", "[]"),
        ("user", "me"),
    ];
    check(
        &[run_with(1, &before)],
        &[],
        &run_with(2, &now),
        expect![[r#"
            1 Miss: since 1 Part { name: "network", before: Some("--network default"), after: Some("--network none") }, Part { name: "hosts", before: None, after: Some("--add-host a:1.2.3.4") }, Part { name: "shm size", before: None, after: Some("--shm-size 10MB") }, Part { name: "ulimits", before: Some("--ulimit nofile=10:20"), after: None }, Part { name: "user", before: Some("root"), after: Some("me") }
        "#]],
    );
}

#[test]
fn a_step_that_another_platform_has_is_not_one_that_nobody_made() {
    let of = |number, platform: &'static str, manifest: &str, user: &str| {
        let mut account = run_with(number, &[("platform", platform), ("user", user)]);
        let mut base = image(manifest);
        base.components.push(Component { name: "platform".into(), value: platform.into() });
        base.stage = "stage-0".into();
        account.steps.insert(0, base);
        let run = account.steps.remove(1);
        let run = on(0, &account, run);
        account.steps.push(run);
        account
    };
    let other = of(1, "linux/amd64", "one", "root");
    check(
        std::slice::from_ref(&other),
        &[],
        &of(2, "linux/386", "two", "me"),
        expect![[r#"
            1 Miss: since 1 Part { name: "platform", before: Some("--platform linux/amd64"), after: Some("--platform linux/386") }
            2 Miss: since 1 Part { name: "platform", before: Some("--platform linux/amd64"), after: Some("--platform linux/386") }, Part { name: "user", before: Some("root"), after: Some("me") }
        "#]],
    );
    // One of the same platform is nearer, however old.
    check(
        &[of(1, "linux/386", "two", "root"), of(2, "linux/amd64", "one", "me")],
        &[],
        &of(3, "linux/386", "two", "me"),
        expect![[r#"
            1 Miss: lost, 1 had it
            2 Miss: since 1 Part { name: "user", before: Some("root"), after: Some("me") }
        "#]],
    );
}
