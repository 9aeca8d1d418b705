//! The whole cache of a store, carried to another place and back.

use std::collections::BTreeMap;

use dcbuild_carry::{
    Artifact, Carried, Found, Packed, Packs, Place, PlaceError, SendError, Sent, TakeError, Wish,
    look, pack, send, take,
};
use dcbuild_model::{Record, Scope};
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
    /// There is nothing to be exported.
    #[error("there is nothing to export: {reason}")]
    Nothing {
        /// What there is instead.
        reason: String,
    },
    /// There is no exported cache.
    #[error("{place} holds no exported cache: {reason}")]
    NoCache {
        /// The place.
        place: String,
        /// What is there instead.
        reason: String,
    },
}

/// Sends the records of a store, and all that they speak of, to a place: those of all scopes, or those of one with the ones
/// below it, and with what these may read of the ones above.
pub async fn export(
    stores: &Stores,
    scope: Option<&Scope>,
    packs: &dyn Packs,
    place: &dyn Place,
) -> Result<Exported, CarryError> {
    let inventory = stores.swept.inventory().await?;
    let mut by_scope: BTreeMap<Scope, Vec<Record>> = BTreeMap::new();
    for (place, record) in stores.swept.records(&inventory).await? {
        if let Some(thing) = inventory.things.get(place)
            && let ThingKind::Record { scope, key } = &thing.kind
            && record.recipe == *key
        {
            by_scope.entry(scope.clone()).or_default().push(record);
        }
    }
    let is_meant =
        |of: &Scope| scope.is_none_or(|scope| of.is_within(scope) || scope.is_within(of));
    let has_own = by_scope.keys().any(|of| scope.is_none_or(|scope| of.is_within(scope)));
    if !has_own {
        return Err(CarryError::Nothing { reason: whose(scope, by_scope.keys()) });
    }
    let mut whole: Option<Packed> = None;
    for (scope, records) in by_scope.into_iter().filter(|(of, _)| is_meant(of)) {
        let wish = Wish { scope, seal: stores.seal.clone(), compression: None, within: None };
        let packed = pack(&stores.shelf(), packs, &records, &wish).await?;
        match &mut whole {
            Some(whole) => whole.join(packed),
            None => whole = Some(packed),
        }
    }
    let Some(packed) = whole else {
        return Err(CarryError::Nothing { reason: whose(scope, [].iter()) });
    };
    let sent = send(&Artifact::new(&packed), &stores.blobs, place).await?;
    Ok(Exported { records: packed.records, left: packed.left, sent })
}

/// Whose records a store has that has none of what is meant.
fn whose<'a>(scope: Option<&Scope>, there: impl Iterator<Item = &'a Scope>) -> String {
    let there: Vec<&str> = there.map(Scope::as_str).collect();
    match scope {
        Some(scope) if !there.is_empty() => {
            format!("the scope {scope} has no records here, {} has", there.join(", "))
        }
        _ => "the store has no records".to_owned(),
    }
}

/// Takes an exported cache, as far as the store's own seal opens it; into another scope than its own, if one is given.
pub async fn import(
    stores: &Stores,
    scope: Option<&Scope>,
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
