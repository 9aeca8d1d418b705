//! A command line as whoever knows docker types it: words and flags that docker has before a command.

use std::collections::VecDeque;
use std::ffi::OsString;

use dcbuild_process::Env;
use dcbuild_process::docker::{TLS_CA_FLAG, TLS_CERT_FLAG, TLS_KEY_FLAG};

/// A command line in dcbuild's own words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Typed {
    /// The words, the program's name first.
    pub(crate) words: Vec<OsString>,
    /// Variables that flags before the command stand for.
    variables: Vec<(&'static str, String)>,
}

/// What a flag of docker's before the command stands for.
#[derive(Clone, Copy)]
enum Meaning {
    /// A variable with the flag's value.
    Variable(&'static str),
    /// TLS to the daemon, or none.
    Tls,
    /// TLS to the daemon with a look at its certificate, or without.
    TlsVerify,
    /// dcbuild's own word for it.
    Own(&'static str),
    /// A log of what dcbuild does.
    Debug,
    /// How much of a log.
    Level,
    /// A builder, which the flag of that name behind `build` is told of.
    Builder,
}

/// docker's flags before a command, in all their spellings.
const FLAGS: [(&[&str], Meaning); 11] = [
    (&["--context", "-c"], Meaning::Variable("DOCKER_CONTEXT")),
    (&["--host", "-H"], Meaning::Variable("DOCKER_HOST")),
    (&["--tlsverify"], Meaning::TlsVerify),
    (&["--tls"], Meaning::Tls),
    (&["--tlscacert"], Meaning::Variable(TLS_CA_FLAG)),
    (&["--tlscert"], Meaning::Variable(TLS_CERT_FLAG)),
    (&["--tlskey"], Meaning::Variable(TLS_KEY_FLAG)),
    (&["-v"], Meaning::Own("--version")),
    (&["--debug", "-D"], Meaning::Debug),
    (&["--log-level", "-l"], Meaning::Level),
    (&["--builder"], Meaning::Builder),
];

/// dcbuild's own flags before a command that have a value.
const OWN: [&str; 2] = ["--config", "--log"];

/// Words of docker's behind which others of its commands stand.
const GROUPS: [&str; 3] = ["buildx", "builder", "image"];
/// Commands that mean the same with such a word and without.
const SAME: [&str; 4] = ["build", "b", "du", "prune"];

/// docker's words for commands that have other ones here.
const OTHERS: [([&str; 2], &str); 6] = [
    (["buildx", "version"], "version"),
    (["image", "ls"], "images"),
    (["image", "list"], "images"),
    (["image", "rm"], "rmi"),
    (["system", "df"], "du"),
    (["system", "prune"], "prune"),
];

impl Typed {
    /// Reads a command line.
    pub(crate) fn read(words: Vec<OsString>) -> Typed {
        let mut typed = Typed::default();
        let mut rest = VecDeque::from(words);
        typed.words.extend(rest.pop_front());
        let mut builder = Vec::new();
        typed.lead(&mut rest, &mut builder);
        let group = rest.front().and_then(|word| word.to_str()).map(str::to_owned);
        if matches!(group.as_deref(), Some("buildx" | "builder" | "image" | "system")) {
            let group = rest.pop_front();
            typed.lead(&mut rest, &mut builder);
            if let Some(group) = group {
                rest.push_front(group);
            }
        }
        let own = typed.words.len();
        typed.words.extend(rest);
        typed.rename(own);
        if typed.words.get(own).is_some_and(|word| word == "build") {
            let behind = typed.words.split_off(own + 1);
            typed.words.extend(builder.into_iter().chain(behind));
        }
        typed
    }

    /// The environment with what the flags stand for.
    pub(crate) fn env(&self, env: Env) -> Env {
        self.variables.iter().fold(env, |env, (name, value)| env.with(name, value))
    }

    /// Takes the flags off that stand before a command.
    fn lead(&mut self, rest: &mut VecDeque<OsString>, builder: &mut Vec<OsString>) {
        while let Some(word) = rest.front().and_then(|word| word.to_str()).map(str::to_owned) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            if OWN.contains(&name) {
                self.words.extend(rest.pop_front());
                if value.is_none() {
                    self.words.extend(rest.pop_front());
                }
                continue;
            }
            let Some((_, meaning)) = FLAGS.iter().find(|(names, _)| names.contains(&name)) else {
                return;
            };
            rest.pop_front();
            let mut argument = || {
                value.clone().or_else(|| rest.pop_front()?.into_string().ok()).unwrap_or_default()
            };
            match meaning {
                Meaning::Variable(variable) => self.variables.push((*variable, argument())),
                Meaning::Tls => self.variables.push(("DOCKER_TLS", switch(value.as_deref()))),
                Meaning::TlsVerify => {
                    self.variables.push(("DOCKER_TLS_VERIFY", switch(value.as_deref())));
                    // As with docker, `--tlsverify=false` means TLS without a look at the certificate.
                    self.variables.push(("DOCKER_TLS", switch(None)));
                }
                Meaning::Own(word) => self.words.push(word.into()),
                Meaning::Debug => self.log("debug"),
                Meaning::Level => match argument().as_str() {
                    // Less than a warning dcbuild says only where it is asked for all.
                    "info" | "warn" => {}
                    "fatal" => self.log("error"),
                    level => self.log(level),
                },
                Meaning::Builder => builder.extend(["--builder".into(), argument().into()]),
            }
        }
    }

    fn log(&mut self, level: &str) {
        self.words.extend(["--log".into(), level.into()]);
    }

    /// Leaves out the word that docker puts before some commands: `buildx build`, `builder prune`, `image build`; and takes
    /// docker's word for some others. The command stands at `own`.
    fn rename(&mut self, own: usize) {
        let is = |words: &[OsString], at: usize, known: &[&str]| {
            words.get(at).and_then(|word| word.to_str()).is_some_and(|word| known.contains(&word))
        };
        if is(&self.words, own, &GROUPS) && is(&self.words, own + 1, &SAME) {
            self.words.remove(own);
        }
        if is(&self.words, own, &["b"]) {
            self.words[own] = "build".into();
        }
        for (theirs, ours) in OTHERS {
            if is(&self.words, own, &theirs[..1]) && is(&self.words, own + 1, &theirs[1..]) {
                self.words.remove(own);
                self.words[own] = ours.into();
            }
        }
    }

    /// The words from the command on, behind the program's name.
    pub(crate) fn command(&self) -> impl Iterator<Item = &str> {
        let mut words = self.words.iter().skip(1).map(|word| word.to_str().unwrap_or_default());
        let mut next = words.next();
        while let Some(word) = next {
            let name = word.split('=').next().unwrap_or_default();
            if !OWN.contains(&name) {
                break;
            }
            next = if word.contains('=') { words.next() } else { words.nth(1) };
        }
        next.into_iter().chain(words)
    }
}

/// The value of a variable that stands for a switch.
fn switch(value: Option<&str>) -> String {
    let is_off = matches!(value, Some("false" | "False" | "FALSE" | "0" | "f" | "F"));
    if is_off { "" } else { "1" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Typed {
        let words = std::iter::once("dcbuild").chain(text.split_whitespace());
        Typed::read(words.map(Into::into).collect())
    }

    fn words(text: &str) -> String {
        let typed = typed(text);
        let words: Vec<&str> =
            typed.words.iter().skip(1).map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn docker_may_have_a_word_more() {
        for (given, want) in [
            ("buildx build .", "build ."),
            ("builder b .", "build ."),
            ("image build -t a .", "build -t a ."),
            ("buildx du", "du"),
            ("builder prune --all", "prune --all"),
            ("b .", "build ."),
            ("build buildx", "build buildx"),
            ("buildx ls", "buildx ls"),
            ("buildx version", "version"),
            ("image ls", "images"),
            ("image rm app", "rmi app"),
            ("system df", "du"),
            ("system prune -af", "prune -af"),
            ("image", "image"),
            ("", ""),
        ] {
            assert_eq!(words(given), want, "{given}");
        }
    }

    #[test]
    fn docker_has_flags_before_the_command() {
        for (given, want) in [
            ("buildx --builder ci build .", "build --builder ci ."),
            ("buildx --builder=ci b -t a .", "build --builder ci -t a ."),
            ("--builder ci buildx prune -a", "prune -a"),
            ("buildx -D build .", "--log debug build ."),
            ("-D build .", "--log debug build ."),
            ("--debug --config c.toml build .", "--log debug --config c.toml build ."),
            ("-l debug build .", "--log debug build ."),
            ("-l info build .", "build ."),
            ("--log-level=fatal build .", "--log error build ."),
            ("--context far build .", "build ."),
            ("-c far -H tcp://h:1 buildx build -c 512 .", "build -c 512 ."),
            ("--tlsverify build .", "build ."),
            ("--tlsverify=false build .", "build ."),
            ("--config x build --builder ci .", "--config x build --builder ci ."),
            ("--help", "--help"),
            ("-v", "--version"),
            ("--tlscacert /ca --tlscert=/c --tlskey /k build .", "build ."),
            ("build -D .", "build -D ."),
            ("--context", ""),
        ] {
            assert_eq!(words(given), want, "{given}");
        }
    }

    #[test]
    fn flags_stand_for_variables() {
        let env = |text: &str| typed(text).env(Env::from_iter([("DOCKER_HOST", "unix:///s")]));
        let asked = env("--context=far -H tcp://h:1 --tlsverify buildx build .");
        assert_eq!(asked.get("DOCKER_CONTEXT"), Some("far"));
        assert_eq!(asked.docker_host(), Some("tcp://h:1"));
        assert_eq!(asked.get("DOCKER_TLS_VERIFY"), Some("1"));
        let asked = env("--tlsverify=false build -c 512 .");
        assert_eq!(asked.get("DOCKER_TLS_VERIFY"), Some(""));
        assert_eq!(asked.get("DOCKER_TLS"), Some("1"));
        assert_eq!(asked.get("DOCKER_CONTEXT"), None);
        assert_eq!(asked.docker_host(), Some("unix:///s"));
    }

    #[test]
    fn files_of_certificates_go_before_those_of_the_folder() {
        let line = "--tls --tlscacert=ca --tlscert c.pem --tlskey k.pem -H tcp://d build .";
        let asked = typed(line).env(Env::from_iter([("DOCKER_CERT_PATH", "/none")]));
        let daemon = dcbuild_process::docker::daemon(&asked).unwrap();
        let identity = Some(("c.pem".into(), "k.pem".into()));
        assert_eq!(daemon.address, "tcp://d:2376");
        assert_eq!(daemon.tls.map(|tls| tls.identity), Some(identity));
        assert_eq!(typed("--tls=false build .").env(Env::default()).get("DOCKER_TLS"), Some(""));
    }

    #[test]
    fn the_command_is_found_behind_the_flags() {
        for (given, want) in [
            ("--config x bake -f y", "bake -f y"),
            ("--log=debug -D buildx bake", "buildx bake"),
            ("build .", "build ."),
            ("", ""),
        ] {
            assert_eq!(typed(given).command().collect::<Vec<_>>().join(" "), want, "{given}");
        }
    }
}
