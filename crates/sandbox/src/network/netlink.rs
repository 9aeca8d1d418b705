//! Netlink messages as bytes, and a socket that sends them and hears the kernel's answers.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The largest answer that is read at once.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The bytes before a message's own.
const HEADER_BYTES: usize = 16;
/// The type of the answer that says how a request ended.
const ERROR: u16 = 2;
/// The type of the answer that ends a list.
const DONE: u16 = 3;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// What a request asks of the kernel besides its type.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    /// Asks for all there is.
    pub(crate) const LIST: u16 = 0x300;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// The attributes of a message, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Attributes {
        Attributes::default()
    }

    /// Adds an attribute; one that is too long for its length field is refused by the kernel.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Attributes {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the order of the network, as netfilter wants all of them.
    pub(crate) fn network_number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(self, kind: u16, inner: Attributes) -> Attributes {
        self.bytes(kind | NESTED, &inner.0)
    }

    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds what stands before nested attributes in some messages.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Attributes {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// One message, but for its place in a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// Makes a request of a type with its fixed part and its attributes.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8], attributes: Attributes) -> Message {
        let mut body = fixed.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(&attributes.0);
        Message { kind, flags: flags | flag::REQUEST, body }
    }

    fn write(&self, sequence: u32, into: &mut Vec<u8>) {
        let length = u32::try_from(self.body.len() + HEADER_BYTES).unwrap_or(u32::MAX);
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&self.kind.to_ne_bytes());
        into.extend_from_slice(&self.flags.to_ne_bytes());
        into.extend_from_slice(&sequence.to_ne_bytes());
        into.extend_from_slice(&0_u32.to_ne_bytes());
        into.extend_from_slice(&self.body);
    }
}

/// A socket to one part of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one to a protocol; none is the one of links, addresses and routes.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Socket, Errno> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW);
        let fd = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, protocol)?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// Has one request carried out.
    pub(crate) fn carry_out(&mut self, message: Message) -> Result<(), Errno> {
        self.carry_out_all(&[message])
    }

    /// Sends messages in one piece and waits for the end of those that ask for it.
    pub(crate) fn carry_out_all(&mut self, messages: &[Message]) -> Result<(), Errno> {
        let mut open = self.send(messages)?;
        while !open.is_empty() {
            for answer in self.receive()? {
                if let Some(errno) = answer.errno()? {
                    return Err(errno);
                }
                open.retain(|sequence| *sequence != answer.sequence);
            }
        }
        Ok(())
    }

    /// Asks for one thing, and gives the answer without its header.
    pub(crate) fn ask(&mut self, message: Message) -> Result<Vec<u8>, Errno> {
        self.send(&[message])?;
        loop {
            for answer in self.receive()? {
                if answer.sequence != self.sequence {
                    continue;
                }
                return match answer.errno()? {
                    Some(errno) => Err(errno),
                    None => Ok(answer.body),
                };
            }
        }
    }

    /// Asks for a list, and gives its parts without their headers.
    pub(crate) fn list(&mut self, message: Message) -> Result<Vec<Vec<u8>>, Errno> {
        self.send(&[message])?;
        let mut parts = Vec::new();
        loop {
            for answer in self.receive()? {
                if answer.sequence != self.sequence {
                    continue;
                }
                if let Some(errno) = answer.errno()? {
                    return Err(errno);
                }
                if answer.kind == DONE {
                    return Ok(parts);
                }
                parts.push(answer.body);
            }
        }
    }

    fn send(&mut self, messages: &[Message]) -> Result<Vec<u32>, Errno> {
        let mut bytes = Vec::new();
        let mut open = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.write(self.sequence, &mut bytes);
            if message.flags & flag::ACK != 0 {
                open.push(self.sequence);
            }
        }
        send(&self.fd, &bytes, SendFlags::empty())?;
        Ok(open)
    }

    fn receive(&self) -> Result<Vec<Answer>, Errno> {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        // The kernel answers these requests before it returns from the sending of them, so silence is an error.
        let (_, length) = recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT)?;
        buffer.truncate(length);
        Ok(answers(&buffer))
    }
}

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: u16,
    sequence: u32,
    body: Vec<u8>,
}

impl Answer {
    /// The error that it tells of, if it is one.
    fn errno(&self) -> Result<Option<Errno>, Errno> {
        if self.kind != ERROR {
            return Ok(None);
        }
        match i32_at(&self.body, 0).ok_or(Errno::BADMSG)? {
            0 => Ok(None),
            code => Ok(Some(Errno::from_raw_os_error(code.saturating_neg()))),
        }
    }
}

/// Splits what was received; what is cut off is left out.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(length) = i32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let (Some(body), Some(kind), Some(sequence)) =
            (bytes.get(HEADER_BYTES..length), bytes.get(4..6), i32_at(bytes, 8))
        else {
            break;
        };
        answers.push(Answer {
            kind: kind.try_into().map_or(0, u16::from_ne_bytes),
            sequence: sequence.cast_unsigned(),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// Finds the value of an attribute.
pub(crate) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some([low, high, kind_low, kind_high]) = bytes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([*low, *high]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([*kind_low, *kind_high]) & !NESTED == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// Reads a number of the network's order.
pub(crate) fn network_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// Reads a number of the machine's own order.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_lengths_are_not() {
        let inner = Attributes::new().text(3, "lo").bytes(4, &[1]);
        let bytes = Attributes::new().nest(1, inner).0;
        assert_eq!(
            bytes,
            [20, 0, 1, 0x80, 7, 0, 3, 0, b'l', b'o', 0, 0, 5, 0, 4, 0, 1, 0, 0, 0],
            "on a little-endian machine"
        );
    }

    #[test]
    fn attributes_are_found_again() {
        let inner = Attributes::new().text(3, "lo").network_number(4, 7);
        let bytes = Attributes::new().bytes(9, &[1]).nest(1, inner).0;
        let inner = attribute(&bytes, 1).unwrap();
        assert_eq!(attribute(inner, 4).and_then(network_u32), Some(7));
        assert_eq!(attribute(inner, 5), None);
        for end in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..end], 1), None);
        }
        assert_eq!(attribute(&[0; 8], 1), None);
    }

    #[test]
    fn broken_answers_are_left_out() {
        let mut bytes = Vec::new();
        Message::new(7, 0, &[9; 4], Attributes::new()).write(5, &mut bytes);
        let whole = Answer { kind: 7, sequence: 5, body: vec![9; 4] };
        assert_eq!(answers(&bytes), [whole]);
        for end in 0..bytes.len() {
            assert_eq!(answers(&bytes[..end]), []);
        }
        assert_eq!(answers(&[0; 64]), []);
    }
}
