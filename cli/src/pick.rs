//! Which of the images that have a name are meant: by a pattern of names, as `docker images NAME` has it, or by a filter.

use dcbuild_oci::ImageRef;
use dcbuild_tree::Pattern;

/// What an image must be like to be listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pick {
    /// Its name is one of a pattern's.
    Named(Pattern),
    /// It has no name, or it has one.
    Dangling(bool),
}

impl Pick {
    /// Reads a name or a pattern of names.
    pub(crate) fn name(text: &str) -> Result<Pick, String> {
        Pattern::parse(text.as_bytes()).map(Pick::Named).map_err(|error| error.to_string())
    }

    /// Reads a filter of docker's.
    pub(crate) fn filter(text: &str) -> Result<Pick, String> {
        match text.split_once('=') {
            Some(("reference", pattern)) => Pick::name(pattern),
            Some(("dangling", "true" | "1")) => Ok(Pick::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Pick::Dangling(false)),
            _ => {
                Err("there is no such filter: reference=PATTERN and dangling=true are known".into())
            }
        }
    }

    /// Whether an image of a name is meant.
    fn takes(&self, name: &str) -> bool {
        let Pick::Named(pattern) = self else {
            // What is kept has a name.
            return *self == Pick::Dangling(false);
        };
        let Ok(image) = name.parse::<ImageRef>() else {
            return pattern.matches(name.as_bytes());
        };
        let repository = image.repository();
        // As docker: the name with its tag, or without; and each as it is written in full.
        [image.familiar(), repository.familiar(), image.to_string(), repository.to_string()]
            .iter()
            .any(|name| pattern.matches(name.as_bytes()))
    }
}

/// Whether an image is meant: of several names or patterns it may be any, as with docker, and of a filter that it is one.
pub(crate) fn takes<'p>(picks: impl Iterator<Item = &'p Pick>, name: &str) -> bool {
    let (names, others): (Vec<&Pick>, Vec<&Pick>) =
        picks.partition(|pick| matches!(pick, Pick::Named(_)));
    let any = |kind: &Vec<&Pick>| kind.is_empty() || kind.iter().any(|pick| pick.takes(name));
    any(&names) && any(&others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_picked_as_docker_picks_them() {
        for (pattern, name, want) in [
            ("app", "docker.io/library/app:1", true),
            ("app:1", "docker.io/library/app:1", true),
            ("app:2", "docker.io/library/app:1", false),
            ("ap", "docker.io/library/app:1", false),
            ("ap*", "docker.io/library/app:1", true),
            ("*p:?", "docker.io/library/app:1", true),
            ("*:1", "docker.io/library/app:1", true),
            ("team/*", "docker.io/team/app:1", true),
            ("*", "docker.io/team/app:1", false),
            ("*/*", "docker.io/team/app:1", true),
            ("docker.io/library/app", "docker.io/library/app:1", true),
            ("h:5000/app", "h:5000/app:1", true),
            ("a[p-q]p", "docker.io/library/app:1", true),
            ("", "docker.io/library/app:1", false),
        ] {
            let pick = Pick::name(pattern).unwrap();
            assert_eq!(pick.takes(name), want, "{pattern} {name}");
            assert_eq!(Pick::filter(&format!("reference={pattern}")), Ok(pick));
        }
        assert!(!Pick::filter("dangling=true").unwrap().takes("docker.io/library/app:1"));
        assert!(Pick::filter("dangling=false").unwrap().takes("docker.io/library/app:1"));
        for wrong in ["dangling", "label=x", "reference=[a", "before=x"] {
            assert!(Pick::filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_several_names_any_counts_and_each_kind_of_filter() {
        let (app, base) = (Pick::name("app").unwrap(), Pick::name("base").unwrap());
        let (named, none) = (Pick::Dangling(false), Pick::Dangling(true));
        for (picks, want) in [
            (vec![], true),
            (vec![&base], false),
            (vec![&base, &app], true),
            (vec![&app, &named], true),
            (vec![&app, &none], false),
            (vec![&none, &named], true),
        ] {
            let name = "docker.io/library/app:1";
            assert_eq!(takes(picks.iter().copied(), name), want, "{picks:?}");
        }
    }
}
