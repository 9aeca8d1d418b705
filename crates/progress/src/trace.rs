//! What is known of a build so far; the displays draw from it.

use std::collections::BTreeMap;

use dcbuild_model::UnixTime;

use crate::update::{Vertex, VertexId, VertexState};

/// The vertices by id, and the order in which they began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    vertices: BTreeMap<VertexId, Vertex>,
    /// Those that have begun; the place is what `#1` counts.
    begun: Vec<VertexId>,
    places: BTreeMap<VertexId, usize>,
    started: Option<UnixTime>,
}

impl Trace {
    /// Takes a new or changed vertex and says whether anything about it is new.
    pub(crate) fn put(&mut self, vertex: &Vertex) -> bool {
        let known = self.vertices.get(&vertex.id);
        let ended = known.is_some_and(|known| known.state.completed().is_some());
        // A late copy of an earlier state does not open a vertex again; only a new run of it does.
        if known == Some(vertex) || (ended && matches!(vertex.state, VertexState::Waiting)) {
            return false;
        }
        if let Some(started) = vertex.state.started() {
            self.started = Some(self.started.map_or(started, |first| first.min(started)));
            if !self.places.contains_key(&vertex.id) {
                self.begun.push(vertex.id);
                self.places.insert(vertex.id, self.begun.len());
            }
        }
        self.vertices.insert(vertex.id, vertex.clone());
        true
    }

    /// A vertex by its id.
    pub(crate) fn get(&self, id: VertexId) -> Option<&Vertex> {
        self.vertices.get(&id)
    }

    /// Those that have begun, in that order.
    pub(crate) fn begun(&self) -> impl Iterator<Item = &Vertex> {
        self.begun.iter().filter_map(|id| self.vertices.get(id))
    }

    /// The number of a vertex that has begun, from 1.
    pub(crate) fn number(&self, id: VertexId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.vertices.len()
    }

    /// How many have ended.
    pub(crate) fn completed(&self) -> usize {
        self.vertices.values().filter(|vertex| vertex.state.completed().is_some()).count()
    }

    /// When the last vertex ended that has ended.
    pub(crate) fn ended(&self) -> Option<UnixTime> {
        self.vertices.values().filter_map(|vertex| vertex.state.completed()).max()
    }

    /// When the first vertex began.
    pub(crate) fn started(&self) -> Option<UnixTime> {
        self.started
    }
}
