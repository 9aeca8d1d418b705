//! Scripts of updates and what they print.

use expect_test::{Expect, expect};

use super::*;
use crate::tests::{Script, at};

/// Draws after every update, at its time.
fn check(script: Script, want: Expect) {
    let mut plain = Plain::default();
    let mut out = String::new();
    for (time, update) in &script.updates {
        plain.update(update);
        out += &plain.draw(at(*time));
    }
    out += &plain.finish(at(script.now()));
    want.assert_eq(&out);
}

#[test]
fn a_step_is_a_block() {
    let script = Script::default()
        .start(0, "[build 1/2] FROM busybox")
        .cached(10, "[build 1/2] FROM busybox")
        .start(20, "[build 2/2] RUN make")
        .log(143, "[build 2/2] RUN make", b"one\ntw")
        .log(200, "[build 2/2] RUN make", b"o\nthree")
        .done(1220, "[build 2/2] RUN make");
    check(
        script,
        expect![[r#"
        #1 [build 1/2] FROM busybox
        #1 CACHED

        #2 [build 2/2] RUN make
        #2 0.123 one
        #2 0.123 two
        #2 0.180 three
        #2 DONE 1.2s
    "#]],
    );
}

#[test]
fn failures_and_cancels_say_so() {
    let script = Script::default()
        .start(0, "a")
        .start(0, "b")
        .log(100, "a", b"\x1b[31mred\x1b[0m \x1b]0;title\x07\xff\r\n10%\r20%\n")
        .failed(500, "a", "exit code: 1")
        .canceled(600, "b");
    check(
        script,
        expect![[r#"
        #1 a
        #1 0.100 red �
        #1 0.100 20%
        #1 ERROR: exit code: 1

        #2 b
        #2 CANCELED
    "#]],
    );
}

#[test]
fn transfers_are_shown_now_and_then() {
    let script = Script::default()
        .start(0, "pull")
        .status(0, "pull", ("layer", 0, Some(3_419_000)))
        .status(100, "pull", ("layer", 1000, Some(3_419_000)))
        .status(400, "pull", ("layer", 2_000_000, Some(3_419_000)))
        .status_done(900, "pull", ("layer", 3_419_000, Some(3_419_000)))
        .status(950, "pull", ("transferring", 512, None))
        .warning(960, "pull", "JSON is \x1b[1mbetter")
        .done(1000, "pull");
    check(
        script,
        expect![[r#"
        #1 pull
        #1 layer 0B / 3.41MB
        #1 layer 2.00MB / 3.41MB 0.4s
        #1 layer 3.41MB / 3.41MB 0.9s done
        #1 transferring 512B 0.9s
        #1 WARN: JSON is better
        #1 DONE 1.0s
    "#]],
    );
}

#[test]
fn steps_take_turns() {
    let script = Script::default()
        .start(0, "a")
        .start(10, "b")
        .log(100, "a", b"a1\n")
        .log(200, "b", b"b1\n")
        .log(300, "a", b"a2\n")
        .log(9_000, "a", b"a3\n")
        .log(10_100, "a", b"a4\n")
        .log(10_200, "b", b"b2\n")
        .done(10_300, "a")
        .done(10_400, "b");
    check(
        script,
        expect![[r#"
        #1 a
        #1 0.100 a1
        #1 0.300 a2
        #1 9.000 a3
        #1 ...

        #2 b
        #2 0.190 b1
        #2 10.19 b2
        #2 ...

        #1 a
        #1 10.10 a4
        #1 DONE 10.3s

        #2 b
        #2 DONE 10.4s
    "#]],
    );
}

#[test]
fn a_flood_is_clipped_and_long_lines_are_cut() {
    let mut plain = Plain::default();
    let script = Script::default().start(0, "shown").start(0, "flood");
    for (time, update) in &script.updates {
        plain.update(update);
        drop(plain.draw(at(*time)));
    }
    let flood = Script::default().log(0, "flood", &b"y\n".repeat(1 << 20));
    let long = Script::default().log(0, "shown", &vec![b'x'; 10_000]);
    for (_, update) in flood.updates.iter().chain(&long.updates) {
        plain.update(update);
    }
    let out = plain.finish(at(1));
    assert!(out.len() < 4 << 20, "{}", out.len());
    assert!(out.contains("lines left out here]"));
    assert!(out.lines().all(|line| line.len() < 5_000));
}

#[test]
fn the_vertex_that_is_shown_loses_no_line() {
    let mut plain = Plain::default();
    let script = Script::default().start(0, "flood").log(0, "flood", &b"y\n".repeat(1 << 20));
    for (_, update) in &script.updates {
        plain.update(update);
    }
    let out = plain.finish(at(1));
    assert_eq!(out.lines().filter(|line| line.ends_with(" y")).count(), 1 << 20);
}

proptest::proptest! {
    #[test]
    fn no_control_character_gets_through(pieces: Vec<Vec<u8>>, name: String, error: String) {
        let mut script = Script::default().start(0, &name);
        for piece in &pieces {
            script = script.log(5, &name, piece);
        }
        let mut plain = Plain::default();
        let mut out = String::new();
        for (time, update) in &script.failed(9, &name, &error).updates {
            plain.update(update);
            out += &plain.draw(at(*time));
        }
        out += &plain.finish(at(10));
        proptest::prop_assert!(!out.chars().any(|char| char.is_control() && char != '\n'), "{out:?}");
    }
}
