//! What a build asks of its client, until it is answered: a client that attaches again is asked again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dcbuild_proto::document::{Answer, Question, RegistryCredentials};
use tokio::sync::oneshot;

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    Credentials(Option<RegistryCredentials>),
}

/// Says why an answer was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the answer to question {question} is of another kind than the question")]
pub(crate) struct OtherKind {
    question: u64,
}

struct Open {
    ask: Question,
    reply: oneshot::Sender<Reply>,
}

/// The open questions of a build.
pub(crate) struct Questions(Mutex<State>);

struct State {
    next: u64,
    open: BTreeMap<u64, Open>,
}

impl Questions {
    /// Numbers begin at `first`, which no earlier life of this coordinator has used.
    pub(crate) fn new(first: u64) -> Questions {
        Questions(Mutex::new(State { next: first, open: BTreeMap::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ask(&self, ask: Question) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        // Who asked may have gone, as a step does that is stopped while it waits.
        state.open.retain(|_, open| !open.reply.is_closed());
        state.open.insert(number, Open { ask, reply });
        answer
    }

    /// The open questions from a number on.
    pub(crate) fn from(&self, number: u64) -> Vec<(u64, Question)> {
        self.state().open.range(number..).map(|(at, open)| (*at, open.ask.clone())).collect()
    }

    /// Takes an answer; one to a question that is not open any more is no fault.
    pub(crate) fn answer(&self, question: u64, reply: Reply) -> Result<(), OtherKind> {
        let mut state = self.state();
        let Some(open) = state.open.get(&question) else { return Ok(()) };
        if !fits(&open.ask, &reply) {
            return Err(OtherKind { question });
        }
        if let Some(open) = state.open.remove(&question) {
            // Whoever asked may have gone.
            drop(open.reply.send(reply));
        }
        Ok(())
    }
}

fn fits(ask: &Question, reply: &Reply) -> bool {
    matches!(
        (ask, reply),
        (_, Reply::Answer(Answer::Failed { .. }))
            | (Question::Selection { .. }, Reply::Answer(Answer::Selection { .. }))
            | (
                Question::Pack { .. },
                Reply::Answer(Answer::Packed { .. } | Answer::Changed { .. })
            )
            | (Question::Policy { .. }, Reply::Answer(Answer::Policy { .. }))
            | (Question::Agent { .. }, Reply::Answer(Answer::Agent { .. }))
            | (Question::Layout { .. }, Reply::Answer(Answer::Layout { .. }))
            | (Question::Cache { .. }, Reply::Answer(Answer::Cache { .. }))
            | (Question::CacheBlob { .. }, Reply::Answer(Answer::Stored { .. }))
            | (Question::Credentials { .. }, Reply::Credentials(_))
    )
}
