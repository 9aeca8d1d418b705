//! Reads the headers of a tar that anybody may have made: POSIX, PAX, GNU long names and sparse files; the rest is refused.

use std::collections::BTreeMap;
use std::io::{self, Read};

use dcbuild_model::{UnixTime, limits};
use dcbuild_tree::{Meta, Xattrs};

use crate::header::{BLOCK, padding};
use crate::input::GrowsTooMuch;
use crate::read::ReadLayerError;
use crate::sparse::{self, Piece, Written};

/// How many bytes of content are given at once.
const PIECE: usize = 128 << 10;

/// Takes content as it is read.
type Each<'a> = dyn FnMut(&[u8]) -> Result<(), ReadLayerError> + 'a;

/// One member as its headers have it, sizes checked, names not.
pub(crate) struct Raw {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) flag: u8,
    /// The size of the file, holes and all.
    pub(crate) size: u64,
    pub(crate) meta: Meta,
    pub(crate) device: (u32, u32),
    /// The bytes of content that follow.
    stored: u64,
    /// Which bytes of the file they are, where it has holes.
    pieces: Option<Vec<Piece>>,
}

/// Walks over the members of a tar.
pub(crate) struct Parser<R> {
    input: R,
    offset: u64,
    members: u64,
    holes: u64,
}

#[derive(Default)]
struct Extra {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Parser<R> {
    pub(crate) fn new(input: R) -> Parser<R> {
        Parser { input, offset: 0, members: 0, holes: 0 }
    }

    /// The next member; its content must be read before the one after it is asked for.
    pub(crate) fn next(&mut self) -> Result<Option<Raw>, ReadLayerError> {
        let mut extra = Extra::default();
        loop {
            let start = self.offset;
            let wrong = |reason| ReadLayerError::Header { offset: start, reason };
            let Some(block) = self.header(&extra)? else { return Ok(None) };
            self.members += 1;
            if self.members > limits::ENTRIES_MAX {
                return Err(ReadLayerError::TooManyEntries { max: limits::ENTRIES_MAX });
            }
            let flag = block.byte(156);
            let size = block.unsigned(124, 12).map_err(wrong)?;
            match flag {
                b'x' | b'X' | b'g' | b'L' | b'K' => {
                    let data = self.meta_data(size, start)?;
                    extra.take(flag, data).map_err(wrong)?;
                }
                _ => return self.member(&block, size, extra, start).map(Some),
            }
        }
    }

    fn header(&mut self, extra: &Extra) -> Result<Option<Block>, ReadLayerError> {
        let start = self.offset;
        let mut block = Block([0; BLOCK]);
        let len = self.fill(&mut block.0)?;
        // Nothing at all is a layer without entries, as Go reads it.
        if len == 0 && extra.is_empty() {
            return Ok(None);
        }
        if len < BLOCK {
            return Err(match start {
                0 => ReadLayerError::NotATar,
                _ => ReadLayerError::Truncated { offset: self.offset },
            });
        }
        if block.0 == [0; BLOCK] {
            let len = self.fill(&mut block.0)?;
            let ended = block.0.iter().take(len).all(|byte| *byte == 0) && extra.is_empty();
            return match ended {
                true => Ok(None),
                false if start == 0 => Err(ReadLayerError::NotATar),
                false => Err(ReadLayerError::Header {
                    offset: start,
                    reason: "a block of zeros stands between members",
                }),
            };
        }
        if !block.is_sealed() {
            return Err(match start {
                0 => ReadLayerError::NotATar,
                _ => ReadLayerError::Header { offset: start, reason: "its checksum is wrong" },
            });
        }
        Ok(Some(block))
    }

