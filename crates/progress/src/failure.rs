//! The last thing that a failed build prints: what the step wrote, where it stands, and why it failed.

use std::time::Duration;

use crate::text::{clip, line, log_time, printable, printable_line};

/// A line of a Dockerfile is shown up to here; longer ones are rarely meant for people.
const COLUMNS_MAX: usize = 200;

/// One line that the failed step wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// When, from the step's begin on.
    pub at: Duration,
    /// What.
    pub bytes: Vec<u8>,
}

/// The lines of the Dockerfile that an error speaks of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Excerpt {
    /// The file's name, as the user wrote it.
    pub file: String,
    /// The whole file.
    pub text: String,
    /// The first line that is meant, from 1.
    pub first: usize,
    /// The last line that is meant.
    pub last: usize,
}

/// A failed build, as far as a person wants to read of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Failure {
    /// The name of the step that failed, if one did.
    pub step: Option<String>,
    /// Its last lines.
    pub log: Vec<LogLine>,
    /// Where it stands.
    pub excerpt: Option<Excerpt>,
    /// What went wrong.
    pub error: String,
    /// Why, link by link.
    pub causes: Vec<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
    /// What could help.
    pub hint: Option<String>,
}

impl Failure {
    /// The whole block, ready to print.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if let Some(step) = &self.step {
            line(&mut out, format_args!("------"));
            line(&mut out, format_args!(" > {}:", printable(step)));
            for entry in &self.log {
                let text = printable_line(&entry.bytes);
                line(&mut out, format_args!("{} {text}", log_time(entry.at)));
            }
            line(&mut out, format_args!("------"));
        }
        if let Some(excerpt) = &self.excerpt {
            out += &excerpt.render();
        }
        line(&mut out, format_args!("error: {}", printable(&self.error)));
        for cause in &self.causes {
            line(&mut out, format_args!("caused by: {}", printable(cause)));
        }
        for note in &self.notes {
            line(&mut out, format_args!("note: {}", printable(note)));
        }
        if let Some(hint) = &self.hint {
            line(&mut out, format_args!("hint: {}", printable(hint)));
        }
        out
    }
}

impl Excerpt {
    /// The lines that are meant, marked, with some around them; nothing if the file has no such line.
    pub fn render(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        if self.first == 0 || self.first > lines.len() || self.last < self.first {
            return String::new();
        }
        let last = self.last.min(lines.len());
        let around = if last == self.first { 2 } else { 1 };
        let from = self.first.saturating_sub(around).max(1);
        let shown = (last + around).min(lines.len()) + 1 - from;
        let mut out = String::new();
        line(&mut out, format_args!("{}:{}", printable(&self.file), self.first));
        line(&mut out, format_args!("--------------------"));
        for (number, text) in (from..).zip(lines.into_iter().skip(from - 1).take(shown)) {
            let mark = if (self.first..=last).contains(&number) { ">>>" } else { "   " };
            let whole = printable(text);
            let shown = clip(&whole, COLUMNS_MAX);
            let more = if shown.len() < whole.len() { "..." } else { "" };
            let text = format!(" {number:3} | {mark} {shown}{more}");
            line(&mut out, format_args!("{}", text.trim_end()));
        }
        line(&mut out, format_args!("--------------------"));
        out
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn excerpt(first: usize, last: usize) -> Excerpt {
        let text = "FROM busybox\nWORKDIR /a\nRUN false\nRUN b \\\n  && c\n";
        Excerpt { file: "Dockerfile".into(), text: text.into(), first, last }
    }

    #[test]
    fn a_failed_step_is_shown_with_its_last_words() {
        let failure = Failure {
            step: Some("[build 2/3] RUN false".into()),
            log: vec![
                LogLine { at: Duration::from_millis(123), bytes: b"last \x1b[31mlines".to_vec() },
                LogLine { at: Duration::from_millis(12_345), bytes: b"1%\r2%".to_vec() },
            ],
            excerpt: Some(excerpt(3, 3)),
            error: "the command of [build 2/3] ended with exit code 1".into(),
            causes: vec!["it said \x1b]0;so\x07".into()],
            notes: vec!["out.tar was written all the same".into()],
            hint: Some("run it with --no-cache".into()),
        };
        expect![[r#"
            ------
             > [build 2/3] RUN false:
            0.123 last lines
            12.35 2%
            ------
            Dockerfile:3
            --------------------
               1 |     FROM busybox
               2 |     WORKDIR /a
               3 | >>> RUN false
               4 |     RUN b \
               5 |       && c
            --------------------
            error: the command of [build 2/3] ended with exit code 1
            caused by: it said 
            note: out.tar was written all the same
            hint: run it with --no-cache
        "#]]
        .assert_eq(&failure.render());
    }

    #[test]
    fn an_excerpt_marks_all_lines_that_are_meant() {
        expect![[r#"
            Dockerfile:4
            --------------------
               3 |     RUN false
               4 | >>> RUN b \
               5 | >>>   && c
            --------------------
        "#]]
        .assert_eq(&excerpt(4, 5).render());
        for (first, last) in [(0, 0), (6, 6), (3, 2)] {
            assert_eq!(excerpt(first, last).render(), "");
        }
        assert!(excerpt(5, usize::MAX).render().contains("5 | >>>"));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_screen() {
        let text = "x".repeat(100_000);
        let excerpt = Excerpt { file: "Dockerfile".into(), text, first: 1, last: 1 };
        let shown = excerpt.render();
        assert!(shown.len() < 400 && shown.contains("x..."), "{} bytes", shown.len());
    }

    #[test]
    fn an_error_without_a_step_is_one_line() {
        let failure = Failure { error: "no Dockerfile".into(), ..Failure::default() };
        assert_eq!(failure.render(), "error: no Dockerfile\n");
    }
}
