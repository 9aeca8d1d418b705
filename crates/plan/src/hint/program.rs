//! What a RUN lacked that failed: a program that its base has not, an instruction that became part of it, a JSON form that is
//! none.

use crate::op::RunOp;

/// What shells and the cell say where a program is not found.
const NOT_FOUND: i32 = 127;
/// Where programs are looked for when the environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs that install packages: where each is, its name, and how it is asked for a package.
const INSTALLERS: [(&str, &str, &str); 9] = [
    ("/sbin/apk", "apk", "apk add"),
    ("/usr/bin/apk", "apk", "apk add"),
    ("/usr/bin/apt-get", "apt-get", "apt-get update && apt-get install -y"),
    ("/usr/bin/dnf", "dnf", "dnf install -y"),
    ("/usr/bin/microdnf", "microdnf", "microdnf install -y"),
    ("/usr/bin/yum", "yum", "yum install -y"),
    ("/usr/bin/tdnf", "tdnf", "tdnf install -y"),
    ("/usr/bin/zypper", "zypper", "zypper install -y"),
    ("/usr/bin/pacman", "pacman", "pacman -Sy --noconfirm"),
];
/// Their names, with others of the same.
const MANAGERS: [&str; 11] = [
    "apk", "apt", "apt-get", "dnf", "microdnf", "yum", "tdnf", "zypper", "pacman", "aptitude",
    "dpkg",
];
/// Words that are bash's own, and what other shells have.
const OF_BASH: [&str; 6] = ["source", "[[", "pushd", "popd", "shopt", "mapfile"];
/// Programs that many bases lack.
const TOOLS: [&str; 33] = [
    "bash", "curl", "wget", "git", "make", "cmake", "gcc", "g++", "cc", "python", "python3", "pip",
    "pip3", "node", "npm", "yarn", "go", "java", "perl", "ruby", "unzip", "zip", "xz", "bzip2",
    "tar", "gpg", "jq", "ssh", "rsync", "patch", "file", "openssl", "envsubst",
];
/// The instructions of a Dockerfile.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
/// Words before a command that are none.
const BEFORE: [&str; 11] =
    ["exec", "then", "do", "else", "if", "while", "until", "!", "{", "time", "nohup"];

/// What was probably meant by a RUN that ended with a code other than zero; `has` says whether the state that it began with
/// has a file, by its path.
pub fn of_run(op: &RunOp, code: i32, has: &dyn Fn(&str) -> bool) -> Option<String> {
    let script = shell_text(&op.argv);
    if let Some(hint) = script.and_then(of_json) {
        return Some(hint);
    }
    let commands: Vec<&str> = script.map(commands).unwrap_or_default();
    if let Some(word) = commands.iter().find(|word| INSTRUCTIONS.contains(word)) {
        return Some(format!(
            "{word} is an instruction here, and a part of this RUN: the line before it ends with a backslash"
        ));
    }
    if code != NOT_FOUND {
        return None;
    }
    let program = op.argv.first().map(String::as_str);
    let lacks = |word: &&str| !found(op, word, has);
    if let Some(name) = program.filter(lacks).and_then(|program| program.rsplit('/').next()) {
        return of_program(name, has);
    }
    commands.into_iter().filter(lacks).find_map(|word| of_program(word, has))
}

/// What was probably meant where the first line of a script names a program that is not there.
pub fn of_interpreter(script: &str, program: &str, has: &dyn Fn(&str) -> bool) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    let more = of_program(name, has).map(|more| format!(": {more}")).unwrap_or_default();
    format!("the first line of '{script}' names {program}, which is not there{more}")
}

/// The text that a shell was given, where one was.
fn shell_text(argv: &[String]) -> Option<&str> {
    let [_, .., flag, text] = argv else { return None };
    (flag.starts_with('-') && flag.ends_with('c')).then_some(text.as_str())
}

