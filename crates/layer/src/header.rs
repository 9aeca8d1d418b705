//! Tar headers as we write them: ustar where it can say it, PAX records where it cannot, one form for one entry.

use std::borrow::Cow;

use dcbuild_model::UnixTime;
use dcbuild_tree::{Entry, Kind};

/// The size of a header, and what everything is padded to.
pub(crate) const BLOCK: usize = 512;

type Records<'a> = Vec<(Cow<'static, [u8]>, Cow<'a, [u8]>)>;

const NAME: usize = 100;
const PREFIX: usize = 155;

/// What a header says, before it is bytes.
pub(crate) struct Header<'a> {
    /// The name, a folder's with a slash at its end.
    pub(crate) name: Cow<'a, [u8]>,
    /// The target of a link.
    pub(crate) link: &'a [u8],
    /// The type flag.
    pub(crate) flag: u8,
    /// The bytes that follow.
    pub(crate) size: u64,
    /// Mode, owner, time and attributes.
    pub(crate) entry: Option<&'a Entry>,
}

/// The whole bytes before an entry's content, or why there are none.
pub(crate) fn encode(header: &Header<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut records = Records::new();
    let (name, prefix) = split(&header.name, &mut records);
    if header.link.len() > NAME || is_wide(header.link) {
        records.push((b"linkpath".into(), header.link.into()));
    }
    let mut block = [0u8; BLOCK];
    text(&mut block, 0, NAME, name);
    text(&mut block, 157, NAME, header.link);
    text(&mut block, 345, PREFIX, prefix);
    let (mut mode, mut uid, mut gid, mut mtime) = (0, 0, 0, UnixTime::default());
    let (mut major, mut minor) = (0, 0);
    if let Some(entry) = header.entry {
        let meta = &entry.meta;
        (mode, uid, gid, mtime) = (meta.mode, meta.uid, meta.gid, meta.mtime);
        xattr_records(entry, &mut records)?;
        if let Kind::CharDevice { major: high, minor: low }
        | Kind::BlockDevice { major: high, minor: low } = entry.kind
        {
            (major, minor) = (high, low);
        }
    }
    octal(&mut block, 100, 8, u64::from(mode & 0o7777));
    number(&mut block, (108, 8), u64::from(uid), ("uid", &mut records));
    number(&mut block, (116, 8), u64::from(gid), ("gid", &mut records));
    number(&mut block, (124, 12), header.size, ("size", &mut records));
    if mtime.nanos == 0 && (0..1 << 33).contains(&mtime.secs) {
        octal(&mut block, 136, 12, u64::try_from(mtime.secs).unwrap_or(0));
    } else {
        let whole = u64::try_from(mtime.secs).ok().filter(|secs| *secs < 1 << 33).unwrap_or(0);
        octal(&mut block, 136, 12, whole);
        records.push((b"mtime".into(), time(mtime).into_bytes().into()));
    }
    if let Some(byte) = block.get_mut(156) {
        *byte = header.flag;
    }
    text(&mut block, 257, 8, b"ustar\x0000");
    device(&mut block, 329, major);
    device(&mut block, 337, minor);
    seal(&mut block);
    if !records.is_empty() {
        pax(&header.name, records, out);
    }
    out.extend_from_slice(&block);
    Ok(())
}

fn is_wide(text: &[u8]) -> bool {
    !text.is_ascii() && std::str::from_utf8(text).is_ok()
}

/// Gives the name field and the prefix field; a name that does not fit in them goes into a record.
fn split<'a>(name: &'a [u8], records: &mut Records<'a>) -> (&'a [u8], &'a [u8]) {
    if !is_wide(name) {
        if name.len() <= NAME {
            return (name, b"");
        }
        // The slash at a folder's end cannot be the one that is left out.
        let least = name.len() - NAME - 1;
        let most = PREFIX.min(name.len().saturating_sub(2));
        let cut = (least..=most).rev().find(|at| name.get(*at) == Some(&b'/') && *at > 0);
        if let Some(cut) = cut
            && name.is_ascii()
        {
            let (prefix, rest) = name.split_at(cut);
            return (rest.get(1..).unwrap_or_default(), prefix);
        }
    }
    records.push((b"path".into(), name.into()));
    (name.get(..NAME).unwrap_or(name), b"")
}

fn xattr_records<'a>(entry: &'a Entry, records: &mut Records<'a>) -> Result<(), &'static str> {
    for (name, value) in entry.meta.xattrs.iter() {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err("the name of an extended attribute is empty or has a '=' or a NUL");
        }
        records.push(([&b"SCHILY.xattr."[..], name].concat().into(), value.into()));
    }
    Ok(())
}

fn time(time: UnixTime) -> String {
    let (mut secs, mut nanos) = (time.secs.unsigned_abs(), time.nanos);
    if time.secs < 0 && nanos > 0 {
        (secs, nanos) = (secs - 1, 1_000_000_000 - nanos);
    }
    let sign = if time.secs < 0 { "-" } else { "" };
    let mut text = format!("{sign}{secs}.{nanos:09}");
    let kept = text.trim_end_matches('0').trim_end_matches('.').len();
    // A whole second that ends in zeros keeps them.
    text.truncate(if nanos == 0 { text.len() - 10 } else { kept });
    text
}

