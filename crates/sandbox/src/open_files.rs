//! How many files this process may have open: each layer below a RUN and each connection is one, and shells and service
//! managers let programs have 1,024.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than this is not needed, and makes programs slow that close all that might be open.
const ENOUGH: u64 = 1 << 16;

/// The limit that this process was started with, where it has another now.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Lets this process have as many files open as it may need; its RUNs keep the limit of before.
pub fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let more = hard.min(ENOUGH);
    if soft < more && setrlimit(Resource::RLIMIT_NOFILE, more, hard).is_ok() {
        BEFORE.get_or_init(|| soft);
    }
}

/// The limit for RUNs, where it is not this process's own.
pub(crate) fn before() -> Option<u64> {
    BEFORE.get().copied()
}

/// Gives a process the limit of before.
pub(crate) fn lower(before: u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What is not allowed now was not before either.
        let _refused = setrlimit(Resource::RLIMIT_NOFILE, before.min(hard), hard);
    }
}
