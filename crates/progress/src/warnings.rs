//! The warnings of a build, listed once more at its end, where they are seen.

use crate::text::{line, printable};
use crate::tty::Colour;
use crate::update::Update;

/// Gathers warnings as they pass by.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Vec<String>);

impl Warnings {
    /// Takes one update.
    pub fn update(&mut self, update: &Update) {
        if let Update::Warning(warning) = update {
            self.0.push(printable(&warning.short));
        }
    }

    /// The block that is printed below a build; empty where nothing is to be said.
    pub fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        if self.0.is_empty() {
            return out;
        }
        let (on, off) = match colour {
            Colour::On(palette) => (format!("\x1b[{}m", palette.warning.code()), "\x1b[0m"),
            Colour::Off => (String::new(), ""),
        };
        let count = self.0.len();
        let word = if count == 1 { "warning" } else { "warnings" };
        line(&mut out, format_args!(""));
        line(&mut out, format_args!(" {on}{count} {word} found (use --check to expand):{off}"));
        for warning in &self.0 {
            line(&mut out, format_args!(" - {warning}"));
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
        let mut add = |short: &str| {
            let warning = Warning::of(VertexId::of("a"), short);
            warnings.update(&Update::Warning(warning));
            warnings.render(Colour::Off)
        };
        let (odd, other) = (add("Odd: \x1b[31mthing (line 3)"), add("Other: thing"));
        let want = "\n 1 warning found (use --check to expand):\n - Odd: thing (line 3)\n";
        assert_eq!(odd, want);
        let want = "\n 2 warnings found (use --check to expand):\n - Odd: thing (line 3)\n \
                    - Other: thing\n";
        assert_eq!(other, want);
    }
}
