//! The texts of an image's history, as BuildKit writes them.

use std::time::Duration;

use dcbuild_oci::config::Healthcheck;

/// A list as Go's `%q` prints a slice of strings.
pub(crate) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A list as Go's `%v` prints a slice of strings.
pub(crate) fn plain(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// A string as Go's `strconv.Quote` writes it.
fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            char if is_printable(char) => quoted.push(char),
            char if u32::from(char) < 0x80 => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(char)));
            }
            char if u32::from(char) < 0x1_0000 => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            char => quoted.push_str(&format!("\\U{:08x}", u32::from(char))),
        }
    }
    quoted.push('"');
    quoted
}

fn is_printable(char: char) -> bool {
    let odd_space = char.is_whitespace() && char != ' ';
    let invisible = matches!(u32::from(char), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe000..=0xf8ff);
    !char.is_control() && !odd_space && !invisible
}

/// A healthcheck as Go's `%+v` prints it.
pub(crate) fn healthcheck(health: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain(&health.test),
        go_duration(health.interval),
        go_duration(health.timeout),
        go_duration(health.start_period),
        go_duration(health.start_interval),
        health.retries
    )
}

/// A time span as Go's `Duration.String` writes it.
fn go_duration(nanos: i64) -> String {
    let span = Duration::from_nanos(nanos.unsigned_abs());
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, fraction) = (span.as_secs(), span.subsec_nanos());
    if seconds == 0 {
        return match fraction {
            0 => "0s".into(),
            1..=999 => format!("{sign}{fraction}ns"),
            1_000..=999_999 => format!("{sign}{}µs", decimal(u64::from(fraction), 1_000)),
            _ => format!("{sign}{}ms", decimal(u64::from(fraction), 1_000_000)),
        };
    }
    let tail = decimal(seconds % 60 * 1_000_000_000 + u64::from(fraction), 1_000_000_000);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{sign}{tail}s"),
        (0, minutes) => format!("{sign}{minutes}m{tail}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{tail}s"),
    }
}

fn decimal(value: u64, unit: u64) -> String {
    let digits = unit.to_string().len() - 1;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (nanos, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_001_000_000, "1h1m1.001s"),
            (1_500_000_000, "1.5s"),
        ] {
            assert_eq!(go_duration(nanos), want);
        }
    }

    #[test]
    fn words_are_quoted_as_go_quotes_them() {
        for (text, want) in [
            ("a b", r#""a b""#),
            ("\té\"", r#""\té\"""#),
            ("\u{2028}", r#""\u2028""#),
            ("\x01", r#""\x01""#),
        ] {
            assert_eq!(go_quote(text), want);
        }
    }
}
