//! What every role does once: read the configuration and the environment, start tracing, turn signals into a token, tell
//! the time, print an error, and tell what is wrong with an encrypted connection.
//!
//! Nothing else may read the environment or the clock. Start with [`Config::load`] and [`Env`].

pub mod clock;
pub mod config;
pub mod docker;
pub mod env;
pub mod report;
pub mod signals;
pub mod tls;
pub mod trace;
pub mod units;

pub use clock::{Clock, SystemClock, new_bits};
pub use config::{Config, LoadConfigError, Mistake, RegistryTable};
pub use docker::{Proxies, ProxiesError};
pub use env::Env;
pub use report::{Hint, report, report_with_hint, story};
pub use signals::signals;
pub use tls::{NOT_AN_AUTHORITY, TlsFault, find_cause};
pub use trace::start_tracing;
pub use units::{ByteSize, docker_size, parse_duration};
