//! What a policy's text speaks of: which fields it reads, so that only those are looked up, and what nobody can tell it.
//!
//! The engine runs a policy whole and cannot say that it met something unknown. So the words of the text decide what is
//! looked up before it runs: every `input.image.labels`; and all of `input.image` where it goes somewhere as a whole.

use std::collections::{BTreeMap, BTreeSet};

use crate::RegoError;
use crate::input::Kind;

/// Fields that nobody here can tell.
const FIELDS: [(&str, &str); 7] = [
    ("hasProvenance", "what lies beside an image in its registry is not read"),
    ("provenance", "what lies beside an image in its registry is not read"),
    ("signatures", "nobody verifies signatures of images"),
    ("pgpSignature", "nobody verifies signatures of git"),
    ("sshSignature", "nobody verifies signatures of git"),
    ("attestationBundle", "nobody verifies attestations of files"),
    ("hasAuth", "credentials of a download are not known to a policy"),
];
/// Functions that nobody here has.
const FUNCTIONS: [&str; 7] = [
    "verify_git_signature",
    "verify_http_pgp_signature",
    "artifact_attestation",
    "github_attestation",
    "docker_github_builder",
    "docker_github_builder_tag",
    "docker_github_builder_signature",
];

/// Which fields of a kind of source are read.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fields {
    All,
    Some(BTreeSet<String>),
}

/// What is read of the input.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reads(BTreeMap<Kind, Fields>);

impl Reads {
    pub(crate) fn add(&mut self, other: Reads) {
        for (kind, fields) in other.0 {
            match fields {
                Fields::All => self.all(kind),
                Fields::Some(fields) => fields.iter().for_each(|field| self.field(kind, field)),
            }
        }
    }

    fn all(&mut self, kind: Kind) {
        self.0.insert(kind, Fields::All);
    }

    fn field(&mut self, kind: Kind, field: &str) {
        let fields = self.0.entry(kind).or_insert_with(|| Fields::Some(BTreeSet::new()));
        if let Fields::Some(fields) = fields {
            fields.insert(field.to_owned());
        }
    }

