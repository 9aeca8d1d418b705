//! HEALTHCHECK.

use crate::ast::{CommandForm, HealthTiming, Healthcheck};
use crate::duration;
use crate::error::ParseErrorKind;
use crate::flags::{FlagKind, Flags, Known};
use crate::instruction::{Parsed, form};
use crate::node::{Args, Node};

const FLAGS: Known = &[
    ("interval", FlagKind::Text),
    ("timeout", FlagKind::Text),
    ("start-period", FlagKind::Text),
    ("start-interval", FlagKind::Text),
    ("retries", FlagKind::Text),
];

const INTERVAL_NANOS_MIN: u64 = 1_000_000;

pub(super) fn parse(node: &Node) -> Parsed<Healthcheck> {
    let Args::Health { kind, command } = &node.args else {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("HEALTHCHECK")));
    };
    let command = form(command);
    let is_empty = match &command {
        CommandForm::Shell(text) => text.is_empty(),
        CommandForm::Exec(words) => words.is_empty(),
    };
    if kind == "NONE" {
        if !is_empty {
            return Err(node.refuse(ParseErrorKind::HealthcheckNone));
        }
        return Ok(Healthcheck::None);
    }
    let flags = node.checked_flags(FLAGS)?;
    if kind != "CMD" {
        return Err(node.refuse(ParseErrorKind::HealthcheckType(kind.clone())));
    }
    if is_empty {
        return Err(node.refuse(ParseErrorKind::HealthcheckCommand));
    }
    let timing = timing(&flags).map_err(|kind| node.refuse(kind))?;
    Ok(Healthcheck::Cmd { command, timing })
}

fn timing(flags: &Flags) -> Result<HealthTiming, ParseErrorKind> {
    Ok(HealthTiming {
        interval_nanos: nanos(flags, "interval")?,
        timeout_nanos: nanos(flags, "timeout")?,
        start_period_nanos: nanos(flags, "start-period")?,
        start_interval_nanos: nanos(flags, "start-interval")?,
        retries: retries(flags)?,
    })
}

fn nanos(flags: &Flags, name: &'static str) -> Result<u64, ParseErrorKind> {
    let Some(text) = flags.filled(name) else { return Ok(0) };
    let duration = duration::parse(&text)?;
    let too_small = duration.negative || duration.nanos < INTERVAL_NANOS_MIN;
    if duration.nanos != 0 && too_small {
        return Err(ParseErrorKind::IntervalTooSmall(name));
    }
    Ok(duration.nanos)
}

fn retries(flags: &Flags) -> Result<u32, ParseErrorKind> {
    let Some(text) = flags.filled("retries") else { return Ok(0) };
    let retries: i32 = text.parse().map_err(|_| ParseErrorKind::Retries(text))?;
    u32::try_from(retries).map_err(|_| ParseErrorKind::NegativeRetries(retries))
}
