//! The whole cache of a store, carried to another place and back.

use dcbuild_carry::{
    Artifact, Carried, Found, Packs, Place, PlaceError, SendError, Sent, TakeError, Wish, look,
    pack, send, take,
};
use dcbuild_model::Scope;
use dcbuild_store::StoreError;
use dcbuild_store::sweep::ThingKind;

use crate::config::Stores;

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Records.
    pub records: u64,
    /// Records that were left, since a layer of theirs is not to be had.
    pub left: u64,
    /// What the place lacked.
    pub sent: Sent,
}

/// Says why a cache was not carried.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The store failed.
    #[error("could not use the store")]
    Store(#[from] StoreError),
    /// It could not be written.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It could not be looked at.
    #[error("could not read what lies at {place}")]
    Look {
        /// The place.
        place: String,
        /// Why not.
        source: PlaceError,
    },
    /// It could not be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// There is no exported cache.
    #[error("{place} holds no exported cache: {reason}")]
    NoCache {
        /// The place.
        place: String,
        /// What is there instead.
        reason: String,
    },
}

/// Sends the records of a scope, and all that they speak of, to a place.
pub async fn export(
    stores: &Stores,
    scope: &Scope,
    packs: &dyn Packs,
    place: &dyn Place,
) -> Result<Exported, CarryError> {
    let inventory = stores.swept.inventory().await?;
    let records = stores.swept.records(&inventory).await?;
    let ours = records.into_iter().filter(|(place, record)| {
        inventory.things.get(*place).is_some_and(|thing| {
            matches!(&thing.kind, ThingKind::Record { scope: of, key } if of == scope && record.recipe == *key)
        })
    });
    let records: Vec<_> = ours.map(|(_, record)| record).collect();
    let (scope, seal) = (scope.clone(), stores.seal.clone());
    let wish = Wish { scope, seal, compression: None, within: None };
    let packed = pack(&stores.shelf(), packs, &records, &wish).await?;
    let sent = send(&Artifact::new(&packed), &stores.blobs, place).await?;
    Ok(Exported { records: packed.records, left: packed.left, sent })
}

/// Takes an exported cache into a scope, as far as the store's own seal opens it.
pub async fn import(
    stores: &Stores,
    scope: &Scope,
    place: &dyn Place,
) -> Result<Carried, CarryError> {
    let found = look(place).await;
    let found = found.map_err(|source| CarryError::Look { place: place.name(), source })?;
    let reason = match found {
        Found::Records(borrowed) => {
            return Ok(take(&borrowed, place, &stores.shelf(), scope, &stores.seal).await?);
        }
        Found::Nothing => {
            "nothing is there that `dcbuild cache export` or --cache-to wrote".to_owned()
        }
        Found::BuildKit => {
            "what is there is a cache of BuildKit, which dcbuild does not read".to_owned()
        }
        Found::Image => {
            "what is there is an image without records (type=inline puts them into one)".to_owned()
        }
        Found::Other(what) => format!("what is there is {what}"),
    };
    Err(CarryError::NoCache { place: place.name(), reason })
}
