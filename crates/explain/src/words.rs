//! Parts of a key in the words of the flags that they come from.
//!
//! Accounts keep them as Rust's debug forms. What cannot be read here is shown as it stands, such as the digest of a long one.

/// The flags that a part of a key comes from; none where it was not given at all.
pub(crate) fn words(part: &str, value: &str) -> Option<String> {
    let plain = || Some(value.to_owned());
    match part.split(' ').next().unwrap_or_default() {
        "platform" => Some(format!("--platform {value}")),
        "network" => Some(format!("--network {}", value.to_lowercase())),
        "security" => Some(format!("--security {}", value.to_lowercase())),
        "hosts" => each(value, "--add-host", host),
        "ulimits" => each(value, "--ulimit", ulimit),
        "exclude" => each(value, "--exclude", Form::text),
        "shm" => match value.parse() {
            Ok(0) => None,
            Ok(bytes) => Some(format!("--shm-size {}", size(bytes))),
            Err(_) => plain(),
        },
        "mount" => read(value).and_then(|form| mount(&form)).or_else(plain),
        "chown" | "chmod" => match read(value) {
            Some(Form::Bare(name)) if name == "None" => None,
            Some(form) => form.text().map(|text| format!("--{part} {text}")).or_else(plain),
            None => plain(),
        },
        "command" | "sources" => match read(value) {
            Some(Form::List(items)) => {
                let words: Option<Vec<String>> = items.iter().map(Form::text).collect();
                words.map(|words| words.join(" ")).or_else(plain)
            }
            Some(_) | None => plain(),
        },
        _ => plain(),
    }
}

/// A flag for each item of a list; none if it is empty.
fn each(value: &str, flag: &str, item: impl Fn(&Form) -> Option<String>) -> Option<String> {
    let Some(Form::List(items)) = read(value) else { return Some(value.to_owned()) };
    if items.is_empty() {
        return None;
    }
    let flags: Option<Vec<String>> =
        items.iter().map(|it| item(it).map(|text| format!("{flag} {text}"))).collect();
    Some(flags.map_or_else(|| value.to_owned(), |flags| flags.join(" ")))
}

fn host(form: &Form) -> Option<String> {
    match form {
        Form::Named(_, fields) => match &fields[..] {
            [(_, name), (_, address)] => Some(format!("{}:{}", name.text()?, address.text()?)),
            _ => None,
        },
        Form::Text(_) | Form::Bare(_) | Form::List(_) => None,
    }
}

fn ulimit(form: &Form) -> Option<String> {
    let of = |name: &str| form.field(name).and_then(Form::text);
    Some(format!("{}={}:{}", of("name")?, of("soft")?, of("hard")?))
}

/// As `--shm-size` counts.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GB"), (20, "MB"), (10, "KB")] {
        if bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}")
}

fn mount(form: &Form) -> Option<String> {
    let Form::Named(kind, fields) = form else { return None };
    // A variant that holds one struct.
    let fields = match &fields[..] {
        [(name, Form::Named(_, inner))] if name.is_empty() => inner,
        _ => fields,
    };
    let mut text = format!("--mount=type={}", kind.to_lowercase());
    for (name, value) in fields {
        // An input's place says nothing to people, and what is not there was not given.
        let Some(value) = value.text().filter(|_| name != "input") else { continue };
        match (name.as_str(), value.as_str()) {
            (_, "None" | "false" | "") | ("size", "0") => {}
            (name, "true") => text.push_str(&format!(",{name}")),
            ("mode", mode) => match mode.parse::<u32>() {
                Ok(mode) => text.push_str(&format!(",mode={mode:04o}")),
                Err(_) => return None,
            },
            ("sharing", sharing) => text.push_str(&format!(",sharing={}", sharing.to_lowercase())),
            (name, value) => text.push_str(&format!(",{name}={value}")),
        }
    }
    Some(text)
}

/// A debug form.
#[derive(PartialEq, Eq, Debug)]
enum Form {
    Text(String),
    /// A number, `true`, or the name of a variant.
    Bare(String),
    List(Vec<Form>),
    /// A struct, a tuple (whose name is empty) or a variant, with its fields; those of a tuple have no names.
    Named(String, Vec<(String, Form)>),
}

impl Form {
    fn text(&self) -> Option<String> {
        match self {
            Form::Text(text) | Form::Bare(text) => Some(text.clone()),
            Form::Named(name, fields) if fields.is_empty() => Some(name.clone()),
            Form::Named(name, fields) if name == "Some" && fields.len() == 1 => fields[0].1.text(),
            Form::Named(..) | Form::List(_) => None,
        }
    }

    fn field(&self, name: &str) -> Option<&Form> {
        match self {
            Form::Named(_, fields) => fields.iter().find(|it| it.0 == name).map(|it| &it.1),
            Form::Text(_) | Form::Bare(_) | Form::List(_) => None,
        }
    }
}

