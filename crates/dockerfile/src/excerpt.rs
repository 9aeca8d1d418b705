//! Shows the lines of the source that an error speaks of.

use std::fmt::Write;

use crate::ast::Span;

/// How many lines round a single line are shown, and round several.
const MARGIN_OF_ONE: usize = 2;
const MARGIN_OF_MANY: usize = 1;

/// How many characters of a line are shown.
const LINE_CHARS_MAX: usize = 500;

const RULE: &str = "--------------------\n";

/// Renders the span with a few lines round it; empty where the span lies outside the source.
pub fn excerpt(source: &str, filename: &str, span: Span) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let line = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let (start, end) = (line(span.start_line), line(span.end_line).min(lines.len()));
    if start < 1 || start > end {
        return String::new();
    }
    let margin = if start == end { MARGIN_OF_ONE } else { MARGIN_OF_MANY };
    let first = start.saturating_sub(margin).max(1);
    let last = end.saturating_add(margin).min(lines.len());
    let mut out = format!("{filename}:{start}\n{RULE}");
    for (number, text) in (1_usize..).zip(&lines).skip(first - 1).take(last + 1 - first) {
        let mark = if (start..=end).contains(&number) { ">>>" } else { "   " };
        let text: String = text
            .chars()
            .filter(|ch| !ch.is_control() || *ch == '\t')
            .take(LINE_CHARS_MAX)
            .collect();
        // Writing to a string cannot fail.
        let _written = writeln!(out, " {number:>3} | {mark} {text}");
    }
    out.push_str(RULE);
    out
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(start_line: u32, end_line: u32, expected: &Expect) {
        let source = "FROM a\nENV b=c\nRUN x \\\n  y\nUSER z\nCMD w";
        expected.assert_eq(&excerpt(source, "Dockerfile", Span { start_line, end_line }));
    }

    #[test]
    fn lines_are_marked() {
        check(
            2,
            2,
            &expect![[r#"
                Dockerfile:2
                --------------------
                   1 |     FROM a
                   2 | >>> ENV b=c
                   3 |     RUN x \
                   4 |       y
                --------------------
            "#]],
        );
        check(
            3,
            4,
            &expect![[r#"
                Dockerfile:3
                --------------------
                   2 |     ENV b=c
                   3 | >>> RUN x \
                   4 | >>>   y
                   5 |     USER z
                --------------------
            "#]],
        );
        check(7, 9, &expect![""]);
        check(0, 0, &expect![""]);
    }
}
