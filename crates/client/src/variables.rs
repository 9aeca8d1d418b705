//! The variables of the environment that tell docker's builder what to do: how those are read that count here, and what is
//! said of those that do not.

use dcbuild_process::Env;
use dcbuild_progress::{Colour, Look, Palette};
use dcbuild_registry::{DockerLogins, Secret};

use crate::FlagError;

/// A truth value as Go reads it; none if it is none.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The value of a variable; none if it is not set, or empty.
fn value<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).filter(|value| !value.is_empty())
}

/// The truth value of a variable; none if it is not set.
pub(crate) fn switched(env: &Env, variable: &'static str) -> Result<Option<bool>, FlagError> {
    let Some(written) = value(env, variable) else { return Ok(None) };
    let instead = "set it to true or false, or unset it";
    let wrong = || FlagError::Variable { variable, value: written.to_owned(), instead };
    switch(written).map(Some).ok_or_else(wrong)
}

/// Whether warnings go into the metadata file.
pub(crate) fn tells_warnings(env: &Env) -> Result<bool, FlagError> {
    Ok(switched(env, "BUILDX_METADATA_WARNINGS")?.unwrap_or(false))
}

/// What is asked of the repository that a context's folder belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a variable of its own")]
pub struct GitAsked {
    /// Provenance names commit and origin.
    pub info: bool,
    /// The image has labels with commit, origin and Dockerfile.
    pub labels: bool,
    /// The commit says whether something was changed since.
    pub dirt: bool,
}

impl GitAsked {
    pub(crate) fn read(env: &Env) -> Result<GitAsked, FlagError> {
        const LABELS: &str = "BUILDX_GIT_LABELS";
        let labels = match value(env, LABELS) {
            None => false,
            Some("full") => true,
            Some(other) => switch(other).ok_or_else(|| FlagError::Variable {
                variable: LABELS,
                value: other.to_owned(),
                instead: "set it to 1, full or 0, or unset it",
            })?,
        };
        let info = switched(env, "BUILDX_GIT_INFO")?.unwrap_or(true);
        let dirt = switched(env, "BUILDX_GIT_CHECK_DIRTY")?.unwrap_or(false);
        Ok(GitAsked { info, labels, dirt })
    }
}

/// How a terminal is drawn for.
pub(crate) fn look(env: &Env) -> Look {
    let palette = value(env, COLOURS).map(|text| Palette::parse(text).0).unwrap_or_default();
    let colour = if env.no_color() { Colour::Off } else { Colour::On(palette) };
    Look { colour, log_lines: log_lines(env).unwrap_or(Look::LOG_LINES) }
}

fn log_lines(env: &Env) -> Option<usize> {
    value(env, LOG_LINES)?.parse().ok().filter(|lines| *lines > 0)
}

const COLOURS: &str = "BUILDKIT_COLORS";
const LOG_LINES: &str = "BUILDKIT_TTY_LOG_LINES";

/// Variables that buildx knows and that change nothing here, with what their user should know.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    (
        "BUILDX_BUILDER",
        "names a builder of docker's: `build` builds on this machine, `submit` on a cluster",
    ),
    (
        "BUILDKIT_HOST",
        "names a BuildKit daemon: `build` builds on this machine, `submit` on the cluster of DCBUILD_COORDINATOR",
    ),
    ("BUILDX_CONFIG", "names a folder of docker's builders, and dcbuild has none"),
    ("BUILDX_CPU_PROFILE", "asks for a profile of buildx: --debug logs what dcbuild does"),
    ("BUILDX_MEM_PROFILE", "asks for a profile of buildx: --debug logs what dcbuild does"),
];

/// Switches that buildx knows and that change nothing here when they are on, or off.
const SWITCHES_WITHOUT_EFFECT: [(&str, bool, &str); 3] = [
    (
        "BUILDX_EXPERIMENTAL",
        true,
        "turns on what buildx tries out, such as its debugger, and dcbuild has none of that",
    ),
    (
        "BUILDX_DEFAULT_POLICY",
        true,
        "asks for docker's own policy on images of its frontends, and dcbuild runs no frontend",
    ),
    ("DOCKER_BUILDKIT", false, "asks for docker's older builder: dcbuild builds as BuildKit does"),
];

/// Where docker keeps its credentials for registries.
pub fn docker_logins(env: &Env) -> DockerLogins {
    let environment = env.docker_auth_config().map(|text| Secret::new(text.to_owned()));
    DockerLogins { folder: env.docker_config(), environment }
}

/// What is said of variables that are set and change nothing.
pub fn without_effect(env: &Env) -> Vec<String> {
    let skipped =
        |name: &str, written: &str, why: &str| format!("{name}={written} is skipped: it {why}");
    let mut said = Vec::new();
    for (name, why) in WITHOUT_EFFECT {
        let usual = |written: &&str| name == "BUILDX_BUILDER" && *written == "default";
        if let Some(written) = value(env, name).filter(|written| !usual(written)) {
            said.push(skipped(name, written, why));
        }
    }
    for (name, when, why) in SWITCHES_WITHOUT_EFFECT {
        if let Some(written) = value(env, name).filter(|written| switch(written) == Some(when)) {
            said.push(skipped(name, written, why));
        }
    }
    let odd = value(env, COLOURS).map(|text| Palette::parse(text).1).unwrap_or_default();
    for part in odd {
        said.push(format!(
            "'{part}' of {COLOURS} is skipped: it is none of run=, error=, cancel= and warning= with a colour"
        ));
    }
    if let Some(problem) = docker_logins(env).problem() {
        // As docker has it; the value is a secret.
        said.push(format!("DOCKER_AUTH_CONFIG is skipped: {problem}"));
    }
    if let (Some(written), None) = (value(env, LOG_LINES), log_lines(env)) {
        said.push(skipped(LOG_LINES, written, "is no number of lines"));
    }
    said
}

