//! The instructions that change nothing but the image's config.

use std::collections::BTreeSet;

use dcbuild_dockerfile::{CommandForm, InstructionKind, Pair, Word, expand_words};
use dcbuild_oci::config::Healthcheck;

use super::{Stage, Walk};
use crate::plan::PlanError;
use crate::stage::{expansion, refuse_large};
use crate::{expose, history};

impl Walk<'_> {
    pub(super) fn configure(
        &mut self,
        stage: &mut Stage,
        kind: &InstructionKind,
    ) -> Result<(), PlanError> {
        match kind {
            InstructionKind::Env(pairs) => self.env(stage, pairs)?,
            InstructionKind::Label(pairs) => self.label(stage, pairs)?,
            InstructionKind::Maintainer(name) => {
                name.as_str().clone_into(&mut stage.image.author);
                stage.line(format!("MAINTAINER {name}"));
            }
            InstructionKind::Cmd(form) => {
                let argv = with_shell(stage, form);
                stage.line(format!("CMD {}", history::quoted(&argv)));
                stage.image.config.cmd = argv;
                stage.image.config.args_escaped = true;
                stage.cmd_set = true;
            }
            InstructionKind::Entrypoint(form) => {
                let argv = with_shell(stage, form);
                stage.line(format!("ENTRYPOINT {}", history::quoted(&argv)));
                stage.image.config.entrypoint = argv;
                if !stage.cmd_set {
                    stage.image.config.cmd.clear();
                }
            }
            InstructionKind::Shell(shell) => {
                stage.line(format!("SHELL {}", history::plain(shell)));
                stage.image.config.shell.clone_from(shell);
            }
            InstructionKind::Healthcheck(health) => healthcheck(stage, health)?,
            InstructionKind::Expose(words) => self.expose(stage, words)?,
            InstructionKind::User(user) => {
                let user = self.word(stage, user.as_str())?;
                stage.line(format!("USER {user}"));
                stage.image.config.user = user;
            }
            InstructionKind::Volume(words) => self.volume(stage, words)?,
            InstructionKind::Stopsignal(signal) => {
                let signal = self.word(stage, signal.as_str())?;
                if !is_signal(&signal) {
                    return Err(PlanError::at(stage.at, format!("invalid signal: {signal}")));
                }
                stage.line(format!("STOPSIGNAL {signal}"));
                stage.image.config.stop_signal = signal;
            }
            InstructionKind::Onbuild(onbuild) => {
                stage.image.config.on_build.push(onbuild.expression.clone());
            }
            InstructionKind::Add(_)
            | InstructionKind::Arg(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Run(_)
            | InstructionKind::Workdir(_) => {}
        }
        Ok(())
    }

    /// Expands all pairs with the variables as they were before the instruction.
    fn pairs(&self, stage: &Stage, pairs: &[Pair]) -> Result<Vec<(String, String)>, PlanError> {
        let expand = |pair: &Pair| {
            Ok((self.word(stage, pair.key.as_str())?, self.word(stage, pair.value.as_str())?))
        };
        pairs.iter().map(expand).collect()
    }

    fn env(&mut self, stage: &mut Stage, pairs: &[Pair]) -> Result<(), PlanError> {
        let pairs = self.pairs(stage, pairs)?;
        let texts: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for (name, value) in &pairs {
            stage.env.set(name, value);
            let text = format!("{name}={value}");
            let env = &mut stage.image.config.env;
            let known = env.iter_mut().find(|known| {
                known.split_once('=').map_or(known.as_str(), |(name, _)| name) == name
            });
            match known {
                Some(known) => *known = text,
                None => env.push(text),
            }
        }
        refuse_large(&stage.env, stage.at)?;
        stage.line(format!("ENV {}", texts.join(" ")));
        Ok(())
    }

    fn label(&mut self, stage: &mut Stage, pairs: &[Pair]) -> Result<(), PlanError> {
        let pairs = self.pairs(stage, pairs)?;
        let texts: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        stage.image.config.labels.extend(pairs);
        stage.line(format!("LABEL {}", texts.join(" ")));
        Ok(())
    }

    fn expose(&mut self, stage: &mut Stage, words: &[Word]) -> Result<(), PlanError> {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let (mut ports, mut known) = (Vec::new(), BTreeSet::new());
        for word in words {
            let words = expand_words(word.as_str(), &lookup, self.draft.dockerfile.escape());
            for word in words.map_err(expansion(stage.at))? {
                for port in
                    expose::ports(&word).map_err(|message| PlanError::at(stage.at, message))?
                {
                    if known.insert(port.clone()) {
                        ports.push(port);
                    }
                }
            }
        }
        stage.line(format!("EXPOSE {}", history::plain(&ports)));
        stage.image.config.exposed_ports.extend(ports);
        Ok(())
    }

    fn volume(&mut self, stage: &mut Stage, words: &[Word]) -> Result<(), PlanError> {
        let expand = |word: &Word| self.word(stage, word.as_str());
        let volumes = words.iter().map(expand).collect::<Result<Vec<String>, PlanError>>()?;
        if volumes.iter().any(String::is_empty) {
            return Err(PlanError::at(stage.at, "VOLUME specified can not be an empty string"));
        }
        stage.line(format!("VOLUME {}", history::plain(&volumes)));
        stage.image.config.volumes.extend(volumes);
        Ok(())
    }
}

/// The arguments of a command, the shell in front where it is in the shell form.
pub(super) fn with_shell(stage: &Stage, form: &CommandForm) -> Vec<String> {
    match form {
        CommandForm::Exec(argv) => argv.clone(),
        CommandForm::Shell(text) => shell_command(stage, text.clone()),
    }
}

pub(super) fn shell_command(stage: &Stage, text: String) -> Vec<String> {
    let shell = &stage.image.config.shell;
    let mut argv =
        if shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { shell.clone() };
    argv.push(text);
    argv
}

fn healthcheck(
    stage: &mut Stage,
    health: &dcbuild_dockerfile::Healthcheck,
) -> Result<(), PlanError> {
    let health = match health {
        dcbuild_dockerfile::Healthcheck::None => {
            Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() }
        }
        dcbuild_dockerfile::Healthcheck::Cmd { command, timing } => {
            let test = match command {
                CommandForm::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                CommandForm::Exec(argv) => {
                    std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect()
                }
            };
            let nanos = |nanos: u64| {
                i64::try_from(nanos).map_err(|_| {
                    PlanError::at(stage.at, "a HEALTHCHECK time is longer than 292 years")
                })
            };
            Healthcheck {
                test,
                interval: nanos(timing.interval_nanos)?,
                timeout: nanos(timing.timeout_nanos)?,
                start_period: nanos(timing.start_period_nanos)?,
                start_interval: nanos(timing.start_interval_nanos)?,
                retries: i64::from(timing.retries),
            }
        }
    };
    stage.line(format!("HEALTHCHECK {}", history::healthcheck(&health)));
    stage.image.config.healthcheck = Some(health);
    Ok(())
}

/// Names and numbers that docker takes for a signal: with or without SIG, in any case; any number but 0.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 37] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX", "UNUSED",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, max: u32| {
        let offset = name.strip_prefix(prefix).and_then(|offset| offset.parse::<u32>().ok());
        offset.is_some_and(|offset| (1..=max).contains(&offset))
    };
    NAMES.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}
