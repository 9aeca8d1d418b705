//! Scripts of updates and the frames that they give.

use expect_test::{Expect, expect};

use super::*;
use crate::tests::{Script, at};

fn fed(script: &Script) -> Tty {
    let mut tty = Tty::new(Look { colour: Colour::Off, ..Look::default() });
    for (_, update) in &script.updates {
        tty.update(update);
    }
    tty
}

fn texts(frame: &Frame) -> String {
    let lines: Vec<&str> = frame.lines.iter().map(|line| line.text.as_str()).collect();
    lines.join("\n")
}

fn check(script: &Script, (columns, rows): (usize, usize), want: Expect) {
    want.assert_eq(&texts(&fed(script).frame(at(script.now() + 1000), Size { columns, rows })));
}

fn build() -> Script {
    Script::default()
        .start(0, "[internal] load context")
        .status_done(300, "[internal] load context", ("transferring", 3_419_000, Some(3_419_000)))
        .done(400, "[internal] load context")
        .cached(400, "[build 1/3] FROM busybox")
        .start(500, "[build 2/3] RUN make 日本語")
        .log(600, "[build 2/3] RUN make 日本語", b"cc a.c\n\x1b[31mcc\tb.c\n\n1%\r2%\nhalf")
        .start(700, "[other 1/1] COPY . .")
        .warning(700, "[other 1/1] COPY . .", "too\nmuch")
        .waits(800, "[build 3/3] COPY a b")
}

#[test]
fn a_frame_shows_what_runs() {
    check(
        &build(),
        (60, 24),
        expect![[r#"
            [+] Building 1.8s (2/5)
             => [internal] load context                             0.4s
             => => transferring                    3.41MB / 3.41MB  0.3s
             => CACHED [build 1/3] FROM busybox                     0.0s
             => [build 2/3] RUN make 日本語                         1.3s
             => => # cc a.c
             => => # cc      b.c
             => => # 2%
             => [other 1/1] COPY . .                                1.1s
             => WARN: too much"#]],
    );
}

#[test]
fn a_small_terminal_shows_what_matters() {
    check(
        &build(),
        (30, 7),
        expect![[r#"
        [+] Building 1.8s (2/5)
         => CACHED [build 1/3] FR 0.0s
         => [build 2/3] RUN make  1.3s
         => [other 1/1] COPY . .  1.1s
         => WARN: too much"#]],
    );
    check(
        &build(),
        (1, 1),
        expect![[r#"
        [+] Building 1.8s (2/5)
         => [other 1/1] COP 1.1s"#]],
    );
}

#[test]
fn the_last_frame_is_whole() {
    let script = build()
        .failed(900, "[build 2/3] RUN make 日本語", "exit code: 2")
        .canceled(900, "[other 1/1] COPY . .")
        .cached(900, "[build 3/3] COPY a b");
    let tty = fed(&script);
    let frame = tty.lines(at(1000), Size { columns: 50, rows: 4 }, Moment::End);
    expect![[r#"
        [+] Building 1.0s (5/5) FINISHED
         => [internal] load context                   0.4s
         => => transferring          3.41MB / 3.41MB  0.3s
         => CACHED [build 1/3] FROM busybox           0.0s
         => ERROR [build 2/3] RUN make 日本語         0.4s
         => CANCELED [other 1/1] COPY . .             0.2s
         => WARN: too much
         => CACHED [build 3/3] COPY a b               0.0s"#]]
    .assert_eq(&texts(&frame));
}

#[test]
fn a_redraw_covers_the_frame_before() {
    let line = |text: &str, style| FrameLine { text: text.into(), style };
    let frame = Frame { lines: vec![line("head", Style::Plain), line("bad", Style::Error)] };
    expect![[r#""\u{1b}[?25l\u{1b}[3A\rhead\u{1b}[K\n\u{1b}[31mbad\u{1b}[0m\u{1b}[K\n\u{1b}[J\u{1b}[?25h""#]]
        .assert_eq(&format!("{:?}", redraw(3, &frame, Look::default().colour)));
    expect![[r#""\u{1b}[?25l\rhead\u{1b}[K\nbad\u{1b}[K\n\u{1b}[J\u{1b}[?25h""#]]
        .assert_eq(&format!("{:?}", redraw(0, &frame, Colour::Off)));
}

#[test]
fn as_many_lines_of_output_are_shown_as_are_asked_for() {
    for (log_lines, want) in [(1, "b.c"), (2, "cc a.c"), (0, "")] {
        let mut tty = Tty::new(Look { log_lines, ..Look::default() });
        let script = Script::default().start(0, "a").log(1, "a", b"cc a.c\nb.c\n");
        script.updates.iter().for_each(|(_, update)| tty.update(update));
        let text = texts(&tty.frame(at(2), Size::default()));
        let shown: Vec<&str> = text.lines().filter(|line| line.contains("=> #")).collect();
        assert_eq!(shown.len(), log_lines, "{text}");
        assert!(shown.first().is_none_or(|line| line.ends_with(want)), "{text}");
    }
}

#[test]
fn each_draw_goes_up_by_what_was_drawn() {
    let mut tty = fed(&build());
    let size = Size::default();
    assert!(!tty.draw(at(900), size).contains("A\r"));
    assert!(tty.draw(at(900), size).contains("\x1b[10A\r"));
    assert!(tty.finish(at(900), size).contains("\x1b[10A\r"));
}

proptest::proptest! {
    #[test]
    fn frames_fit_and_hold_no_control_character(
        pieces: Vec<Vec<u8>>,
        names: Vec<String>,
        columns in 0_usize..100,
        rows in 0_usize..30,
    ) {
        let mut script = Script::default();
        for name in &names {
            script = script.start(0, name).status(1, name, (name, 5, Some(9))).warning(1, name, name);
            for piece in &pieces {
                script = script.log(5, name, piece);
            }
        }
        let frame = fed(&script).frame(at(10), Size { columns, rows });
        proptest::prop_assert!(frame.lines.len() <= rows.saturating_sub(1).max(2));
        for line in &frame.lines {
            proptest::prop_assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
            proptest::prop_assert!(width(&line.text) <= columns.max(COLUMNS_MIN), "{:?}", line.text);
        }
    }
}