/// Refuses to pass over a variable that asks for a check which nobody makes here.
pub(crate) fn refuse_unchecked(env: &Env, scanner: Option<&str>) -> Result<(), FlagError> {
    const VARIABLE: &str = "BUILDX_DEFAULT_POLICY";
    let own = scanner.is_some_and(|name| name.contains("docker/buildkit-syft-scanner"));
    if !own || switched(env, VARIABLE)? != Some(true) {
        return Ok(());
    }
    Err(FlagError::Conflict {
        first: format!("{VARIABLE}=1"),
        second: "--sbom by docker's scanner".into(),
        instead: "dcbuild does not verify who signed that image: unset the variable, or name another scanner by its \
                  digest, --sbom=generator=IMAGE@sha256:...",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(variables: &[(&str, &str)]) -> Vec<String> {
        without_effect(&variables.iter().copied().collect())
    }

    #[test]
    fn what_changes_nothing_is_named() {
        for (name, written) in [
            ("BUILDX_BUILDER", "ci"),
            ("BUILDKIT_HOST", "tcp://host:1234"),
            ("BUILDX_CONFIG", "/x"),
            ("BUILDX_CPU_PROFILE", "x.prof"),
            ("BUILDX_MEM_PROFILE", "x.prof"),
            ("BUILDX_EXPERIMENTAL", "1"),
            ("BUILDX_DEFAULT_POLICY", "true"),
            ("DOCKER_BUILDKIT", "0"),
            ("BUILDKIT_TTY_LOG_LINES", "many"),
        ] {
            let said = said(&[(name, written)]);
            let begin = format!("{name}={written} is skipped: ");
            assert!(matches!(said.as_slice(), [one] if one.starts_with(&begin)), "{said:?}");
        }
        let odd = said(&[("BUILDKIT_COLORS", "run=red:error=pinkish")]);
        assert!(
            odd.len() == 1 && odd[0].starts_with("'error=pinkish' of BUILDKIT_COLORS"),
            "{odd:?}"
        );
    }

    #[test]
    fn credentials_that_are_none_are_named_without_a_word_of_them() {
        let said = said(&[("DOCKER_AUTH_CONFIG", "hunter2")]);
        assert_eq!(said, ["DOCKER_AUTH_CONFIG is skipped: it is no docker config, from line 1 on"]);
        let env = |text: &str| Env::from_iter([("DOCKER_AUTH_CONFIG", text)]);
        assert_eq!(
            without_effect(&env(r#"{"auths":{"h":{"auth":"dTpw"}}}"#)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_counts_or_is_so_anyway_is_not_named() {
        let quiet = [
            ("BUILDX_BUILDER", "default"),
            ("BUILDX_EXPERIMENTAL", "0"),
            ("BUILDX_DEFAULT_POLICY", "false"),
            ("DOCKER_BUILDKIT", "1"),
            ("BUILDKIT_TTY_LOG_LINES", "12"),
            ("BUILDKIT_COLORS", "run=red"),
            ("BUILDKIT_PROGRESS", "plain"),
            ("BUILDX_NO_DEFAULT_LOAD", "1"),
            ("BUILDX_NO_DEFAULT_ATTESTATIONS", "1"),
            ("BUILDX_GIT_LABELS", "full"),
            ("BUILDX_METADATA_WARNINGS", "1"),
            ("BUILDX_CONFIG", ""),
        ];
        assert_eq!(said(&quiet), Vec::<String>::new());
    }

    #[test]
    fn a_terminal_looks_as_it_is_asked_to() {
        let env = |variables: &[(&str, &str)]| -> Env { variables.iter().copied().collect() };
        assert_eq!(look(&env(&[])), Look::default());
        let asked = look(&env(&[("BUILDKIT_TTY_LOG_LINES", "12"), (COLOURS, "run=red")]));
        assert_eq!(asked.log_lines, 12);
        assert_eq!(asked.colour, Colour::On(Palette::parse("run=red").0));
        assert_eq!(look(&env(&[("NO_COLOR", "1"), (COLOURS, "run=red")])).colour, Colour::Off);
    }

    #[test]
    fn git_is_asked_as_much_as_is_wanted() {
        let read =
            |variables: &[(&str, &str)]| GitAsked::read(&variables.iter().copied().collect());
        let usual = GitAsked { info: true, labels: false, dirt: false };
        assert_eq!(read(&[]).unwrap(), usual);
        for written in ["1", "full", "T"] {
            let asked = read(&[("BUILDX_GIT_LABELS", written)]).unwrap();
            assert_eq!(asked, GitAsked { labels: true, ..usual }, "{written}");
        }
        let asked = read(&[("BUILDX_GIT_INFO", "0"), ("BUILDX_GIT_CHECK_DIRTY", "true")]).unwrap();
        assert_eq!(asked, GitAsked { info: false, labels: false, dirt: true });
        for name in ["BUILDX_GIT_LABELS", "BUILDX_GIT_INFO", "BUILDX_GIT_CHECK_DIRTY"] {
            let error = read(&[(name, "perhaps")]).unwrap_err().to_string();
            assert_eq!(error, format!("{name} cannot be 'perhaps'"));
        }
    }
}