    fn meta_data(&mut self, size: u64, start: u64) -> Result<Vec<u8>, ReadLayerError> {
        let wrong = |reason| ReadLayerError::Header { offset: start, reason };
        if size > limits::PAX_BYTES_MAX {
            return Err(wrong("it has more than 1 MiB of extended header"));
        }
        let mut data = Vec::new();
        self.bytes(size, &mut |bytes| {
            data.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(data)
    }

    fn member(
        &mut self,
        block: &Block,
        size: u64,
        mut extra: Extra,
        start: u64,
    ) -> Result<Raw, ReadLayerError> {
        let wrong = |reason| ReadLayerError::Header { offset: start, reason };
        let records = sparse::take(&mut extra.records).map_err(wrong)?;
        let mut raw = block.member(size, extra).map_err(wrong)?;
        let pieces = if block.byte(156) == b'S' {
            raw.size = block.unsigned(483, 12).map_err(wrong)?;
            self.old_pieces(block, start)?
        } else if let Some(records) = records {
            raw.name = records.name.unwrap_or(raw.name);
            raw.size = records.size.unwrap_or(raw.size);
            match records.pieces {
                Some(pieces) => pieces,
                None => self.listed_pieces(&mut raw.stored, start)?,
            }
        } else {
            return Ok(raw);
        };
        if raw.flag != b'0' {
            return Err(wrong("it has holes though it is no file"));
        }
        raw.pieces = Some(pieces.checked(raw.size, raw.stored).map_err(wrong)?);
        self.holes = self.holes.saturating_add(raw.size - raw.stored);
        if self.holes > limits::HOLES_FREE_BYTES
            && self.holes > self.offset.saturating_mul(limits::RATIO_MAX)
        {
            return Err(ReadLayerError::GrowsTooMuch { max: limits::RATIO_MAX });
        }
        Ok(raw)
    }

    /// The pieces in a header of type `S`, and in the blocks that follow it.
    fn old_pieces(&mut self, block: &Block, start: u64) -> Result<Written, ReadLayerError> {
        let wrong = |reason| ReadLayerError::Header { offset: start, reason };
        let mut pieces = Written::default();
        let mut take = |block: &Block, from: usize, count: usize| {
            for at in (from..).step_by(24).take(count) {
                if block.byte(at) == 0 {
                    break;
                }
                let (at, len) = (block.unsigned(at, 12)?, block.unsigned(at + 12, 12)?);
                pieces.push(Piece { at, len })?;
            }
            Ok(())
        };
        take(block, 386, 4).map_err(wrong)?;
        let mut goes_on = block.byte(482) != 0;
        while goes_on {
            let mut more = Block([0; BLOCK]);
            if self.fill(&mut more.0)? < BLOCK {
                return Err(ReadLayerError::Truncated { offset: self.offset });
            }
            take(&more, 0, 21).map_err(wrong)?;
            goes_on = more.byte(504) != 0;
        }
        Ok(pieces)
    }

    /// The pieces in the list that the content begins with: a number a line, first how many pieces there are.
    fn listed_pieces(&mut self, stored: &mut u64, start: u64) -> Result<Written, ReadLayerError> {
        let wrong = |reason| ReadLayerError::Header { offset: start, reason };
        let mut pieces = Written::default();
        let (mut count, mut at) = (None, None);
        let mut line = Vec::new();
        while count.is_none_or(|count| count > 0) {
            let mut block = Block([0; BLOCK]);
            let Some(left) = stored.checked_sub(512) else {
                return Err(wrong("the list of its pieces is longer than its content"));
            };
            *stored = left;
            if self.fill(&mut block.0)? < BLOCK {
                return Err(ReadLayerError::Truncated { offset: self.offset });
            }
            for byte in block.0 {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(wrong("the list of its pieces is malformed"));
                    }
                    continue;
                }
                let number = decimal(&line).map_err(wrong)?;
                line.clear();
                match (count, at.take()) {
                    (None, _) => count = Some(number),
                    (Some(_), None) => at = Some(number),
                    (Some(left), Some(at)) => {
                        pieces.push(Piece { at, len: number }).map_err(wrong)?;
                        count = Some(left - 1);
                    }
                }
                if count == Some(0) {
                    break;
                }
            }
        }
        Ok(pieces)
    }

    /// Reads a member's content and its padding; holes are given as zeros.
    pub(crate) fn content(
        &mut self,
        raw: &Raw,
        mut each: impl FnMut(&[u8]) -> Result<(), ReadLayerError>,
    ) -> Result<(), ReadLayerError> {
        let Some(pieces) = &raw.pieces else { return self.bytes(raw.stored, &mut each) };
        let mut done = 0;
        for piece in pieces {
            zeros(piece.at - done, &mut each)?;
            self.exactly(piece.len, &mut each)?;
            done = piece.at + piece.len;
        }
        zeros(raw.size - done, &mut each)?;
        self.pad(raw.stored)
    }

    fn bytes(&mut self, size: u64, each: &mut Each<'_>) -> Result<(), ReadLayerError> {
        self.exactly(size, each)?;
        self.pad(size)
    }