/// Forms within forms; more are not read.
const DEPTH_MAX: usize = 8;

fn read(text: &str) -> Option<Form> {
    let mut reader = Reader { rest: text, depth: 0 };
    let form = reader.form()?;
    reader.rest.is_empty().then_some(form)
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn form(&mut self) -> Option<Form> {
        self.depth += 1;
        let form = if self.depth > DEPTH_MAX { None } else { self.any() };
        self.depth -= 1;
        form
    }

    fn any(&mut self) -> Option<Form> {
        if self.take("\"") {
            return self.string().map(Form::Text);
        }
        if self.take("[") {
            let items = self.until("]", Reader::form)?;
            return Some(Form::List(items));
        }
        let name = self.word();
        if self.take("(") {
            let fields = self.until(")", |reader| Some((String::new(), reader.form()?)))?;
            return Some(Form::Named(name, fields));
        }
        if self.take(" { ") {
            let fields = self.until(" }", |reader| {
                let name = reader.word();
                reader.take(": ").then(|| reader.form()).flatten().map(|form| (name, form))
            })?;
            return Some(Form::Named(name, fields));
        }
        (!name.is_empty()).then_some(Form::Bare(name))
    }

    fn word(&mut self) -> String {
        let is_of_word = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-');
        let end = self.rest.find(|it| !is_of_word(it)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn until<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        while !self.take(end) {
            if !items.is_empty() && !self.take(", ") {
                return None;
            }
            items.push(item(self)?);
        }
        Some(items)
    }

    /// The rest of a string behind its first quote.
    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, it)) = chars.next() {
            match it {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    '0' => text.push('\0'),
                    same @ ('"' | '\\' | '\'') => text.push(same),
                    // A sign by its number: shown as it stands.
                    _ => return None,
                },
                it => text.push(it),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(part: &str, value: &str, want: &str) {
        assert_eq!(words(part, value).as_deref().unwrap_or("not given"), want, "{part} {value}");
    }

    #[test]
    fn parts_of_keys_are_told_as_flags() {
        check("network", "None", "--network none");
        check("network", "Default", "--network default");
        check("security", "Insecure", "--security insecure");
        check("platform", "linux/arm64/v8", "--platform linux/arm64/v8");
        check("hosts", "[]", "not given");
        check("hosts", r#"[("a", "1.2.3.4")]"#, "--add-host a:1.2.3.4");
        check(
            "hosts",
            r#"[("a", "1.2.3.4"), ("b", "::1")]"#,
            "--add-host a:1.2.3.4 --add-host b:::1",
        );
        check("shm size", "0", "not given");
        check("shm size", "10485760", "--shm-size 10MB");
        check("shm size", "1500", "--shm-size 1500");
        let ulimits = format!("{:?}", [Ulimit { name: "nofile".into(), soft: 100, hard: -1 }]);
        check("ulimits", &ulimits, "--ulimit nofile=100:-1");
        check("ulimits", "[]", "not given");
        check("chown", r#"Some("a:b")"#, "--chown a:b");
        check("chmod", "None", "not given");
        check("exclude", r#"["*.md", "a b"]"#, "--exclude *.md --exclude a b");
        check("command", r#"["/bin/sh", "-c", "echo \"a\"\n"]"#, "/bin/sh -c echo \"a\"\n");
        check("sources of input 0", r#"["a", "b"]"#, "a b");
        check("user", "root", "root");
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "read by its debug form")]
    struct Ulimit {
        name: String,
        soft: i64,
        hard: i64,
    }

    #[test]
    fn mounts_are_told_as_flags() {
        check(
            "mount /x",
            r#"Bind { input: 0, source: "src", writable: true, target: "/x" }"#,
            "--mount=type=bind,source=src,writable,target=/x",
        );
        check(
            "mount /c",
            r#"Cache { id: "go", sharing: Locked, input: None, source: "", readonly: false, mode: 493, uid: 0, gid: Some(7), target: "/c" }"#,
            "--mount=type=cache,id=go,sharing=locked,mode=0755,uid=0,gid=7,target=/c",
        );
        check(
            "mount s",
            r#"Secret(SecretMount { id: "s", target: Some("/run/s"), env: None, required: true, mode: 256, uid: 0, gid: 0 })"#,
            "--mount=type=secret,id=s,target=/run/s,required,mode=0400,uid=0,gid=0",
        );
        check(
            "mount /t",
            r#"Tmpfs { size: 0, readonly: false, target: "/t" }"#,
            "--mount=type=tmpfs,target=/t",
        );
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_it_stands() {
        for text in ["sha256:00ff", "[(\"a\"", "[\"\\u{1b}\"]", "[1 2]", "", "[[[[[[[[[[]]]]]]]]]]"]
        {
            check("hosts", text, text);
            check("mount /x", text, text);
            check("command", text, text);
        }
        check("shm size", "some", "some");
    }
}