/// Something that was meant as a JSON form, which a shell took for a command.
fn of_json(text: &str) -> Option<String> {
    let text = text.trim();
    let begins = ["[\"", "['", "[ \"", "[ '"].iter().any(|begin| text.starts_with(begin));
    // A test has a space behind its bracket, and no comma in front of its end.
    let is_test = text.starts_with("[ ") && !text.contains("\",") && !text.contains("',");
    (begins && text.ends_with(']') && !is_test).then(|| {
        "this is no JSON form, so that a shell ran it as a command: it has double quotes, and commas between, as in [\"echo\", \"a\"]"
            .to_owned()
    })
}

/// The first words of the commands in a shell's text, as far as they can be told from its other words.
fn commands(text: &str) -> Vec<&str> {
    let is_set = |word: &&str| word.split_once('=').is_some_and(|(name, _)| is_name(name));
    let first = |part| -> Option<&str> {
        str::split_whitespace(part).find(|word| !BEFORE.contains(word) && !is_set(word))
    };
    let mut quote = Quote::Open;
    text.split(|ch| quote.ends(ch)).filter_map(first).collect()
}

/// What a shell's text is within, character by character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Open,
    Single,
    Double,
    /// Behind a backslash, in double quotes or in none.
    Escaped {
        double: bool,
    },
}

impl Quote {
    /// Takes in a character; says whether it ends a command.
    fn ends(&mut self, ch: char) -> bool {
        *self = match (*self, ch) {
            (Quote::Open, '\'') => Quote::Single,
            (Quote::Open, '"') | (Quote::Escaped { double: true }, _) => Quote::Double,
            (Quote::Open, '\\') => Quote::Escaped { double: false },
            (Quote::Double, '\\') => Quote::Escaped { double: true },
            (Quote::Single, '\'') | (Quote::Double, '"') | (Quote::Escaped { .. }, _) => {
                Quote::Open
            }
            (Quote::Open, ch) => return matches!(ch, ';' | '&' | '|' | '(' | ')' | '\n'),
            (within, _) => within,
        };
        false
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|ch| ch.is_ascii_alphanumeric() || ch == '_')
}

/// Whether a word names a program that is there.
fn found(op: &RunOp, word: &str, has: &dyn Fn(&str) -> bool) -> bool {
    if word.starts_with('/') {
        return has(word);
    }
    if word.contains('/') {
        return has(&format!("{}/{word}", op.cwd));
    }
    let path = op.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(PATH, |(_, value)| value.as_str());
    path.split(':').any(|folder| has(&format!("{folder}/{word}")))
}

