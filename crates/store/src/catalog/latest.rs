//! Documents whose name says what they are and whose content changes: the store has the last word on them.
//!
//! Each key has one of its own. Who holds several, or holds one that sealed before fields had the names of keys, takes the
//! newest, and what it writes replaces all that it can open: what another key sealed stays.

use dcbuild_model::UnixTime;
use futures::{StreamExt as _, TryStreamExt as _};

use super::seal::OpensOthers;
use super::{AT_ONCE, Catalog, DOCUMENT_BYTES_MAX, Seal, encode, field_of, name_of};
use crate::{IndexKey, ObjectName, StoreError};

/// What such a document says.
pub(super) trait Latest: serde::Serialize + serde::de::DeserializeOwned {
    /// What it is, for people.
    const WHAT: &'static str;
    /// The last part of its name, without a key's.
    const WORD: &'static str;

    /// When it was written.
    fn written(&self) -> UnixTime;
}

/// What is under a name.
pub(super) enum Found<T> {
    Nothing,
    /// Something that does not open, or says nothing.
    Damaged,
    Said(T),
}

impl<T: Latest> Found<T> {
    fn said(self) -> Option<T> {
        match self {
            Found::Said(value) => Some(value),
            Found::Nothing | Found::Damaged => None,
        }
    }

    fn is_as_new_as(&self, other: &T) -> bool {
        matches!(self, Found::Said(value) if value.written() >= other.written())
    }
}

impl Catalog {
    /// The latest document under a key, if our seal opens one.
    pub(super) async fn read_latest<T: Latest>(
        &self,
        key: &IndexKey,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.look_for(key).await?.said())
    }

    /// The same, which tells what is damaged from what is not there.
    pub(super) async fn look_for<T: Latest>(&self, key: &IndexKey) -> Result<Found<T>, StoreError> {
        let seal = &self.inner.parts.seal;
        let own = self.read_one::<T>(&name_of(key, &seal.field(T::WORD))?).await?;
        let others = match (seal.opens_others(), &own) {
            (OpensOthers::No, _) | (OpensOthers::OfOld, Found::Said(_)) => return Ok(own),
            (OpensOthers::OfOld | OpensOthers::Yes, _) => self.other_names::<T>(key).await?,
        };
        let others = self.read_all::<T>(others).await?.into_iter().map(|(_, it)| it);
        Ok(match others.max_by_key(T::written) {
            // Of two that are as new, our own.
            Some(other) if !own.is_as_new_as(&other) => Found::Said(other),
            Some(_) | None => own,
        })
    }

    /// Writes a document under our own key, and takes away what else of ours was there.
    pub(super) async fn put_latest<T: Latest>(
        &self,
        key: &IndexKey,
        value: &T,
    ) -> Result<(), StoreError> {
        let seal = &self.inner.parts.seal;
        let object = name_of(key, &seal.field(T::WORD))?;
        let sealed = seal.close(&object, &encode(T::WHAT, value)?);
        self.objects().put(&object, sealed).await?;
        if seal.opens_others() == OpensOthers::No {
            return Ok(());
        }
        let others = self.read_all::<T>(self.other_names::<T>(key).await?).await?;
        let older: Vec<ObjectName> = others.into_iter().map(|(name, _)| name).collect();
        if older.is_empty() { Ok(()) } else { self.objects().delete(&older).await }
    }

    /// Takes away what our seal opens under a key; says whether there was anything.
    pub(super) async fn remove_latest<T: Latest>(
        &self,
        key: &IndexKey,
    ) -> Result<bool, StoreError> {
        let seal = &self.inner.parts.seal;
        let own = name_of(key, &seal.field(T::WORD))?;
        // What is damaged is to go as well.
        let there = self.objects().get(&own, DOCUMENT_BYTES_MAX).await?.is_some();
        let mut going: Vec<ObjectName> = there.then_some(own).into_iter().collect();
        if seal.opens_others() != OpensOthers::No {
            let others = self.read_all::<T>(self.other_names::<T>(key).await?).await?;
            going.extend(others.into_iter().map(|(name, _)| name));
        }
        if going.is_empty() {
            return Ok(false);
        }
        self.objects().delete(&going).await?;
        Ok(true)
    }

    /// The documents of these names that our seal opens.
    pub(super) async fn read_all<T: Latest>(
        &self,
        names: Vec<ObjectName>,
    ) -> Result<Vec<(ObjectName, T)>, StoreError> {
        let reads = names.into_iter().map(|name| async move {
            let value = self.read_one::<T>(&name).await?.said();
            Ok::<_, StoreError>(value.map(|value| (name, value)))
        });
        let reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE);
        let read: Vec<Option<(ObjectName, T)>> = reads.try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// The names under a key, but for our own, that our seal may open.
    async fn other_names<T: Latest>(&self, key: &IndexKey) -> Result<Vec<ObjectName>, StoreError> {
        let seal = &self.inner.parts.seal;
        let own = seal.field(T::WORD);
        let page = self.objects().list(&format!("{}/", key.0), None).await?;
        let mut names: Vec<ObjectName> = page.objects.into_iter().map(|it| it.name).collect();
        names.retain(|name| {
            let field = field_of(name);
            field != own && Seal::word(field) == T::WORD && !seal.is_foreign(field)
        });
        Ok(names)
    }

    async fn read_one<T: Latest>(&self, object: &ObjectName) -> Result<Found<T>, StoreError> {
        let Some(sealed) = self.objects().get(object, DOCUMENT_BYTES_MAX).await? else {
            return Ok(Found::Nothing);
        };
        let Some(document) = self.open(object, &sealed) else {
            self.unsealed(object);
            return Ok(Found::Damaged);
        };
        let value = serde_json::from_slice(&document);
        let value = value.map_err(|error| self.refuse(T::WHAT, &error));
        Ok(value.map_or(Found::Damaged, Found::Said))
    }
}
