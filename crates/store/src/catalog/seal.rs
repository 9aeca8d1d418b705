//! What a document is sealed with: bytes and name together, under a key that only coordinators have.
//!
//! A sealed document is one line, `dcbuild-sealed-1 KIND HEX`, and the document behind it. The kind is `hmac-sha256` with a
//! key and `sha256` without one; the second finds damage and no forger.
//!
//! What changes under a fixed name has a name of its own for each key, so that processes with different keys on one store
//! never overwrite what they cannot read.

use bytes::Bytes;
use dcbuild_model::Digest;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::ObjectName;

const FORM: &str = "dcbuild-sealed-1";
/// What a key's name is made from.
const KEY_NAME: &[u8] = b"dcbuild-key-name-1";
/// In place of one where there is no key.
const UNKEYED: &str = "none";
/// Its hex digits.
const KEY_NAME_CHARS: usize = 12;
/// A shorter key could be guessed.
const KEY_BYTES_MIN: usize = 32;

/// Says why a text is no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a signing key has at least {KEY_BYTES_MIN} bytes, and this one has {bytes}; `openssl rand -hex 32` makes one"
)]
pub struct InvalidSealKey {
    /// How many it has.
    pub bytes: usize,
}

/// Seals documents and opens them again; the keys are never printed.
#[derive(Clone, Default)]
pub struct Seal {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    mac: Hmac<Sha256>,
    /// Tells it from others, and says nothing of it.
    name: String,
}

impl Key {
    fn new(mac: Hmac<Sha256>) -> Key {
        let mut named = mac.clone();
        named.update(KEY_NAME);
        let mut name = Digest(named.finalize().into_bytes().into()).hex();
        name.truncate(KEY_NAME_CHARS);
        Key { mac, name }
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Seal {
    /// A seal that finds damage: for a store to which nobody else can write.
    pub fn unkeyed() -> Seal {
        Seal::default()
    }

    /// Seals with the first key; what any of them sealed is opened. To take a key away disowns what it sealed.
    pub fn keyed<'k>(keys: impl IntoIterator<Item = &'k [u8]>) -> Result<Seal, InvalidSealKey> {
        let key = |key: &[u8]| match Hmac::new_from_slice(key) {
            Ok(mac) if key.len() >= KEY_BYTES_MIN => Ok(Key::new(mac)),
            _ => Err(InvalidSealKey { bytes: key.len() }),
        };
        Ok(Seal { keys: keys.into_iter().map(key).collect::<Result<_, _>>()? })
    }

    /// Whether a forger would need a key.
    pub fn is_keyed(&self) -> bool {
        !self.keys.is_empty()
    }

    /// What tells the key that seals from others, and says nothing of it.
    pub fn key_name(&self) -> &str {
        self.keys.first().map_or(UNKEYED, |key| &key.name)
    }

    /// Whether a key of this name is one that it has: what that one sealed is opened.
    pub fn has_key(&self, name: &str) -> bool {
        if self.keys.is_empty() {
            name == UNKEYED
        } else {
            self.keys.iter().any(|key| key.name == name)
        }
    }

    /// The last part of the name of a document that is written anew under a fixed name: the word, and the key's name.
    pub fn field(&self, word: &str) -> String {
        match self.keys.first() {
            Some(key) => format!("{word}.{}", key.name),
            None => word.to_owned(),
        }
    }

    /// What a field of a document is called whatever its key.
    pub fn word(field: &str) -> &str {
        field.split_once('.').map_or(field, |(word, _)| word)
    }

    /// Whether a field names a key that is none of ours: nobody need read what it seals.
    pub fn is_foreign(&self, field: &str) -> bool {
        field.split_once('.').is_some_and(|(_, name)| self.keys.iter().all(|key| key.name != name))
    }

    /// Whether what other keys sealed is opened as well, or was sealed before fields had the names of keys.
    pub(super) fn opens_others(&self) -> OpensOthers {
        match self.keys.len() {
            0 => OpensOthers::No,
            1 => OpensOthers::OfOld,
            _ => OpensOthers::Yes,
        }
    }

    /// The sealed form of a document under this name.
    pub fn close(&self, name: &ObjectName, document: &[u8]) -> Bytes {
        let (kind, hex) = match self.keys.first() {
            Some(key) => {
                let mut mac = key.mac.clone();
                feed(name, document, |bytes| mac.update(bytes));
                ("hmac-sha256", Digest(mac.finalize().into_bytes().into()).hex())
            }
            None => ("sha256", digest(name, document).hex()),
        };
        let mut sealed = format!("{FORM} {kind} {hex}\n").into_bytes();
        sealed.extend_from_slice(document);
        sealed.into()
    }

    /// The document, if it was sealed under this name and by one of our keys.
    pub fn open(&self, name: &ObjectName, sealed: &Bytes) -> Option<Bytes> {
        let line = sealed.iter().take(200).position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(sealed.get(..line)?).ok()?;
        let mut words = head.split(' ');
        let (FORM, kind, hex) = (words.next()?, words.next()?, words.next()?) else { return None };
        let (document, found) = (sealed.slice(line + 1..), Digest::from_hex(hex).ok()?);
        let ours = match kind {
            "hmac-sha256" => self.keys.iter().any(|key| {
                let mut mac = key.mac.clone();
                feed(name, &document, |bytes| mac.update(bytes));
                mac.verify_slice(&found.0).is_ok()
            }),
            "sha256" => self.keys.is_empty() && digest(name, &document) == found,
            _ => false,
        };
        (ours && words.next().is_none()).then_some(document)
    }
}

/// What a seal opens under other fields than its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OpensOthers {
    /// Nothing.
    No,
    /// What was sealed before fields had the names of keys, if there is nothing newer.
    OfOld,
    /// What another of its keys sealed, which may be newer.
    Yes,
}

