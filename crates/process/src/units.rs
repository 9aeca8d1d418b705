//! Sizes and durations as text, with their unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units of sizes, in upper or lower case; docker's have one letter too.
const SIZES: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
    ("B", 1),
    ("", 1),
];

const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A number of bytes, written with its unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(pub u64);

/// Says why a text is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a size such as \"512MiB\" or \"20GB\"")]
pub struct InvalidSize {
    /// The text.
    pub text: String,
}

/// Says why a text is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a duration such as \"10s\" or \"1h30m\"")]
pub struct InvalidDuration {
    /// The text.
    pub text: String,
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<ByteSize, InvalidSize> {
        let parse = || {
            let (number, unit) = split(text);
            let unit = unit.trim_start();
            let factor = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
            // A bare number would leave its unit to guessing; zero has none to guess.
            let value = scaled(number, factor)?;
            (!unit.is_empty() || value == 0).then_some(ByteSize(value))
        };
        parse().ok_or_else(|| InvalidSize { text: text.into() })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let even = |&&(unit, factor): &&(&str, u64)| {
            unit.ends_with("iB") && self.0 != 0 && self.0.is_multiple_of(factor)
        };
        match SIZES.iter().find(even) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Reads a size as docker's flags do: a number of bytes, or with a unit that is always a power of 1024, whether it is
/// written `10g`, `10GB` or `10GiB`.
pub fn docker_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let (number, unit) = split(&lower);
    let factor = match unit.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // More digits than a unit has bytes say nothing.
    let part = part.get(..part.len().min(9))?;
    scaled(&format!("{whole}.{part}"), factor)
}

/// Reads a duration: numbers with units, the larger first, such as `10s`, `1h30m` or `250ms`; `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let parse = || {
        if text == "0" {
            return Some(0);
        }
        let mut rest = text;
        let mut total = 0_u64;
        let mut previous = u64::MAX;
        while !rest.is_empty() {
            let (number, tail) = split(rest);
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let factor = TIMES.iter().find(|(name, _)| *name == unit)?.1;
            if factor >= previous {
                return None;
            }
            total = total.checked_add(scaled(number, factor)?)?;
            (rest, previous) = (tail, factor);
        }
        (!text.is_empty()).then_some(total)
    };
    parse().map(Duration::from_millis).ok_or_else(|| InvalidDuration { text: text.into() })
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// A decimal number times a unit, exactly; parts of the smallest unit are cut off.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if number.contains('.') && part.is_empty() || part.len() > 9 || part.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let mut total = u128::from(whole) * u128::from(factor);
    if !part.is_empty() {
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        total += part.parse::<u128>().ok()? * u128::from(factor) / scale;
    }
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, want) in [
            ("0", Some(0)),
            ("20GiB", Some(20 << 30)),
            ("1.5 MiB", Some(3 << 19)),
            ("2GB", Some(2_000_000_000)),
            ("7B", Some(7)),
            ("7", None),
            ("", None),
            ("GiB", None),
            ("-1GiB", None),
            ("1.GiB", None),
            ("1.2.3GiB", None),
            ("20gib", Some(20 << 30)),
            ("10g", Some(10_000_000_000)),
            ("10gb", Some(10_000_000_000)),
            ("99999999999TiB", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok().map(|size| size.0), want, "{text:?}");
        }
    }

    #[test]
    fn docker_s_sizes_are_powers_of_1024() {
        for (text, want) in [
            ("7", Some(7)),
            ("7b", Some(7)),
            ("1k", Some(1 << 10)),
            ("10gb", Some(10 << 30)),
            ("10GB", Some(10 << 30)),
            ("10 GiB", Some(10 << 30)),
            ("1.5g", Some(3 << 29)),
            ("1.333333333333g", Some(1_431_655_764)),
            ("2t", Some(2 << 40)),
            ("0", Some(0)),
            ("", None),
            ("g", None),
            ("-1", None),
            ("1.g", None),
            ("much", None),
            ("1.2.3g", None),
            ("99999999t", None),
        ] {
            assert_eq!(docker_size(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_size_survives_its_text() {
        for (bytes, text) in [(0, "0B"), (1 << 30, "1GiB"), (1536, "1536B"), (3 << 20, "3MiB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, want) in [
            ("0", Some(0)),
            ("10s", Some(10_000)),
            ("250ms", Some(250)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("2d", Some(172_800_000)),
            ("10", None),
            ("", None),
            ("s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("10 s", None),
            ("99999999999999999999d", None),
        ] {
            let found = parse_duration(text).ok().map(|time| time.as_millis());
            assert_eq!(found, want, "{text:?}");
        }
    }
}
