//! What opens one layer of one worker.

use std::sync::Arc;

use dcbuild_model::LayerId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 64;
/// What is signed begins with it, so that nothing else that is signed is ever a ticket.
const FORM: &[u8] = b"dcbuild peer ticket 1\n";

/// Says why bytes are no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a worker's key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, and this one has {bytes}")]
pub struct InvalidPeerKey {
    /// How many it has.
    pub bytes: usize,
}

/// What a worker's tickets are made with: the worker and its coordinator have it, for as long as the worker's process
/// lives. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerKey(Arc<[u8]>);

impl std::fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerKey").finish_non_exhaustive()
    }
}

impl PeerKey {
    /// A new one.
    pub fn random() -> PeerKey {
        PeerKey(Arc::new(rand::random::<[u8; 32]>()))
    }

    /// Reads one that a worker sent.
    pub fn new(bytes: &[u8]) -> Result<PeerKey, InvalidPeerKey> {
        if (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes.len()) {
            Ok(PeerKey(bytes.into()))
        } else {
            Err(InvalidPeerKey { bytes: bytes.len() })
        }
    }

    /// Its bytes, for the one message that carries them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Opens a layer.
    pub fn ticket(&self, layer: &LayerId) -> Vec<u8> {
        self.mac(layer).finalize().into_bytes().to_vec()
    }

    /// Whether a ticket is one of this layer.
    pub(super) fn opens(&self, layer: &LayerId, ticket: &[u8]) -> bool {
        self.mac(layer).verify_slice(ticket).is_ok()
    }

    fn mac(&self, layer: &LayerId) -> Hmac<Sha256> {
        // A key of any length does.
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.chain_update(FORM).chain_update(layer.to_string())
    }
}
