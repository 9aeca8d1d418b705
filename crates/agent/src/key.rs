//! Private keys from files, as ssh-keygen and openssl write them.

use std::fmt;

use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
    RsaKeyPair,
};

use crate::mpint::{less_one, modulo, padded, trimmed};
use crate::pem::{self, Pem};
use crate::wire::{Reader, Writer};

const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";
/// How signers of RSA say which hash they want.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Says why a file is no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it is no private key of ssh")]
    NotAKey,
    /// It wants a passphrase.
    #[error("it is encrypted, and nobody is asked for its passphrase")]
    Encrypted,
    /// It is of a kind that is not served.
    #[error("keys of the kind {kind} are not served: ed25519, rsa, ecdsa 256 and 384 are")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// It is damaged, or too weak.
    #[error("the key is not sound: {why}")]
    Unsound {
        /// What is wrong.
        why: String,
    },
}

enum Private {
    Ed25519(Ed25519KeyPair),
    Ecdsa { curve: Curve, pair: EcdsaKeyPair },
    Rsa(RsaKeyPair),
}

/// The curves of ECDSA.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const ALL: [Curve; 2] = [Curve::P256, Curve::P384];

    fn name(self) -> &'static str {
        match self {
            Curve::P256 => "nistp256",
            Curve::P384 => "nistp384",
        }
    }

    fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }

    /// The algorithm of a key in PKCS#8: a public key of an elliptic curve, and which.
    fn identifier(self) -> &'static [u8] {
        match self {
            Curve::P256 => &[
                0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
                0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
            ],
            Curve::P384 => &[
                0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
                0x81, 0x04, 0x00, 0x22,
            ],
        }
    }
}

/// A private key; its secret part is never shown.
pub struct Key {
    private: Private,
    public: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads a key file.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        if text.starts_with("PuTTY-User-Key-File") {
            return Err(KeyError::Kind { kind: "PuTTY".into() });
        }
        let pem = pem::parse(text).ok_or(KeyError::NotAKey)?;
        let Pem { kind, encrypted, bytes } = pem;
        if encrypted || kind == "ENCRYPTED PRIVATE KEY" {
            return Err(KeyError::Encrypted);
        }
        let private = match kind {
            "OPENSSH PRIVATE KEY" => openssh(&bytes)?,
            "RSA PRIVATE KEY" => Private::Rsa(RsaKeyPair::from_der(&bytes).map_err(unsound)?),
            "EC PRIVATE KEY" => curves(|curve| pkcs8_of_ec(curve, &bytes))?,
            "PRIVATE KEY" => pkcs8(&bytes)?,
            "DSA PRIVATE KEY" => return Err(KeyError::Kind { kind: "dsa".into() }),
            _ => return Err(KeyError::NotAKey),
        };
        Ok(Key { public: public(&private), private })
    }

    /// The public key, as ssh writes it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Signs, as ssh writes signatures; none where a hash is asked for that is not made.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let mut writer = Writer::default();
        match &self.private {
            Private::Ed25519(pair) => {
                writer.string(b"ssh-ed25519");
                writer.string(pair.sign(data).as_ref());
            }
            Private::Ecdsa { curve, pair } => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at(curve.bytes());
                let mut numbers = Writer::default();
                numbers.mpint(r);
                numbers.mpint(s);
                writer.string(format!("ecdsa-sha2-{}", curve.name()).as_bytes());
                writer.string(&numbers.0);
            }
            Private::Rsa(pair) => {
                // Without a flag it would be SHA-1, which nobody should take any more.
                let (name, padding) = match flags {
                    _ if flags & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    _ if flags & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                writer.string(name.as_bytes());
                writer.string(&signature);
            }
        }
        Some(writer.0)
    }
}

fn unsound(rejected: ring::error::KeyRejected) -> KeyError {
    let why = match rejected.to_string().as_str() {
        "TooSmall" => "it has fewer than 2048 bits".into(),
        "TooLarge" => "it has more than 4096 bits".into(),
        other => other.to_owned(),
    };
    KeyError::Unsound { why }
}

fn damaged() -> KeyError {
    KeyError::Unsound { why: "it is damaged".into() }
}

fn public(private: &Private) -> Vec<u8> {
    let mut writer = Writer::default();
    match private {
        Private::Ed25519(pair) => {
            writer.string(b"ssh-ed25519");
            writer.string(pair.public_key().as_ref());
        }
        Private::Ecdsa { curve, pair } => {
            writer.string(format!("ecdsa-sha2-{}", curve.name()).as_bytes());
            writer.string(curve.name().as_bytes());
            writer.string(pair.public_key().as_ref());
        }
        Private::Rsa(pair) => {
            let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
            writer.string(b"ssh-rsa");
            writer.mpint(&e);
            writer.mpint(&n);
        }
    }
    writer.0
}

