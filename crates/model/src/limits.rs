//! Every input, queue and wait has a number, and they all stand here.

use std::time::Duration;

/// A Dockerfile, with its heredocs.
pub const DOCKERFILE_BYTES_MAX: usize = 4 << 20;
/// A file of a source policy.
pub const POLICY_BYTES_MAX: u64 = 256 << 10;
/// How long a policy in Rego may think about one source.
pub const POLICY_TIME_MAX: Duration = Duration::from_secs(10);
/// One line of a Dockerfile, before continuations are joined (the limit of `BuildKit` too).
pub const LINE_BYTES_MAX: usize = 65_535;
/// One word after its variables are expanded.
pub const EXPANSION_BYTES_MAX: usize = 1 << 20;
/// Platforms of one build.
pub const PLATFORMS_MAX: usize = 64;
/// Stages of a Dockerfile.
pub const STAGES_MAX: usize = 10_000;
/// Instructions of a Dockerfile.
pub const INSTRUCTIONS_MAX: usize = 100_000;
/// Rounds of questions and answers between plan and client.
pub const PLAN_ROUNDS_MAX: usize = 64;
/// Symbolic links followed while one path is resolved.
pub const LINKS_MAX: usize = 255;
/// Folders above an entry of a tree.
pub const DEPTH_MAX: usize = 4_096;
/// A path inside a tree.
pub const PATH_BYTES_MAX: usize = 16 << 10;
/// An image manifest or index (OCI asks registries for 4 MiB).
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// An image config.
pub const CONFIG_BYTES_MAX: usize = 8 << 20;
/// Layers of one image.
pub const LAYERS_MAX: usize = 500;
/// An `/etc/passwd` or `/etc/group` read for `--chown` and USER.
pub const PASSWD_BYTES_MAX: u64 = 10 << 20;
/// A PAX header of an archive.
pub const PAX_BYTES_MAX: u64 = 1 << 20;
/// Entries of one layer or archive.
pub const ENTRIES_MAX: u64 = 10_000_000;
/// How much an archive may grow when decompressed, once past [`RATIO_FREE_BYTES`].
pub const RATIO_MAX: u64 = 1_000;
/// What an archive may grow to before its ratio counts.
pub const RATIO_FREE_BYTES: u64 = 10 << 20;
/// The dictionary of an archive in xz, in MiB.
pub const XZ_DICTIONARY_MIB_MAX: u32 = 256;
/// What the holes of an archive's sparse files may add up to before [`RATIO_MAX`] counts for them.
pub const HOLES_FREE_BYTES: u64 = 4 << 30;
/// Written pieces of one sparse file in an archive.
pub const PIECES_MAX: usize = 1 << 20;
/// The stored log of one step.
pub const STEP_LOG_BYTES_MAX: u64 = 1 << 30;
/// A message on the wire.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
const _: () = assert!(DOCKERFILE_BYTES_MAX < MESSAGE_BYTES_MAX, "it travels in one message");
/// A message to or from an ssh agent (OpenSSH takes no longer one).
pub const AGENT_MESSAGE_BYTES_MAX: usize = 256 << 10;
/// A piece of a blob on the wire.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The compact graph of one build in the log.
pub const GRAPH_BYTES_MAX: usize = 1 << 20;
/// The variables, commands and texts of a build's steps and stages together; each RUN has all variables of its stage.
pub const PLAN_BYTES_MAX: usize = 32 << 20;
/// A job, as a worker is told of it.
pub const LEASE_BYTES_MAX: usize = 63 << 20;
/// The plan of a build, as it is written down.
pub const PLANNED_BYTES_MAX: usize = 128 << 20;
/// How long a client may be away that gives what can be done without: what it lends, better credentials.
pub const LENDER_AWAY_MAX: Duration = Duration::from_secs(10);
/// How long a client's credentials are used before it is asked again: some helpers give out what lasts for minutes.
pub const CREDENTIALS_FRESH: Duration = Duration::from_mins(4);
/// How many coordinators begin to plan a build: a plan that ends each of them must not keep the next from the others.
pub const PLANNING_STARTS_MAX: u32 = 5;
/// Attempts of a job before its build fails.
pub const ATTEMPTS_MAX: u32 = 3;
/// How long a lease lasts without a renewal.
pub const LEASE: Duration = Duration::from_secs(5);
/// How long a lost client may take to attach again.
pub const CLIENT_GONE: Duration = Duration::from_mins(5);
/// Processes inside one step.
pub const STEP_PROCESSES_MAX: u64 = 4_096;
/// How long a process gets between SIGTERM and SIGKILL at a cancel.
pub const STEP_KILL_AFTER: Duration = Duration::from_millis(500);
/// A file that is fetched for ADD or as a context, and a context on standard input.
pub const FETCH_BYTES_MAX: u64 = 16 << 30;
/// How long one fetch may take in all.
pub const FETCH_TIME_MAX: Duration = Duration::from_hours(1);
/// How long a fetch may be silent.
pub const FETCH_SILENCE_MAX: Duration = Duration::from_mins(1);
/// Redirects that one fetch follows.
pub const FETCH_REDIRECTS_MAX: usize = 10;
