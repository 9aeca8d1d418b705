//! Where `tracing` writes: standard error.

use std::io::Write;

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
        .with_writer(|| OneLine(std::io::stderr()));
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|source| StartTracingError::Started { source })
}

/// Writes each event as one line, whatever was said in it: who counts or reads lines of a log has events then.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// An event comes whole.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let (body, end) = match event.strip_suffix(b"\n") {
            Some(body) => (body, "\n"),
            None => (event, ""),
        };
        let mut line = Vec::with_capacity(event.len());
        for byte in body {
            match byte {
                b'\n' => line.extend_from_slice(br"\n"),
                b'\r' => line.extend_from_slice(br"\r"),
                byte => line.push(*byte),
            }
        }
        line.extend_from_slice(end.as_bytes());
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// What libraries say of things that our own errors say better: these warn of each place without credentials, and in the
/// end whoever needs some says so once. A level that names one goes before this.
const QUIET: &str = "aws_config=error,aws_runtime=error";

pub(crate) fn filter(level: &str) -> Result<EnvFilter, StartTracingError> {
    let quiet = if level.is_empty() { QUIET.to_owned() } else { format!("{QUIET},{level}") };
    EnvFilter::try_new(quiet)
        .map_err(|source| StartTracingError::Level { level: level.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut log = OneLine(Vec::new());
        log.write_all(b"WARN it failed error=first\n  caused by: second\r\n\n").unwrap();
        log.write_all(b"INFO next\n").unwrap();
        let text = String::from_utf8(log.0).unwrap();
        assert_eq!(text, "WARN it failed error=first\\n  caused by: second\\r\\n\nINFO next\n");
    }

    #[test]
    fn a_level_that_names_a_quiet_library_goes_before_its_silence() {
        for (level, filter_of_aws) in [
            ("info", "aws_config=error"),
            ("aws_config=debug,info", "aws_config=debug"),
            ("", "aws_config=error"),
        ] {
            let text = filter(level).unwrap().to_string();
            let directives: Vec<&str> = text.split(',').collect();
            assert!(directives.contains(&filter_of_aws), "{level}: {text}");
            assert_eq!(text.matches("aws_config").count(), 1, "{text}");
        }
        assert!(filter("a=b=c").is_err());
    }
}
