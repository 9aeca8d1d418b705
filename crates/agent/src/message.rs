//! The messages that pass, as draft-miller-ssh-agent has them.

pub use dcbuild_model::limits::AGENT_MESSAGE_BYTES_MAX as MESSAGE_BYTES_MAX;

use crate::wire::{Reader, Writer};

/// The answer to whatever is not done.
pub const FAILURE: &[u8] = &[5];

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// What a step may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Which keys are there?
    Identities,
    /// Sign something.
    Sign {
        /// The public key.
        key: &'a [u8],
        /// What is signed.
        data: &'a [u8],
        /// How.
        flags: u32,
    },
}

impl<'a> Request<'a> {
    /// Reads a message; none if it is none of those that pass, or is not whole.
    pub fn parse(message: &'a [u8]) -> Option<Request<'a>> {
        if message.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let mut reader = Reader(message);
        let request = match reader.byte()? {
            REQUEST_IDENTITIES => Request::Identities,
            SIGN_REQUEST => Request::Sign {
                key: reader.string()?,
                data: reader.string()?,
                flags: reader.number()?,
            },
            _ => return None,
        };
        reader.is_empty().then_some(request)
    }
}

/// The answer that lists keys; they have no comments, which are their owner's own.
pub(crate) fn identities<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.byte(IDENTITIES_ANSWER);
    writer.number(keys.len());
    for key in keys {
        writer.string(key);
        writer.string(b"");
    }
    writer.0
}

/// The answer that holds a signature.
pub(crate) fn signed(signature: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.byte(SIGN_RESPONSE);
    writer.string(signature);
    writer.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_messages_pass_and_no_others() {
        let sign = [&[13, 0, 0, 0, 1, b'k', 0, 0, 0, 2][..], b"da", &[0, 0, 0, 4]].concat();
        assert_eq!(Request::parse(&[11]), Some(Request::Identities));
        let want = Request::Sign { key: b"k", data: b"da", flags: 4 };
        assert_eq!(Request::parse(&sign), Some(want));
        assert_eq!(Request::parse(&[sign.clone(), vec![0]].concat()), None, "too long");
        assert_eq!(Request::parse(&sign[..sign.len() - 1]), None, "too short");
        assert_eq!(Request::parse(&[11, 0]), None);
        assert_eq!(Request::parse(&[]), None);
        for kind in (0..=u8::MAX).filter(|kind| !matches!(*kind, 11 | 13)) {
            assert_eq!(Request::parse(&[kind]), None, "{kind}");
            assert_eq!(Request::parse(&[&[kind], &sign[1..]].concat()), None, "{kind}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>) {
            for kind in [11, 13] {
                let message = [&[kind], &bytes[..]].concat();
                let _request = Request::parse(&message);
            }
            if let Some(Request::Sign { key, data, .. }) = Request::parse(&bytes) {
                proptest::prop_assert!(key.len() + data.len() < bytes.len());
            }
        }

        #[test]
        fn any_text_is_a_key_or_is_refused(body in "[A-Za-z0-9+/=\n]{0,300}", other in "\\PC{0,80}") {
            let pem = format!(
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA{body}\n-----END OPENSSH PRIVATE KEY-----\n"
            );
            drop(crate::Key::parse(&pem));
            drop(crate::Key::parse(&other));
        }
    }
}