/// What is sealed: the form, the name and the document, each with its length before it.
fn feed(name: &ObjectName, document: &[u8], mut update: impl FnMut(&[u8])) {
    for part in [FORM.as_bytes(), name.as_str().as_bytes(), document] {
        update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        update(part);
    }
}

fn digest(name: &ObjectName, document: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    feed(name, document, |bytes| hash.update(bytes));
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        text.parse().unwrap()
    }

    fn keyed(keys: &[&[u8]]) -> Seal {
        Seal::keyed(keys.iter().copied()).unwrap()
    }

    const ONE: &[u8] = &[1; 32];
    const TWO: &[u8] = &[2; 40];

    #[test]
    fn only_what_we_sealed_under_this_name_is_opened() {
        let (a, b) = (name("scope/local/step/a/1"), name("scope/local/step/b/1"));
        for (closes, opens, ours) in [
            (Seal::unkeyed(), Seal::unkeyed(), true),
            (keyed(&[ONE]), keyed(&[ONE]), true),
            (keyed(&[ONE]), keyed(&[TWO, ONE]), true),
            (keyed(&[ONE, TWO]), keyed(&[TWO]), false),
            (keyed(&[ONE]), Seal::unkeyed(), false),
            (Seal::unkeyed(), keyed(&[ONE]), false),
        ] {
            let sealed = closes.close(&a, b"{}");
            let want = ours.then(|| Bytes::from_static(b"{}"));
            assert_eq!(opens.open(&a, &sealed), want, "{closes:?} {opens:?}");
            assert_eq!(opens.open(&b, &sealed), None, "copied to another name");
        }
    }

    #[test]
    fn each_key_has_fields_of_its_own_that_do_not_tell_it() {
        let (one, two) = (keyed(&[ONE]), keyed(&[TWO, ONE]));
        assert_eq!(Seal::unkeyed().field("latest"), "latest");
        let field = one.field("latest");
        assert_eq!((field.len(), Seal::word(&field)), ("latest.".len() + KEY_NAME_CHARS, "latest"));
        assert_ne!(two.field("latest"), field);
        assert_eq!(keyed(&[ONE, TWO]).field("latest"), field);
        assert!(!one.is_foreign(&field) && !two.is_foreign(&field) && !one.is_foreign("latest"));
        assert!(one.is_foreign(&two.field("latest")) && Seal::unkeyed().is_foreign(&field));
        assert_eq!(name(&format!("x/{field}")).as_str(), format!("x/{field}"));
    }

    #[test]
    fn a_seal_knows_the_names_of_all_its_keys_and_seals_with_the_first() {
        let (one, both) = (keyed(&[ONE]), keyed(&[TWO, ONE]));
        assert!(both.has_key(one.key_name()) && both.has_key(both.key_name()));
        assert!(!one.has_key(both.key_name()) && !one.has_key(Seal::unkeyed().key_name()));
        assert!(Seal::unkeyed().has_key("none") && !Seal::unkeyed().has_key(one.key_name()));
    }

    #[test]
    fn each_flipped_bit_breaks_it() {
        for seal in [Seal::unkeyed(), keyed(&[ONE])] {
            let name = name("x/y");
            let sealed = seal.close(&name, b"{\"a\":1}");
            for bit in 0..sealed.len() * 8 {
                let mut bytes = sealed.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                // Upper and lower case of a hex digit mean the same.
                let opened = seal.open(&name, &bytes.into());
                assert!(opened.is_none_or(|it| it == b"{\"a\":1}"[..]), "bit {bit}");
            }
            for garbage in ["", "\n", "dcbuild-sealed-1", "dcbuild-sealed-1 sha256 00\n{}"] {
                assert_eq!(seal.open(&name, &Bytes::from(garbage)), None);
            }
        }
    }

    #[test]
    fn short_keys_are_refused_and_no_key_is_printed() {
        assert_eq!(Seal::keyed([&b"short"[..]]).err(), Some(InvalidSealKey { bytes: 5 }));
        assert_eq!(
            format!("{:?}", keyed(&[b"hunter2hunter2hunter2hunter2hunter2"])),
            "Seal { keys: 1, .. }"
        );
    }
}
