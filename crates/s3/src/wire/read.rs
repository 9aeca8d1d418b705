//! Requests that change nothing.

use bytes::{Bytes, BytesMut};
use dcbuild_model::UnixTime;
use dcbuild_store::{Patience, Progress};

use super::{Wire, failed};
use crate::failure::{Failure, FailureKind};

/// A piece of an object.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    /// The size of the whole object.
    pub(crate) size: u64,
}

/// An object in a listing.
pub(crate) struct ListedKey {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: UnixTime,
}

/// A part of a listing.
pub(crate) struct ListedPage {
    pub(crate) keys: Vec<ListedKey>,
    pub(crate) more: bool,
    /// The server's word for what is behind it.
    next: Option<String>,
}

const LIST: &str = "ListObjectsV2";

/// What is said of a server that gives its first page whatever it is asked to go on with.
const AGAIN: &str = "the server lists the same keys again, and says that there are more: it knows neither \
                     continuation-token nor start-after";

impl Wire {
    /// The size of an object.
    pub(crate) async fn head(&self, key: &str) -> Result<u64, Failure> {
        self.call("HeadObject", Patience::READ, |_| async {
            let request = self.client.head_object().bucket(&self.bucket).key(key);
            let found = request.send().await.map_err(failed("HeadObject"))?;
            Ok(unsigned(found.content_length))
        })
        .await
    }

    /// Reads at most `length` bytes of an object, at least one; none where they would begin behind its end.
    pub(crate) async fn get(&self, key: &str, start: u64, length: u64) -> Result<Fetched, Failure> {
        let fetched = self
            .call("GetObject", Patience::READ, |progress| self.fetch(key, start, length, progress));
        match fetched.await {
            Err(failure) if failure.kind == FailureKind::PastEnd => {
                Ok(Fetched { bytes: Bytes::new(), size: start })
            }
            fetched => fetched,
        }
    }

    async fn fetch(
        &self,
        key: &str,
        start: u64,
        length_max: u64,
        progress: Progress,
    ) -> Result<Fetched, Failure> {
        const REQUEST: &str = "GetObject";
        let range = format!("bytes={start}-{}", start.saturating_add(length_max - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(key).range(range);
        let found = request.send().await.map_err(failed(REQUEST))?;
        progress.made();
        let length = unsigned(found.content_length);
        // A server that does not know ranges answers with the whole, which is as good if that is what was meant.
        let whole = (start == 0).then_some(length);
        let said = found.content_range.as_deref();
        let size = said.map_or(whole, |said| size_in(said, start)).filter(|_| length <= length_max);
        let Some(size) = size else {
            let answer = format!("{length} bytes of range {said:?} came in place of {start}");
            return Err(Failure::new(FailureKind::Refused, REQUEST, answer));
        };
        // Whoever answers may answer with less than was asked for; what is missing would be a hole.
        let wanted = length_max.min(size.saturating_sub(start));
        if length < wanted {
            let answer = format!("{length} bytes came of {wanted}");
            return Err(Failure::new(FailureKind::Unreachable, REQUEST, answer));
        }
        let mut body = found.body;
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = body.next().await {
            progress.made();
            let broke = |error: aws_smithy_types::byte_stream::error::Error| {
                Failure::new(FailureKind::Unreachable, REQUEST, error.to_string())
            };
            bytes.extend_from_slice(&piece.map_err(broke)?);
        }
        if u64::try_from(bytes.len()) != Ok(length) {
            let answer = format!("{} bytes came of {length}", bytes.len());
            return Err(Failure::new(FailureKind::Unreachable, REQUEST, answer));
        }
        Ok(Fetched { bytes: bytes.freeze(), size })
    }

    /// Lists keys that begin with `prefix`, those behind `after` only. Servers do not agree on the order of keys, so what
    /// was seen already is told by its place in the page.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<ListedPage, Failure> {
        let mut token = after.and_then(|after| self.ends.token(prefix, after));
        let mut is_again = false;
        loop {
            let mut page = self.page(prefix, after, token.as_deref()).await?;
            let seen = page.keys.iter().rposition(|listed| Some(listed.key.as_str()) == after);
            page.keys.drain(..seen.map_or(0, |seen| seen + 1));
            if !page.more {
                return Ok(page);
            }
            let next = page.next.take();
            if let Some(last) = page.keys.last() {
                if let Some(next) = next {
                    self.ends.note(prefix, &last.key, next);
                }
                return Ok(page);
            }
            // Nothing is new. A server that gives a page again is asked once in the other way: by the key, or by its own word.
            token = match (seen, next) {
                (None, Some(next)) if Some(&next) != token.as_ref() => Some(next),
                (None, _) => return Ok(page),
                (Some(_), _) if token.is_some() && !is_again => None,
                (Some(_), Some(next)) if token.is_none() && !is_again => Some(next),
                (Some(_), _) => return Err(Failure::new(FailureKind::Refused, LIST, AGAIN)),
            };
            is_again |= seen.is_some();
        }
    }

    /// One page: from the place that the server has a word for, else behind a key, else from the start.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<ListedPage, Failure> {
        let patience = if is_of_one_key(prefix) { Patience::READ } else { Patience::SLOW };
        let after = after.filter(|_| token.is_none());
        self.call(LIST, patience, |_| async {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
            let request = request
                .set_start_after(after.map(Into::into))
                .set_continuation_token(token.map(Into::into));
            let listed = request.send().await.map_err(failed(LIST))?;
            let more = listed.is_truncated == Some(true);
            let next = listed.next_continuation_token.filter(|next| !next.is_empty());
            let keys = listed.contents.unwrap_or_default().into_iter().filter_map(|object| {
                Some(ListedKey {
                    key: object.key?,
                    size: unsigned(object.size),
                    modified: object.last_modified.map(unix_time).unwrap_or_default(),
                })
            });
            Ok(ListedPage { keys: keys.collect(), more, next })
        })
        .await
    }
}

/// Whether a listing is of what lies right below one digest, which is little: whoever asks for it waits for it.
fn is_of_one_key(prefix: &str) -> bool {
    let last = prefix.strip_suffix('/').and_then(|above| above.rsplit('/').next());
    last.is_some_and(|last| last.len() == 64 && last.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A size, which the client gives a sign that it never has.
fn unsigned(size: Option<i64>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

pub(super) fn unix_time(time: aws_smithy_types::DateTime) -> UnixTime {
    UnixTime { secs: time.secs(), nanos: time.subsec_nanos() }
}

/// The size of the whole in `bytes 0-9/100`, if the range begins where it should.
fn size_in(content_range: &str, start: u64) -> Option<u64> {
    let (range, size) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let begins = range.split_once('-')?.0.parse::<u64>().ok()? == start;
    size.parse().ok().filter(|_| begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_one_key_are_told_from_long_ones() {
        let hex = "0a".repeat(32);
        for (prefix, want) in [
            (format!("p/scope/local/step/{hex}/"), true),
            (format!("p/layer/{hex}"), false),
            ("p/scope/".into(), false),
            (String::new(), false),
            ("/".into(), false),
        ] {
            assert_eq!(is_of_one_key(&prefix), want, "{prefix}");
        }
    }

    #[test]
    fn a_range_tells_the_size_of_the_whole() {
        assert_eq!(size_in("bytes 0-9/100", 0), Some(100));
        assert_eq!(size_in("bytes 5-9/100", 0), None);
        assert_eq!(size_in("bytes 5-9/*", 5), None);
    }
}