    fn exactly(&mut self, size: u64, each: &mut Each<'_>) -> Result<(), ReadLayerError> {
        let mut piece = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(PIECE)];
        let mut left = size;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let want = piece.get_mut(..now).unwrap_or_default();
            if self.fill(want)? < now {
                return Err(ReadLayerError::Truncated { offset: self.offset });
            }
            each(want)?;
            left -= u64::try_from(now).unwrap_or(left);
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), ReadLayerError> {
        let rest = padding(usize::try_from(size % 512).unwrap_or(0));
        let mut pad = [0; BLOCK];
        if self.fill(pad.get_mut(..rest).unwrap_or_default())? < rest {
            return Err(ReadLayerError::Truncated { offset: self.offset });
        }
        Ok(())
    }

    /// Reads what follows the last member, which nobody looks at.
    pub(crate) fn drain(mut self) -> Result<(), ReadLayerError> {
        io::copy(&mut self.input, &mut io::sink()).map(drop).map_err(failed)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, ReadLayerError> {
        let mut done = 0;
        while done < buf.len() {
            match self.input.read(buf.get_mut(done..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.offset += u64::try_from(done).unwrap_or(0);
        Ok(done)
    }
}

fn zeros(count: u64, each: &mut Each<'_>) -> Result<(), ReadLayerError> {
    const ZEROS: &[u8] = &[0; PIECE];
    let mut left = usize::try_from(count).unwrap_or(usize::MAX);
    while left > 0 {
        let now = left.min(PIECE);
        each(ZEROS.get(..now).unwrap_or_default())?;
        left -= now;
    }
    Ok(())
}

fn failed(error: io::Error) -> ReadLayerError {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<GrowsTooMuch>) {
        return ReadLayerError::GrowsTooMuch { max: limits::RATIO_MAX };
    }
    ReadLayerError::Read(error)
}

fn narrow(number: u64) -> Result<u32, &'static str> {
    u32::try_from(number).map_err(|_| "a number in it is too large")
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.long_name.is_none() && self.long_link.is_none()
    }

    fn take(&mut self, flag: u8, mut data: Vec<u8>) -> Result<(), &'static str> {
        match flag {
            b'L' | b'K' => {
                if let Some(end) = data.iter().position(|byte| *byte == 0) {
                    data.truncate(end);
                }
                let place = if flag == b'L' { &mut self.long_name } else { &mut self.long_link };
                *place = Some(data);
            }
            b'g' => {
                let mut global = BTreeMap::new();
                records(&data, &mut global)?;
                let moves = |key: &str| global.contains_key(key.as_bytes());
                if ["path", "linkpath", "size"].into_iter().any(moves) {
                    return Err("a global header names or sizes all members");
                }
            }
            _ => records(&data, &mut self.records)?,
        }
        Ok(())
    }

    fn apply(self, raw: &mut Raw) -> Result<(), &'static str> {
        let mut xattrs = BTreeMap::new();
        let twice = "it has both a PAX and a GNU long name";
        for (key, value) in self.records {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name.is_empty() || name.len() > 255 || value.len() > 64 << 10 {
                    return Err("an extended attribute is larger than Linux allows");
                }
                if !(name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")) {
                    xattrs.insert(name.to_vec(), value);
                }
                continue;
            }
            if value.is_empty() {
                continue;
            }
            match key.as_slice() {
                b"path" if self.long_name.is_some() => return Err(twice),
                b"linkpath" if self.long_link.is_some() => return Err(twice),
                b"path" => raw.name = value,
                b"linkpath" => raw.link = value,
                b"size" => raw.size = decimal(&value)?,
                b"uid" => raw.meta.uid = narrow(decimal(&value)?)?,
                b"gid" => raw.meta.gid = narrow(decimal(&value)?)?,
                b"mtime" => raw.meta.mtime = time(&value)?,
                _ => {}
            }
        }
        if let Some(name) = self.long_name {
            raw.name = name;
        }
        if let Some(link) = self.long_link {
            raw.link = link;
        }
        raw.meta.xattrs = Xattrs::new(xattrs);
        Ok(())
    }
}

fn records(mut data: &[u8], into: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), &'static str> {
    const WRONG: &str = "a PAX record is malformed";
    while !data.is_empty() {
        let space = data.iter().take(10).position(|byte| *byte == b' ').ok_or(WRONG)?;
        let len = decimal(data.get(..space).unwrap_or_default()).map_err(|_| WRONG)?;
        let len = usize::try_from(len).map_err(|_| WRONG)?;
        let record = data.get(space + 1..len).ok_or(WRONG)?;
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        let (key, value) = record.split_at(equals);
        if key.is_empty() {
            return Err(WRONG);
        }
        let value = value.get(1..).unwrap_or_default();
        if !sparse::gather(key, value, into) {
            into.insert(key.to_vec(), value.to_vec());
        }
        data = data.get(len..).unwrap_or_default();
    }
    Ok(())
}