    /// Which of some fields are read.
    pub(crate) fn of(&self, kind: Kind, fields: &[&'static str]) -> Vec<&'static str> {
        match self.0.get(&kind) {
            None => Vec::new(),
            Some(Fields::All) => fields.to_vec(),
            Some(Fields::Some(read)) => {
                fields.iter().filter(|field| read.contains(**field)).copied().collect()
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Name(String),
    Text(String),
    Mark(char),
    Line,
}

/// The words of a text, each with its line.
fn tokens(text: &str) -> Vec<(Token, usize)> {
    let (mut tokens, mut line) = (Vec::new(), 1);
    let mut rest = text.chars().peekable();
    while let Some(ch) = rest.next() {
        let at = line;
        match ch {
            '\n' => {
                tokens.push((Token::Line, at));
                line += 1;
            }
            '#' => while rest.next_if(|ch| *ch != '\n').is_some() {},
            '"' | '`' => {
                let mut word = String::new();
                while let Some(inner) = rest.next() {
                    match inner {
                        end if end == ch => break,
                        '\\' if ch == '"' => word.extend(rest.next()),
                        '\n' => {
                            line += 1;
                            word.push('\n');
                        }
                        other => word.push(other),
                    }
                }
                tokens.push((Token::Text(word), at));
            }
            ch if ch.is_alphabetic() || ch == '_' => {
                let mut word = String::from(ch);
                while let Some(next) = rest.next_if(|ch| ch.is_alphanumeric() || *ch == '_') {
                    word.push(next);
                }
                tokens.push((Token::Name(word), at));
            }
            ch if ch.is_whitespace() => {}
            ch => tokens.push((Token::Mark(ch), at)),
        }
    }
    tokens
}

/// What a text reads; refuses what nobody can tell it.
pub(crate) fn scan(name: &str, text: &str) -> Result<Reads, RegoError> {
    let tokens = tokens(text);
    let mut reads = Reads::default();
    for (at, (token, line)) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| tokens.get(at)).map(|(token, _)| token);
        let after_dot = before == Some(&Token::Mark('.'));
        let unsupported = |what: &str, why| RegoError::Unsupported {
            name: name.to_owned(),
            line: *line,
            what: what.to_owned(),
            why,
        };
        let refused = |word: &str| FIELDS.iter().find(|(field, _)| *field == word);
        match token {
            Token::Text(word) => {
                if let Some((field, why)) = refused(word) {
                    return Err(unsupported(field, why));
                }
            }
            Token::Name(word) if after_dot => {
                if let Some((field, why)) = refused(word)
                    && !is_label(&tokens[..at])
                {
                    return Err(unsupported(field, why));
                }
            }
            Token::Name(word) if FUNCTIONS.contains(&word.as_str()) => {
                return Err(unsupported(word, "nobody here verifies signatures and attestations"));
            }
            Token::Name(word) if word == "input" => read(&tokens, at, &mut reads),
            Token::Name(_) | Token::Mark(_) | Token::Line => {}
        }
    }
    Ok(reads)
}

/// Whether the words before a dot are those of a label or an argument, whose names mean nothing here.
fn is_label(before: &[(Token, usize)]) -> bool {
    let names = ["labels", "args", "env"];
    let above = before.len().checked_sub(2).and_then(|at| before.get(at));
    matches!(above, Some((Token::Name(name), _)) if names.contains(&name.as_str()))
}

/// Notes what is read behind the word `input`.
fn read(tokens: &[(Token, usize)], at: usize, reads: &mut Reads) {
    let (path, after) = path(tokens, at + 1);
    let kinds = [Kind::Image, Kind::Git, Kind::Http, Kind::Local];
    let Some(first) = path.first() else {
        for kind in kinds {
            reads.all(kind);
        }
        return;
    };
    let Some(kind) = kinds.into_iter().find(|kind| kind.name() == first) else { return };
    match path.get(1) {
        Some(field) => reads.field(kind, field),
        // `allow if input.image` asks what it is, and nothing of it.
        // And `pin_image` takes no more of it than its name.
        None if stands_alone(tokens, at, after) || is_pinned(tokens, at) => {}
        None => reads.all(kind),
    }
}

/// The names behind a word, as far as they are written down, and where they end.
fn path(tokens: &[(Token, usize)], mut at: usize) -> (Vec<String>, usize) {
    let token = |at: usize| tokens.get(at).map(|(token, _)| token);
    let mut path = Vec::new();
    loop {
        match (token(at), token(at + 1), token(at + 2)) {
            (Some(Token::Mark('.')), Some(Token::Name(name)), _) => {
                path.push(name.clone());
                at += 2;
            }
            (Some(Token::Mark('[')), Some(Token::Text(name)), Some(Token::Mark(']'))) => {
                path.push(name.clone());
                at += 3;
            }
            _ => return (path, at),
        }
    }
}

fn is_pinned(tokens: &[(Token, usize)], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
    let (call, name) = (before(1).map(|(token, _)| token), before(2).map(|(token, _)| token));
    call == Some(&Token::Mark('(')) && name == Some(&Token::Name("pin_image".into()))
}

fn stands_alone(tokens: &[(Token, usize)], at: usize, after: usize) -> bool {
    let before = at.checked_sub(1).and_then(|at| tokens.get(at)).map(|(token, _)| token);
    let begins = match before {
        None | Some(Token::Line | Token::Mark('{' | ';')) => true,
        Some(Token::Name(word)) => word == "if" || word == "not",
        Some(Token::Text(_) | Token::Mark(_)) => false,
    };
    let ends = matches!(
        tokens.get(after).map(|(token, _)| token),
        None | Some(Token::Line | Token::Mark('}' | ';'))
    );
    begins && ends
}

/// The packages of `data` that a text imports.
pub(crate) fn imports(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (at, (token, _)) in tokens.iter().enumerate() {
        let follows = tokens.get(at + 1).map(|(token, _)| token);
        if *token == Token::Name("import".into()) && follows == Some(&Token::Name("data".into())) {
            let (path, _) = path(&tokens, at + 2);
            if !path.is_empty() {
                found.push(path.join("."));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kind: Kind, fields: &[&'static str], want: &[&str]) {
        assert_eq!(scan("p.rego", text).unwrap().of(kind, fields), want, "{text}");
    }

    const IMAGE: [&str; 2] = ["checksum", "labels"];

    #[test]
    fn only_what_is_named_is_looked_up() {
        check("allow if input.image.repo == \"a\"", Kind::Image, &IMAGE, &[]);
        check("allow if input.image", Kind::Image, &IMAGE, &[]);
        check("allow if pin_image(input.image, \"sha256:1\")", Kind::Image, &IMAGE, &[]);
        check("allow if {\n input.image\n not input.git\n}", Kind::Image, &IMAGE, &[]);
        check("allow if input.image.labels.a == 1", Kind::Image, &IMAGE, &["labels"]);
        check("allow if input[\"image\"][\"labels\"][x]", Kind::Image, &IMAGE, &["labels"]);
        check("# input.image.labels\na := `input.image.labels`", Kind::Image, &IMAGE, &[]);
        check("a := \"\\\"input.image.labels\"", Kind::Image, &IMAGE, &[]);
        check("allow if input.git.labels", Kind::Image, &IMAGE, &[]);
    }

    #[test]
    fn what_goes_somewhere_as_a_whole_is_looked_up_whole() {
        for text in [
            "x := input.image",
            "allow if f(input.image)",
            "import input.image as img",
            "allow if input.image[x] == 1",
            "allow if walk(input)",
            "x := input",
            "allow if some k, v in input.image",
            "allow if input[x].labels",
        ] {
            check(text, Kind::Image, &IMAGE, &IMAGE);
        }
    }

    #[test]
    fn what_nobody_can_tell_is_refused_by_name() {
        for (text, part) in [
            ("a\nb if input.image.hasProvenance", "p.rego:2: a policy cannot have 'hasProvenance'"),
            ("b if some s in input.image.signatures", "'signatures'"),
            ("b if object.get(input.image, \"signatures\", [])", "'signatures'"),
            ("c := input.git.commit\nb if c.pgpSignature", "p.rego:2: a policy cannot have 'pgpS"),
            ("b if verify_git_signature(input.git.tag, \"k\")", "'verify_git_signature'"),
            ("b if docker_github_builder(input.image, \"r\")", "'docker_github_builder'"),
            ("b if input.http.hasAuth", "'hasAuth'"),
        ] {
            let error = scan("p.rego", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        check("allow if input.image.labels.provenance", Kind::Image, &IMAGE, &["labels"]);
    }

    #[test]
    fn imports_are_found() {
        let text = "package docker\nimport rego.v1\nimport data.lib.names\nimport input.image\nimport data.a as b\n";
        assert_eq!(imports(text), ["lib.names", "a"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(input|image|\\.|\\[|\\]|\"|`|#|\\\\|\n|[a-zé{}]| ){0,60}") {
            drop(scan("p.rego", &text));
            drop(imports(&text));
        }
    }
}
