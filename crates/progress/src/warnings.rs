//! The warnings of a build, listed once more at its end, where they are seen.

use crate::text::{line, printable};
use crate::tty::Colour;
use crate::update::Update;

/// Gathers warnings as they pass by.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    /// What is questionable in the Dockerfile.
    findings: Vec<String>,
    /// What happened on the way.
    others: Vec<String>,
}

impl Warnings {
    /// Takes one update.
    pub fn update(&mut self, update: &Update) {
        if let Update::Warning(warning) = update {
            let list = if warning.is_finding() { &mut self.findings } else { &mut self.others };
            list.push(printable(&warning.short));
        }
    }

    /// The block that is printed below a build; empty where nothing is to be said.
    pub fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        let (on, off) = match colour {
            Colour::On(palette) => (format!("\x1b[{}m", palette.warning.code()), "\x1b[0m"),
            Colour::Off => (String::new(), ""),
        };
        let kinds =
            [(&self.findings, " found (use --check to expand)"), (&self.others, " of this build")];
        for (warnings, what) in kinds.into_iter().filter(|(warnings, _)| !warnings.is_empty()) {
            let count = warnings.len();
            let word = if count == 1 { "warning" } else { "warnings" };
            line(&mut out, format_args!(""));
            line(&mut out, format_args!(" {on}{count} {word}{what}:{off}"));
            for warning in warnings {
                line(&mut out, format_args!(" - {warning}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{VertexId, Warning};

    #[test]
    fn warnings_are_counted_and_listed() {
        let mut warnings = Warnings::default();
        assert_eq!(warnings.render(Colour::Off), "");
        let mut add = |short: &str, lines| {
            let warning = Warning { lines, ..Warning::of(VertexId::of("a"), short) };
            warnings.update(&Update::Warning(warning));
            warnings.render(Colour::Off)
        };
        let (odd, other) =
            (add("Odd: \x1b[31mthing (line 3)", Some((3, 3))), add("Other: thing", Some((4, 4))));
        let want = "\n 1 warning found (use --check to expand):\n - Odd: thing (line 3)\n";
        assert_eq!(odd, want);
        let found = "\n 2 warnings found (use --check to expand):\n - Odd: thing (line 3)\n \
                     - Other: thing\n";
        assert_eq!(other, found);
        // What --check would not show is counted for itself.
        let lost = add("its result was lost", None);
        assert_eq!(lost, format!("{found}\n 1 warning of this build:\n - its result was lost\n"));
        let mut warnings = Warnings::default();
        warnings.update(&Update::Warning(Warning::of(VertexId::of("a"), "x")));
        assert_eq!(warnings.render(Colour::Off), "\n 1 warning of this build:\n - x\n");
    }
}
