//! How a live frame looks: its colours, and how much of a step's output it shows.

/// A colour of the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// One of those that every terminal has, by its number.
    Named(u8),
    /// Red, green and blue.
    Rgb(u8, u8, u8),
}

impl Paint {
    /// What selects it, between `ESC [` and `m`.
    pub fn code(self) -> String {
        match self {
            Paint::Named(number) => number.to_string(),
            Paint::Rgb(red, green, blue) => format!("38;2;{red};{green};{blue}"),
        }
    }

    /// Reads a name such as `light-red`, or `RED,GREEN,BLUE` in numbers up to 255.
    fn parse(text: &str) -> Option<Paint> {
        const NAMES: [&str; 8] =
            ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
        let lower = text.trim().to_lowercase();
        if lower == "default" {
            return Some(Paint::Named(39));
        }
        let (name, first) = match lower.strip_prefix("light-") {
            Some(name) => (name, 90),
            None => (lower.as_str(), 30),
        };
        if let Some(at) = (0..).zip(NAMES).find_map(|(at, known)| (known == name).then_some(at)) {
            return Some(Paint::Named(first + at));
        }
        let mut parts = lower.split(',').map(|part| part.trim().parse::<u8>().ok());
        match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
            (Some(red), Some(green), Some(blue), None) => Some(Paint::Rgb(red, green, blue)),
            _ => None,
        }
    }
}

/// The colours of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Palette {
    /// What ended well.
    pub done: Paint,
    /// What failed.
    pub error: Paint,
    /// What was cancelled.
    pub canceled: Paint,
    /// Warnings.
    pub warning: Paint,
}

impl Default for Palette {
    fn default() -> Palette {
        Palette {
            done: Paint::Named(34),
            error: Paint::Named(31),
            canceled: Paint::Named(33),
            warning: Paint::Named(33),
        }
    }
}

impl Palette {
    /// Reads `run=COLOUR:error=COLOUR:cancel=COLOUR:warning=COLOUR`, as `BUILDKIT_COLORS` has it; says which parts are none.
    pub fn parse(text: &str) -> (Palette, Vec<String>) {
        let mut palette = Palette::default();
        let mut odd = Vec::new();
        for part in text.split(':').filter(|part| !part.trim().is_empty()) {
            let (what, paint) = part.split_once('=').unwrap_or((part, ""));
            let place = match what.trim().to_lowercase().as_str() {
                "run" => Some(&mut palette.done),
                "error" => Some(&mut palette.error),
                "cancel" => Some(&mut palette.canceled),
                "warning" => Some(&mut palette.warning),
                _ => None,
            };
            match (place, Paint::parse(paint)) {
                (Some(place), Some(paint)) => *place = paint,
                _ => odd.push(part.to_owned()),
            }
        }
        (palette, odd)
    }
}

/// Whether the terminal is to show colours; off where `NO_COLOR` is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// With colours.
    On(Palette),
    /// Without.
    Off,
}

/// How a terminal is drawn for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Its colours.
    pub colour: Colour,
    /// The most lines of output that are shown below a step that runs.
    pub log_lines: usize,
}

impl Look {
    /// How many lines of output are shown where nobody says.
    pub const LOG_LINES: usize = 6;
}

impl Default for Look {
    fn default() -> Look {
        Look { colour: Colour::On(Palette::default()), log_lines: Look::LOG_LINES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_names_or_numbers() {
        let (palette, odd) =
            Palette::parse("run=123,20,245:error=yellow:cancel=Light-Blue:warning=white");
        let want = Palette {
            done: Paint::Rgb(123, 20, 245),
            error: Paint::Named(33),
            canceled: Paint::Named(94),
            warning: Paint::Named(37),
        };
        assert_eq!((palette, odd), (want, Vec::new()));
        assert_eq!(want.done.code(), "38;2;123;20;245");
        assert_eq!(Palette::parse(""), (Palette::default(), Vec::new()));
        let (palette, odd) = Palette::parse("run=1,2:error=pink:what=red:cancel:warning=default");
        assert_eq!(odd, ["run=1,2", "error=pink", "what=red", "cancel"]);
        let want = Palette { warning: Paint::Named(39), ..Palette::default() };
        assert_eq!(palette, want);
    }
}
