//! Patterns with `*`, `?` and `[...]`, as Go's `filepath.Match` means them: on characters, and never across a `/`.

/// Says that a pattern is wrong.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("syntax error in pattern '{pattern}'")]
pub struct BadPattern {
    /// The pattern, made printable.
    pub pattern: String,
}

impl BadPattern {
    pub(crate) fn of(pattern: &[u8]) -> BadPattern {
        BadPattern { pattern: String::from_utf8_lossy(pattern).chars().take(200).collect() }
    }
}

/// A pattern, ready to be matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// This very byte.
    Byte(u8),
    /// One character but `/`.
    Any,
    /// Any number of characters but `/`.
    Star,
    /// One character of a set.
    Class(Class),
}

/// The set of characters in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(u32, u32)>,
}

impl Class {
    pub(crate) fn holds(&self, character: u32) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != self.negated
    }
}

impl Pattern {
    /// Reads a pattern; all of it must be well-formed.
    pub fn parse(pattern: &[u8]) -> Result<Pattern, BadPattern> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((byte, tail)) = rest.split_first() {
            rest = tail;
            match byte {
                b'*' => {
                    if parts.last() != Some(&Part::Star) {
                        parts.push(Part::Star);
                    }
                }
                b'?' => parts.push(Part::Any),
                b'[' => {
                    let class = class(&mut rest).ok_or_else(|| BadPattern::of(pattern))?;
                    parts.push(Part::Class(class));
                }
                b'\\' => {
                    let (byte, tail) = rest.split_first().ok_or_else(|| BadPattern::of(pattern))?;
                    parts.push(Part::Byte(*byte));
                    rest = tail;
                }
                byte => parts.push(Part::Byte(*byte)),
            }
        }
        Ok(Pattern(parts))
    }

    /// Whether the whole of a name fits.
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut parts = self.0.as_slice();
        let mut name = name;
        // Where to go on when what follows the last star does not fit: one star back is enough.
        let mut retry: Option<(&[Part], &[u8])> = None;
        loop {
            let step = match parts.split_first() {
                Some((Part::Star, tail)) => {
                    retry = Some((tail, name));
                    parts = tail;
                    continue;
                }
                Some((part, tail)) => eat(part, name).map(|rest| (tail, rest)),
                None if name.is_empty() => return true,
                None => None,
            };
            if let Some(next) = step {
                (parts, name) = next;
                continue;
            }
            let Some((tail, from)) = retry else { return false };
            match from.split_first() {
                Some((byte, rest)) if *byte != b'/' => {
                    retry = Some((tail, rest));
                    (parts, name) = (tail, rest);
                }
                _ => return false,
            }
        }
    }
}

/// Whether a name of a path has a wildcard that is not escaped.
pub(crate) fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

fn eat<'n>(part: &Part, name: &'n [u8]) -> Option<&'n [u8]> {
    let (byte, rest) = name.split_first()?;
    match part {
        Part::Byte(want) => (want == byte).then_some(rest),
        Part::Any => (*byte != b'/').then(|| character(name).1),
        Part::Class(class) => {
            let (character, rest) = character(name);
            (*byte != b'/' && class.holds(character)).then_some(rest)
        }
        Part::Star => Some(name),
    }
}

/// The first character and the rest; a byte that is no UTF-8 counts as U+FFFD, as in Go.
pub(crate) fn character(name: &[u8]) -> (u32, &[u8]) {
    for width in 1..=4 {
        if let Some((head, rest)) = name.split_at_checked(width)
            && let Ok(text) = std::str::from_utf8(head)
            && let Some(character) = text.chars().next()
        {
            return (u32::from(character), rest);
        }
    }
    (0xfffd, name.get(1..).unwrap_or_default())
}

/// Reads what follows a `[`, to the `]`.
pub(crate) fn class(rest: &mut &[u8]) -> Option<Class> {
    let mut ranges = Vec::new();
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = rest.get(1..)?;
    }
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            *rest = rest.get(1..)?;
            return Some(Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            *rest = rest.get(1..)?;
            high = class_character(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut &[u8]) -> Option<u32> {
    match rest.first()? {
        b'-' | b']' => return None,
        b'\\' => *rest = rest.get(1..)?,
        _ => {}
    }
    rest.first()?;
    let (character, tail) = character(rest);
    *rest = tail;
    Some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[!c]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a[/]b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("**/f", "a/f", true),
            ("**/f", "a/b/f", false),
            ("*x", "xxx", true),
        ] {
            let pattern = Pattern::parse(pattern.as_bytes()).unwrap();
            assert_eq!(pattern.matches(name.as_bytes()), want, "{pattern:?} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\"] {
            assert!(Pattern::parse(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(pattern: Vec<u8>, name: Vec<u8>) {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                pattern.matches(&name);
            }
        }
    }
}
