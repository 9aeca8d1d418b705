//! An error as a person reads it.

use std::error::Error;

/// Knows what its reader could try.
pub trait Hint {
    /// What to try, if something comes to mind.
    fn hint(&self) -> Option<String>;
}

/// Prints an error and what caused it, a line each; what a cause says again is left out.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut text = format!("error: {said}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if words != said {
            text.push_str(&format!("  caused by: {words}\n"));
        }
        said = words;
        cause = error.source();
    }
    text
}

/// An error with what caused it, one behind the other; what a cause says again is left out. For logs, and for wherever there is
/// no room for a line each.
pub fn story(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// As [`report`], with the hint at the end where there is one.
pub fn report_with_hint<E: Error + Hint + 'static>(error: &E) -> String {
    let mut text = report(error);
    if let Some(hint) = error.hint() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not read {name}")]
    struct Outer {
        name: &'static str,
        source: std::io::Error,
    }

    impl Hint for Outer {
        fn hint(&self) -> Option<String> {
            Some("is the name right?".into())
        }
    }

    #[test]
    fn the_chain_is_printed_a_line_each() {
        let source = std::io::Error::other("the disk is gone");
        expect![[r#"
            error: could not read a
              caused by: the disk is gone
            hint: is the name right?
        "#]]
        .assert_eq(&report_with_hint(&Outer { name: "a", source }));
    }

    #[test]
    fn a_cause_that_says_the_same_is_left_out() {
        let wrapped = std::io::Error::other(std::io::Error::other("the disk is gone"));
        expect![[r#"
            error: could not read a
              caused by: the disk is gone
        "#]]
        .assert_eq(&report(&Outer { name: "a", source: wrapped }));
    }

    #[test]
    fn a_story_says_nothing_twice() {
        let source = std::io::Error::other("the disk is gone");
        assert_eq!(story(&Outer { name: "a", source }), "could not read a: the disk is gone");
        let cause = Outer { name: "b", source: std::io::Error::other("the disk is gone") };
        let source = std::io::Error::other(cause);
        // An error of the system that wraps another says what that says.
        assert_eq!(story(&source), "could not read b: the disk is gone");
        let twice = Outer { name: "c", source: std::io::Error::other(source) };
        assert_eq!(story(&twice), "could not read c: could not read b: the disk is gone");
    }
}