/// What to do without a program.
fn of_program(name: &str, has: &dyn Fn(&str) -> bool) -> Option<String> {
    let installer = INSTALLERS.iter().find(|(path, ..)| has(path));
    if MANAGERS.contains(&name) {
        return Some(match installer {
            Some((_, other, add)) => {
                format!("the base has no {name}, but {other}: packages come by `{add} NAME`")
            }
            None => format!(
                "the base has no {name}, nor another package manager that is known: install in a stage whose base has one, and COPY --from that stage"
            ),
        });
    }
    if name == "sudo" {
        return Some(
            "the base has no sudo, and needs none: a RUN is root's unless USER says otherwise"
                .to_owned(),
        );
    }
    if OF_BASH.contains(&name) {
        let instead = match name {
            "source" => "in sh it is a dot (. FILE)",
            "[[" => "in sh it is [ ... ]",
            _ => "sh has nothing of the kind",
        };
        return Some(format!(
            "{name} is bash's, and RUN is sh's: {instead}, or put SHELL [\"/bin/bash\", \"-c\"] above, where the base has bash"
        ));
    }
    if matches!(name, "useradd" | "groupadd") && has("/bin/busybox") {
        let (own, flag) = if name == "useradd" { ("adduser", " -D") } else { ("addgroup", "") };
        return Some(format!("the base has no {name}, but {own}: `{own}{flag} NAME`"));
    }
    if name == "sh" {
        return Some(
            "the base has no shell, as scratch and distroless images have none: run this in a stage whose base has one, and COPY --from that stage; or write RUN [\"/a/program\", \"its argument\"]"
                .to_owned(),
        );
    }
    TOOLS.contains(&name).then(|| match installer {
        Some((.., add)) => {
            format!("the base has no {name}: install what it is in first (RUN {add} ...)")
        }
        None => format!(
            "the base has no {name}, and no package manager that is known: take a base that has it"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPINE: &[&str] = &["/bin/sh", "/bin/busybox", "/bin/tar", "/sbin/apk", "/w/run.sh"];
    const DEBIAN: &[&str] = &["/bin/sh", "/usr/bin/apt-get"];

    fn hint(argv: &[&str], code: i32, files: &[&str]) -> Option<String> {
        let op = RunOp {
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            cwd: "/w".into(),
            ..RunOp::default()
        };
        of_run(&op, code, &|path| files.contains(&path))
    }

    fn of_shell(text: &str, code: i32, files: &[&str]) -> Option<String> {
        hint(&["/bin/sh", "-c", text], code, files)
    }

    #[test]
    fn what_the_base_lacks_is_told_with_what_it_has() {
        for (text, files, want) in [
            ("apt-get update", ALPINE, "no apt-get, but apk: packages come by `apk add NAME`"),
            ("set -e; X=1 apt install x", ALPINE, "no apt, but apk"),
            ("apk add x", DEBIAN, "by `apt-get update && apt-get install -y NAME`"),
            ("yum install x", &["/bin/sh"], "nor another package manager"),
            ("cd /x && bash run", ALPINE, "no bash: install what it is in first (RUN apk add ...)"),
            ("curl -f http://x | tar x", &["/bin/sh"], "no curl, and no package manager"),
            ("sudo make", DEBIAN, "no sudo, and needs none"),
            ("source env", DEBIAN, "in sh it is a dot"),
            ("if [[ a == a ]]; then true; fi", DEBIAN, "[[ is bash's"),
            ("useradd x", ALPINE, "no useradd, but adduser: `adduser -D NAME`"),
            ("(\n  git clone x\n)", DEBIAN, "no git"),
        ] {
            let said = of_shell(text, 127, files).unwrap_or_default();
            assert!(said.contains(want), "{text}: {said}");
        }
        let shell = hint(&["/bin/sh", "-c", "true"], 127, &[]).unwrap();
        assert!(shell.starts_with("the base has no shell, as scratch"), "{shell}");
        let bash = hint(&["/bin/bash", "-c", "true"], 127, ALPINE).unwrap();
        assert!(bash.starts_with("the base has no bash"), "{bash}");
        let script = of_interpreter("/w/run.sh", "/bin/bash", &|path| ALPINE.contains(&path));
        let want = "the first line of '/w/run.sh' names /bin/bash, which is not there: the base has no bash: install";
        assert!(script.starts_with(want), "{script}");
    }

    #[test]
    fn what_is_there_or_unknown_has_no_hint() {
        for (text, code) in [
            ("apt-get update", 100),
            ("nosuchprogram", 127),
            ("./run.sh", 127),
            ("tar x", 127),
            ("echo apt-get; false", 127),
            ("[ \"$x\" = y ]", 1),
            ("[ 'a' = 'b' ]", 1),
            ("echo COPY a b", 1),
            ("FOO=1 false", 1),
            ("env | grep -E 'HOME|USER' | sort; nosuch", 127),
            ("echo \"a; \\\" | ENV\" \\'x; nosuch", 127),
        ] {
            assert_eq!(of_shell(text, code, ALPINE), None, "{text}");
        }
        assert_eq!(hint(&["/no/such"], 127, ALPINE), None);
        assert_eq!(hint(&[], 127, ALPINE), None);
    }

    #[test]
    fn instructions_and_json_forms_in_a_shell_are_told() {
        let copy = of_shell("apk update && COPY a b", 127, ALPINE).unwrap();
        assert!(copy.starts_with("COPY is an instruction here"), "{copy}");
        for text in [r#"["echo" "a"]"#, "['echo', 'a']", r#"[ "echo", "a ]"#, "[ 'a', 'b' ]"] {
            let said = of_shell(text, 127, ALPINE);
            assert!(said.is_some_and(|said| said.starts_with("this is no JSON form")), "{text}");
        }
    }
}