fn pax(name: &[u8], mut records: Records<'_>, out: &mut Vec<u8>) {
    records.sort();
    let start = out.len();
    out.resize(start + BLOCK, 0);
    for (key, value) in &records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + digits(rest);
        if digits(len) + rest != len {
            len = rest + digits(len);
        }
        decimal(len, out);
        out.push(b' ');
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    let len = out.len() - start - BLOCK;
    pad(out, len);
    let plain = name.strip_suffix(b"/").unwrap_or(name);
    let cut = plain.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (folder, base) = plain.split_at(cut);
    let title = [folder, b"PaxHeaders.0/", base].into_iter().flatten().filter(|it| it.is_ascii());
    let mut block = [0u8; BLOCK];
    for (to, from) in block.iter_mut().take(NAME).zip(title) {
        *to = *from;
    }
    for (at, width) in [(100, 8), (108, 8), (116, 8), (136, 12), (329, 8), (337, 8)] {
        octal(&mut block, at, width, 0);
    }
    octal(&mut block, 124, 12, u64::try_from(len).unwrap_or(0));
    text(&mut block, 156, 1, b"x");
    text(&mut block, 257, 8, b"ustar\x0000");
    seal(&mut block);
    if let Some(room) = out.get_mut(start..start + BLOCK) {
        room.copy_from_slice(&block);
    }
}

/// How many decimal digits a number has.
fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |power| usize::try_from(power).unwrap_or(0) + 1)
}

fn decimal(number: usize, out: &mut Vec<u8>) {
    let end = out.len() + digits(number);
    out.resize(end, b'0');
    let mut left = number;
    for digit in out.iter_mut().rev().take(digits(number)) {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
}

/// Fills up to the next block after content of a length.
pub(crate) fn pad(out: &mut Vec<u8>, len: usize) {
    out.resize(out.len() + padding(len), 0);
}

/// How much is missing to the next block.
pub(crate) fn padding(len: usize) -> usize {
    len.next_multiple_of(BLOCK) - len
}

fn text(block: &mut [u8; BLOCK], at: usize, width: usize, text: &[u8]) {
    let text = text.get(..width).unwrap_or(text);
    if let Some(field) = block.get_mut(at..at + text.len()) {
        field.copy_from_slice(text);
    }
}

/// Fills a field up to its last byte, which stays.
fn octal(block: &mut [u8; BLOCK], at: usize, width: usize, mut number: u64) {
    let field = block.get_mut(at..at + width - 1).unwrap_or_default();
    for digit in field.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number & 7).unwrap_or(0);
        number >>= 3;
    }
}

fn number(
    block: &mut [u8; BLOCK],
    (at, width): (usize, usize),
    number: u64,
    (key, records): (&'static str, &mut Records<'_>),
) {
    let bits = (width - 1) * 3;
    if number >> bits == 0 {
        return octal(block, at, width, number);
    }
    octal(block, at, width, 0);
    records.push((key.as_bytes().into(), number.to_string().into_bytes().into()));
}

/// PAX has no record for device numbers; what octal cannot say is written in binary, as GNU does.
fn device(block: &mut [u8; BLOCK], at: usize, number: u32) {
    if number >> 21 == 0 {
        return octal(block, at, 8, u64::from(number));
    }
    text(block, at, 8, &u64::from(number).to_be_bytes());
    text(block, at, 1, &[0x80]);
}

fn seal(block: &mut [u8; BLOCK]) {
    text(block, 148, 8, b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(block, 148, 7, sum);
    text(block, 154, 2, b"\0 ");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_their_fields_with_digits() {
        for (at, width) in [(100, 8), (124, 12), (148, 7)] {
            let most = (1u64 << (3 * (width - 1))) - 1;
            for number in [0, 1, 7, 8, 0o644, 0o7777, most / 3, most - 1, most] {
                let mut block = [b'x'; BLOCK];
                octal(&mut block, at, width, number);
                let digits = format!("{number:0digits$o}", digits = width - 1);
                assert_eq!(&block[at..at + width - 1], digits.as_bytes());
                block[at..at + width - 1].fill(b'x');
                assert_eq!(block, [b'x'; BLOCK], "nothing else is touched");
            }
        }
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        for len in (0..1200).chain([9_980, 9_990, 99_990]) {
            let mut out = Vec::new();
            pax(b"name", vec![(b"key".into(), vec![b'v'; len].into())], &mut out);
            let record = &out[BLOCK..];
            let space = record.iter().position(|byte| *byte == b' ').unwrap();
            let said: usize = String::from_utf8_lossy(&record[..space]).parse().unwrap();
            assert_eq!(said, space + b" key=\n".len() + len);
            assert_eq!(record[said - 1], b'\n');
            assert!(record[said..].iter().all(|byte| *byte == 0));
            assert_eq!(out.len() % BLOCK, 0);
        }
    }

    #[test]
    fn times_have_the_digits_that_they_need() {
        let said = |secs, nanos| time(UnixTime { secs, nanos });
        assert_eq!(said(1_700_000_000, 0), "1700000000");
        assert_eq!(said(10, 120_000_000), "10.12");
        assert_eq!(said(0, 1), "0.000000001");
        assert_eq!(said(-2, 500_000_000), "-1.5");
        assert_eq!(said(-20, 0), "-20");
    }

    #[test]
    fn the_sum_counts_its_own_field_as_spaces() {
        let mut block = [0; BLOCK];
        text(&mut block, 0, 3, b"name that is too long");
        assert_eq!(&block[..4], b"nam\0");
        seal(&mut block);
        let sum = 8 * u32::from(b' ') + b"nam".iter().map(|byte| u32::from(*byte)).sum::<u32>();
        assert_eq!(&block[148..156], format!("{sum:06o}\0 ").as_bytes());
    }
}
