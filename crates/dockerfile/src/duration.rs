//! Reads durations as Go writes them, to the nanosecond.

use crate::error::ParseErrorKind;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A signed span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoDuration {
    pub(crate) negative: bool,
    pub(crate) nanos: u64,
}

/// Reads text such as `1h2.5m` or `-3ms`.
pub(crate) fn parse(text: &str) -> Result<GoDuration, ParseErrorKind> {
    let invalid = || ParseErrorKind::Duration(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(GoDuration { negative: false, nanos: 0 });
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = take_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => take_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|ch: char| ch == '.' || ch.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end).ok_or_else(invalid)?;
        let scale = unit_nanos(unit, text)?;
        let part = scaled(whole, fraction, scale).ok_or_else(invalid)?;
        nanos = nanos.checked_add(part).ok_or_else(invalid)?;
        rest = next;
    }
    let limit = i64::MAX.unsigned_abs() + u64::from(negative);
    if nanos > limit { Err(invalid()) } else { Ok(GoDuration { negative, nanos }) }
}

fn take_digits(text: &str) -> (&str, &str) {
    let end = text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn unit_nanos(unit: &str, text: &str) -> Result<u64, ParseErrorKind> {
    if unit.is_empty() {
        return Err(ParseErrorKind::DurationUnit(text.to_owned()));
    }
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos).ok_or_else(|| {
        ParseErrorKind::DurationUnknownUnit { unit: unit.to_owned(), text: text.to_owned() }
    })
}

fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.chars().filter_map(|ch| ch.to_digit(10)) {
        // Below a nanosecond nothing counts; scales are multiples of high powers of ten and six.
        let tenth = u128::from(place) * u128::from(digit) / 10;
        nanos = nanos.checked_add(u64::try_from(tenth).ok()?)?;
        place /= 10;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let nanos = |text| parse(text).map(|duration| duration.nanos);
        assert_eq!(nanos("1h2m3s"), Ok(3_723_000_000_000));
        assert_eq!(nanos("1.5s"), Ok(1_500_000_000));
        assert_eq!(nanos(".5ms"), Ok(500_000));
        assert_eq!(nanos("100us"), Ok(100_000));
        assert_eq!(nanos("0"), Ok(0));
        assert_eq!(nanos("1.25m"), Ok(75_000_000_000));
        assert_eq!(nanos("5"), Err(ParseErrorKind::DurationUnit("5".into())));
        assert_eq!(nanos("$t"), Err(ParseErrorKind::Duration("$t".into())));
        assert!(nanos("").is_err());
        assert!(nanos("9999999h").is_err());
        assert!(nanos("1d").is_err());
    }
}
