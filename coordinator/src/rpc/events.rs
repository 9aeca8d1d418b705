//! The events of a build in the form in which they are kept and sent.

use std::collections::BTreeMap;

use dcbuild_model::UnixTime;
use dcbuild_progress::{Log, Status, Update, Vertex, VertexId, VertexState, Warning};
use dcbuild_proto::document::{self, Outcome, Question};
use dcbuild_proto::pb;
use prost::Message as _;

use crate::build::Build;

/// Events read from a journal at a time.
pub(crate) const READ_MAX: usize = 64;

pub(crate) fn encode_update(update: Update) -> Vec<u8> {
    pb::BuildEvent { number: 0, event: Some(update.into()) }.encode_to_vec()
}

pub(crate) fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let finished = pb::Finished { outcome: document::to_bytes(outcome).into() };
    let event = Some(pb::build_event::Event::Finished(finished));
    pb::BuildEvent { number: 0, event }.encode_to_vec()
}

/// Reads a kept event; its number is its place.
pub(super) fn decode(number: u64, kept: &[u8]) -> Option<pb::BuildEvent> {
    let event = pb::BuildEvent::decode(kept).ok()?;
    Some(pb::BuildEvent { number, ..event })
}

/// A question; it takes no number of its own, so that a client that attaches again misses nothing.
pub(super) fn question(number: u64, question: u64, ask: &Question) -> pb::BuildEvent {
    let ask = document::to_bytes(ask).into();
    let question = pb::Question { question, ask };
    let event = Some(pb::build_event::Event::Question(question));
    pb::BuildEvent { number, event }
}

pub(super) fn caught_up(number: u64, now: UnixTime) -> pb::BuildEvent {
    let event = Some(pb::build_event::Event::CaughtUp(pb::CaughtUp { now: Some(now.into()) }));
    pb::BuildEvent { number, event }
}

fn each(build: &Build) -> impl Iterator<Item = pb::build_event::Event> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let part = build.journal.read(at, READ_MAX).ok().filter(|part| !part.is_empty())?;
        at += u64::try_from(part.len()).unwrap_or(u64::MAX);
        Some(part)
    })
    .flatten()
    .filter_map(|kept| decode(0, &kept)?.event)
}

/// All that was told of a build, but its end.
pub(crate) fn updates(build: &Build) -> impl Iterator<Item = Update> + '_ {
    use pb::build_event::Event;
    each(build).filter_map(|event| match event {
        Event::Vertex(vertex) => Vertex::try_from(vertex).ok().map(Update::Vertex),
        Event::Status(status) => Status::try_from(status).ok().map(Update::Status),
        Event::Log(log) => Log::try_from(log).ok().map(Update::Log),
        Event::Warning(warning) => Warning::try_from(warning).ok().map(Update::Warning),
        Event::Question(_) | Event::Finished(_) | Event::CaughtUp(_) => None,
    })
}

/// Whether a build's end was told.
pub(crate) fn is_told(build: &Build) -> bool {
    let count = build.journal.count();
    let last = build.journal.read(count.saturating_sub(1), 1).unwrap_or_default();
    last.iter()
        .filter_map(|kept| decode(0, kept)?.event)
        .any(|event| matches!(event, pb::build_event::Event::Finished(_)))
}

/// How far each vertex was told to be.
pub(crate) fn shown(build: &Build) -> BTreeMap<VertexId, VertexState> {
    let vertex = |update| match update {
        Update::Vertex(vertex) => Some((vertex.id, vertex.state)),
        Update::Status(_) | Update::Log(_) | Update::Warning(_) => None,
    };
    updates(build).filter_map(vertex).collect()
}
