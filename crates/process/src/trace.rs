//! Where `tracing` writes: standard error.

use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Says why tracing did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartTracingError {
    /// The level is no filter.
    #[error("'{level}' is not a log level such as \"info\" or \"info,dcbuild_worker=debug\"")]
    Level {
        /// The level, as given.
        level: String,
        /// The parser's answer.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else traces already.
    #[error("could not start tracing")]
    Started {
        /// What the subscriber says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Starts tracing to standard error.
pub fn start_tracing(level: &str, format: LogFormat) -> Result<(), StartTracingError> {
    let filter = filter(level)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|source| StartTracingError::Started { source })
}

pub(crate) fn filter(level: &str) -> Result<EnvFilter, StartTracingError> {
    EnvFilter::try_new(level)
        .map_err(|source| StartTracingError::Level { level: level.into(), source })
}