/// Reads what stands in OpenSSH's own envelope.
fn openssh(bytes: &[u8]) -> Result<Private, KeyError> {
    let mut outer = Reader(bytes.strip_prefix(OPENSSH_MAGIC).ok_or_else(damaged)?);
    let cipher = outer.string().ok_or_else(damaged)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let private = || {
        let (_derivation, _options) = (outer.string()?, outer.string()?);
        let one = outer.number()? == 1;
        let _public = outer.string()?;
        let mut inner = Reader(outer.string()?);
        // A check that tells a wrong passphrase; there is none.
        (inner.number()? == inner.number()? && one).then_some(inner)
    };
    let mut private = Some(private).and_then(|mut read| read()).ok_or_else(damaged)?;
    let kind = String::from_utf8_lossy(private.string().ok_or_else(damaged)?).into_owned();
    match kind.as_str() {
        "ssh-ed25519" => ed25519(private),
        "ssh-rsa" => rsa(private),
        "ecdsa-sha2-nistp256" => ecdsa(Curve::P256, private),
        "ecdsa-sha2-nistp384" => ecdsa(Curve::P384, private),
        _ => Err(KeyError::Kind { kind }),
    }
}

fn ed25519(mut private: Reader<'_>) -> Result<Private, KeyError> {
    let public = private.string().ok_or_else(damaged)?;
    let (seed, _) =
        private.string().and_then(|both| both.split_at_checked(32)).ok_or_else(damaged)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).map(Private::Ed25519).map_err(unsound)
}

fn ecdsa(curve: Curve, mut private: Reader<'_>) -> Result<Private, KeyError> {
    let mut parts = || {
        let _curve = private.string()?;
        let point = private.string()?;
        Some((point, padded(private.string()?, curve.bytes())?))
    };
    let (point, number) = parts().ok_or_else(damaged)?;
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm(), &number, point, &random);
    Ok(Private::Ecdsa { curve, pair: pair.map_err(unsound)? })
}

#[expect(clippy::many_single_char_names, reason = "so the numbers of RSA are called")]
fn rsa(mut private: Reader<'_>) -> Result<Private, KeyError> {
    let mut number = || private.string().map(trimmed).ok_or_else(damaged);
    let (n, e, d) = (number()?, number()?, number()?);
    let (inverse, p, q) = (number()?, number()?, number()?);
    // The file leaves out what follows from the rest.
    let exponent = |prime: &[u8]| {
        let exponent = less_one(prime).and_then(|less| modulo(d, &less));
        exponent.ok_or_else(damaged)
    };
    let (of_p, of_q) = (exponent(p)?, exponent(q)?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: of_p.as_slice(),
        dQ: of_q.as_slice(),
        qInv: inverse,
    };
    RsaKeyPair::from_components(&components).map(Private::Rsa).map_err(unsound)
}

fn pkcs8(bytes: &[u8]) -> Result<Private, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Private::Ed25519(pair));
    }
    match RsaKeyPair::from_pkcs8(bytes) {
        Ok(pair) => return Ok(Private::Rsa(pair)),
        Err(rejected) if rejected.to_string() != "WrongAlgorithm" => return Err(unsound(rejected)),
        Err(_) => {}
    }
    curves(|_| Some(bytes.to_vec()))
}

/// Tries both curves.
fn curves(pkcs8: impl Fn(Curve) -> Option<Vec<u8>>) -> Result<Private, KeyError> {
    let random = SystemRandom::new();
    let made = Curve::ALL.into_iter().find_map(|curve| {
        let pair = EcdsaKeyPair::from_pkcs8(curve.algorithm(), &pkcs8(curve)?, &random).ok()?;
        Some(Private::Ecdsa { curve, pair })
    });
    made.ok_or_else(|| KeyError::Kind { kind: "of another curve or algorithm".into() })
}

/// Puts a key of SEC 1 into the envelope of PKCS#8.
fn pkcs8_of_ec(curve: Curve, sec1: &[u8]) -> Option<Vec<u8>> {
    let element = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).ok()?;
        let long: &[u8] = if length < 0x80 { &[] } else { &[0x81] };
        Some([&[tag], long, &[length], content].concat())
    };
    let version = [0x02, 0x01, 0x00];
    let key = element(0x04, sec1)?;
    element(0x30, &[&version, curve.identifier(), &key].concat())
}
