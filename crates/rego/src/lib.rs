//! Policies in Rego: what they say of the sources of a build.
//!
//! A policy is a program, so it is run by the client, which wrote it, and never by a coordinator. It sees what buildx
//! shows it (`input.image`, `input.git`, `input.http`, `input.local`, `input.env`) and answers with `decision`. What it
//! could ask that nobody here can tell it, such as who signed an image, is refused by its name when it is loaded: a
//! policy that is answered with nothing where it expects something would let through what it should not. Start with
//! [`Policies::load`] and [`Policies::judge`].

mod error;
mod evaluate;
mod files;
mod git;
mod input;
mod load;
mod scan;

use std::path::PathBuf;

use dcbuild_plan::policy::{PolicyAsk, Verdict};

pub use error::RegoError;
pub use files::Folders;
pub use input::Environment;
use scan::Reads;

/// How much there is to show of what policies are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Detail {
    /// Nothing.
    None,
    /// What they decide, and what they print.
    #[default]
    Decisions,
    /// Also what they see.
    Inputs,
}

/// A policy's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyFile {
    /// What it is called in messages.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Policies that are ready to be asked; each must let a source through.
#[derive(Debug)]
pub struct Policies {
    all: Vec<Policy>,
    folders: Folders,
    env: Environment,
    detail: Detail,
}

struct Policy {
    name: String,
    /// Where it lies.
    folder: PathBuf,
    engine: regorus::Engine,
    reads: Reads,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What policies say of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// What they say.
    pub verdict: Verdict,
    /// What there is to show of it, in lines.
    pub log: Vec<String>,
}

impl Policies {
    /// Reads and checks policies. Blocks.
    pub fn load(
        files: &[PolicyFile],
        folders: Folders,
        env: Environment,
        detail: Detail,
    ) -> Result<Policies, RegoError> {
        let all = files.iter().map(|file| load::load(file, &folders));
        let all = all.collect::<Result<_, _>>()?;
        Ok(Policies { all, folders, env, detail })
    }

    /// Asks all policies about a source. Blocks.
    pub fn judge(&self, ask: &PolicyAsk) -> Judgement {
        let mut log = Vec::new();
        let verdict = self.verdict(ask, &mut log);
        Judgement { verdict, log }
    }

    fn verdict(&self, ask: &PolicyAsk, log: &mut Vec<String>) -> Verdict {
        let seen = match input::seen(ask) {
            Ok(seen) => seen,
            Err(problem) => return Verdict::Failed { message: problem, hint: None },
        };
        let asked = self.all.iter().filter(|policy| !ask.pinned_by.contains(&policy.name));
        let asked: Vec<&Policy> = asked.collect();
        if ask.facts.is_none() {
            let wanted = asked.iter().flat_map(|policy| policy.reads.of(seen.kind, &seen.unknown));
            let mut wanted: Vec<&str> = wanted.collect();
            wanted.sort_unstable();
            wanted.dedup();
            if !wanted.is_empty() {
                if self.detail == Detail::Inputs {
                    log.push(format!("not known yet: {}", wanted.join(", ")));
                }
                return Verdict::Open {};
            }
        }
        for policy in asked {
            match self.one(policy, ask, &seen, log) {
                Ok(Verdict::Allowed {}) => {}
                Ok(verdict) => return verdict,
                Err(error) => {
                    let hint = error.hint().map(str::to_owned);
                    return Verdict::Failed { message: error.to_string(), hint };
                }
            }
        }
        Verdict::Allowed {}
    }
}
