//! Files that an instruction copies from the context though `.dockerignore` leaves them out.

use dcbuild_model::{Named, Remote};
use dcbuild_tree::Ignore;
use dcbuild_tree::ignore::patterns;

use crate::request::Request;

/// What is left out of the context.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored {
    rules: Ignore,
    /// Whether nothing is left of it.
    all: bool,
}

impl Ignored {
    /// What a request's ignore file leaves out; a file that is malformed is an error elsewhere.
    pub(crate) fn of(request: &Request) -> Ignored {
        let text = request.ignore.as_bytes();
        let patterns = patterns(text);
        let takes_in = patterns.iter().any(|pattern| pattern.starts_with(b"!"));
        let all = !takes_in && patterns.iter().any(|pattern| matches!(&pattern[..], b"*" | b"**"));
        Ignored { rules: Ignore::parse(text).unwrap_or_default(), all }
    }

    /// The source of a COPY or ADD as the context has it, where nothing of it is left.
    pub(crate) fn holds(&self, source: &str) -> Option<String> {
        if self.rules.is_empty()
            || matches!(Remote::parse(source, Named::ByDockerfile), Ok(Some(_)) | Err(_))
        {
            return None;
        }
        let path = cleaned(source);
        // A folder of which a `!` pattern may take something in is not empty.
        let out = match path.as_str() {
            "." => self.all,
            path => self.rules.matches(path.as_bytes()) && self.rules.skips_whole(path.as_bytes()),
        };
        out.then_some(path)
    }
}

/// A path from the top of the context.
fn cleaned(source: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in source.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    if names.is_empty() { ".".to_owned() } else { names.join("/") }
}