pub(crate) fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or("a PAX number is malformed")
}

fn time(text: &[u8]) -> Result<UnixTime, &'static str> {
    const WRONG: &str = "a PAX time is malformed";
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, part) = text.split_at(dot);
    let secs = i64::try_from(decimal(whole).map_err(|_| WRONG)?).map_err(|_| WRONG)?;
    let mut nanos = 0;
    let mut unit = 100_000_000;
    for byte in part.iter().skip(1) {
        if !byte.is_ascii_digit() {
            return Err(WRONG);
        }
        nanos += u32::from(byte - b'0') * unit;
        unit /= 10;
    }
    Ok(match (negative, nanos) {
        (false, nanos) => UnixTime { secs, nanos },
        (true, 0) => UnixTime { secs: -secs, nanos },
        (true, nanos) => UnixTime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

struct Block([u8; BLOCK]);

impl Block {
    /// The member that the header and the records before it describe, without its holes.
    fn member(&self, size: u64, extra: Extra) -> Result<Raw, &'static str> {
        let mut flag = match self.byte(156) {
            0 | b'7' | b'S' => b'0',
            flag => flag,
        };
        if !(b'0'..=b'6').contains(&flag) {
            return Err("its type is not one that a layer may have");
        }
        let mut raw = Raw {
            name: self.name(),
            link: self.text(157, 100).to_vec(),
            flag,
            size,
            meta: Meta {
                mode: narrow(self.unsigned(100, 8)? & 0o7777)?,
                uid: narrow(self.unsigned(108, 8)?)?,
                gid: narrow(self.unsigned(116, 8)?)?,
                mtime: UnixTime { secs: self.signed(136, 12)?, nanos: 0 },
                xattrs: Xattrs::default(),
            },
            device: (0, 0),
            stored: 0,
            pieces: None,
        };
        if matches!(flag, b'3' | b'4') {
            raw.device = (narrow(self.unsigned(329, 8)?)?, narrow(self.unsigned(337, 8)?)?);
        }
        extra.apply(&mut raw)?;
        // A file that says it is one and has content is a file, however its name ends; without a type, as old archives
        // have it, the slash alone makes a folder.
        let is_plain = self.byte(156) == b'0' && raw.size > 0;
        if flag == b'0' && raw.name.ends_with(b"/") && !is_plain {
            flag = b'5';
            raw.flag = flag;
        }
        if flag != b'0' && raw.size != 0 {
            return Err("it has content though it is no file");
        }
        raw.stored = raw.size;
        Ok(raw)
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn field(&self, at: usize, width: usize) -> &[u8] {
        self.0.get(at..at + width).unwrap_or_default()
    }

    fn text(&self, at: usize, width: usize) -> &[u8] {
        let field = self.field(at, width);
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(width);
        field.get(..end).unwrap_or_default()
    }

    fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let posix = self.field(257, 6) == b"ustar\0";
        let width = if self.field(508, 4) == b"tar\0" { 131 } else { 155 };
        let prefix = if posix { self.text(345, width) } else { b"" };
        match prefix {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn is_sealed(&self) -> bool {
        let Ok(said) = self.signed(148, 8) else { return false };
        let spaced = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
        let bytes = || self.0.iter().enumerate().map(spaced);
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        said == unsigned || said == signed
    }

    fn unsigned(&self, at: usize, width: usize) -> Result<u64, &'static str> {
        u64::try_from(self.signed(at, width)?).map_err(|_| "a number in it is negative")
    }

    /// Octal digits, or binary where the first bit is set.
    fn signed(&self, at: usize, width: usize) -> Result<i64, &'static str> {
        let field = self.field(at, width);
        let first = field.first().copied().unwrap_or(0);
        if first & 0x80 != 0 {
            let start = if first & 0x40 != 0 { -1 } else { 0i64 };
            let top = i64::from(first & 0x3f) | (start & !0x3f);
            return field.iter().skip(1).try_fold(top, |number, byte| {
                let shifted = number.checked_mul(256).ok_or("a number in it is too large")?;
                Ok(shifted | i64::from(*byte))
            });
        }
        let blank = |byte: &u8| matches!(*byte, b' ' | 0);
        let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
        let digits = field.get(start..).unwrap_or_default();
        let end = digits.iter().position(blank).unwrap_or(digits.len());
        digits.iter().take(end).try_fold(0i64, |number, byte| match byte {
            b'0'..=b'7' => Ok(number << 3 | i64::from(byte - b'0')),
            _ => Err("a number in it is not octal"),
        })
    }
}
