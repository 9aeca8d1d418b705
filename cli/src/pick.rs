//! Which of the images that have a name are meant: by a pattern of names, as `docker images NAME` has it, or by a filter.

use dcbuild_oci::ImageRef;

/// What an image must be like to be listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pick {
    /// Its name is one of a pattern's.
    Named(String),
    /// It has no name, or it has one.
    Dangling(bool),
}

impl Pick {
    /// Reads a name or a pattern of names.
    pub(crate) fn name(text: &str) -> Result<Pick, String> {
        if text.contains('[') {
            return Err("of patterns, * and ? are understood".into());
        }
        Ok(Pick::Named(text.to_owned()))
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
    pub(crate) fn takes(&self, name: &str) -> bool {
        let Pick::Named(pattern) = self else {
            // What is kept has a name.
            return *self == Pick::Dangling(false);
        };
        let Ok(image) = name.parse::<ImageRef>() else { return matches(pattern, name) };
        let repository = image.repository();
        // As docker: the name with its tag, or without; and each as it is written in full.
        [image.familiar(), repository.familiar(), image.to_string(), repository.to_string()]
            .iter()
            .any(|name| matches(pattern, name))
    }
}

/// Whether a name is one of a pattern's, in which `*` is any part and `?` any character but a slash.
fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = pattern.get(first.len_utf8()..).unwrap_or_default();
    let next = name.chars().next();
    let after = || next.and_then(|next| name.get(next.len_utf8()..)).unwrap_or_default();
    match (first, next) {
        ('*', None) => matches(rest, name),
        ('*', Some(next)) => matches(rest, name) || (next != '/' && matches(pattern, after())),
        ('?', Some(next)) => next != '/' && matches(rest, after()),
        (first, Some(next)) => first == next && matches(rest, after()),
        (_, None) => false,
    }
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
            ("", "docker.io/library/app:1", false),
        ] {
            let pick = Pick::name(pattern).unwrap();
            assert_eq!(pick.takes(name), want, "{pattern} {name}");
            assert_eq!(Pick::filter(&format!("reference={pattern}")), Ok(pick));
        }
        assert!(!Pick::filter("dangling=true").unwrap().takes("docker.io/library/app:1"));
        assert!(Pick::filter("dangling=false").unwrap().takes("docker.io/library/app:1"));
        for wrong in ["dangling", "label=x", "reference=[a]", "before=x"] {
            assert!(Pick::filter(wrong).is_err(), "{wrong}");
        }
    }
}
