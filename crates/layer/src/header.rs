//! Tar headers as we write them: ustar where it can say it, PAX records where it cannot, one form for one entry.

use dcbuild_model::UnixTime;
use dcbuild_tree::{Entry, Kind};

/// The size of a header, and what everything is padded to.
pub(crate) const BLOCK: usize = 512;

type Records = Vec<(Vec<u8>, Vec<u8>)>;

const NAME: usize = 100;
const PREFIX: usize = 155;

/// What a header says, before it is bytes.
pub(crate) struct Header<'a> {
    /// The name, a folder's with a slash at its end.
    pub(crate) name: Vec<u8>,
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
        records.push((b"linkpath".to_vec(), header.link.to_vec()));
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
        records.push((b"mtime".to_vec(), time(mtime).into_bytes()));
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
fn split<'a>(name: &'a [u8], records: &mut Records) -> (&'a [u8], &'a [u8]) {
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
    records.push((b"path".to_vec(), name.to_vec()));
    (name.get(..NAME).unwrap_or(name), b"")
}

fn xattr_records(entry: &Entry, records: &mut Records) -> Result<(), &'static str> {
    for (name, value) in entry.meta.xattrs.iter() {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err("the name of an extended attribute is empty or has a '=' or a NUL");
        }
        records.push(([b"SCHILY.xattr.", name].concat(), value.to_vec()));
    }
    Ok(())
}

fn time(time: UnixTime) -> String {
    let (mut secs, mut nanos) = (time.secs.unsigned_abs(), time.nanos);
    if time.secs < 0 && nanos > 0 {
        (secs, nanos) = (secs - 1, 1_000_000_000 - nanos);
    }
    let sign = if time.secs < 0 { "-" } else { "" };
    let digits = format!("{nanos:09}");
    match digits.trim_end_matches('0') {
        "" => format!("{sign}{secs}"),
        digits => format!("{sign}{secs}.{digits}"),
    }
}

fn pax(name: &[u8], mut records: Records, out: &mut Vec<u8>) {
    records.sort();
    let mut data = Vec::new();
    for (key, value) in &records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + rest.to_string().len();
        if len.to_string().len() + rest != len {
            len = rest + len.to_string().len();
        }
        data.extend_from_slice(len.to_string().as_bytes());
        data.push(b' ');
        data.extend_from_slice(key);
        data.push(b'=');
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    let plain = name.strip_suffix(b"/").unwrap_or(name);
    let cut = plain.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (folder, base) = plain.split_at(cut);
    let ascii = |text: &[u8]| text.iter().copied().filter(u8::is_ascii).collect::<Vec<u8>>();
    let mut title = [ascii(folder), b"PaxHeaders.0/".to_vec(), ascii(base)].concat();
    title.truncate(NAME);
    let mut block = [0u8; BLOCK];
    text(&mut block, 0, NAME, &title);
    for (at, width) in [(100, 8), (108, 8), (116, 8), (136, 12), (329, 8), (337, 8)] {
        octal(&mut block, at, width, 0);
    }
    octal(&mut block, 124, 12, u64::try_from(data.len()).unwrap_or(0));
    text(&mut block, 156, 1, b"x");
    text(&mut block, 257, 8, b"ustar\x0000");
    seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(&data);
    pad(out, data.len());
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
    for (to, from) in block.iter_mut().skip(at).take(width).zip(text) {
        *to = *from;
    }
}

fn octal(block: &mut [u8; BLOCK], at: usize, width: usize, number: u64) {
    let digits = format!("{number:0width$o}", width = width - 1);
    text(block, at, width, digits.as_bytes());
}

fn number(
    block: &mut [u8; BLOCK],
    (at, width): (usize, usize),
    number: u64,
    (key, records): (&str, &mut Records),
) {
    let bits = (width - 1) * 3;
    if number >> bits == 0 {
        return octal(block, at, width, number);
    }
    octal(block, at, width, 0);
    records.push((key.as_bytes().to_vec(), number.to_string().into_bytes()));
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
    text(block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
}
