//! Every key with its default and its meaning: the one home of both.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Mistake;

/// What kind of value a key has, as JSON has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Number,
    /// A list of texts.
    List,
    /// A table of texts.
    Table,
    /// A list of tables of a certificate and its key.
    Keypairs,
    OneOf(&'static [&'static str]),
}

/// One key.
pub(super) struct Key {
    pub(super) name: &'static str,
    kind: Kind,
    /// As one would write it; for people where it depends on the machine.
    pub(super) default: &'static str,
    doc: &'static str,
}

const fn key(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind: Kind::Text, default, doc }
}

impl Key {
    const fn of(self, kind: Kind) -> Key {
        Key { kind, ..self }
    }
}

const STORE_URL: &str = "Where the bucket is: `s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=R&path-style=true`, \
    all behind the bucket as needed; credentials come from the usual AWS chain.";
const SIGNING_KEYS: &str = "Files of at least 32 bytes: the first signs records, all are trusted; without any, whoever \
    can write to the bucket is trusted. `DCBUILD_SIGNING_KEY` goes before them.";
const SCOPE: &str = "Whose records builds read and write, as in `acme/shop/pr/17`; they read its parents' too, here \
    those of `acme/shop/pr`, `acme/shop` and `acme`. `DCBUILD_SCOPE` goes before it.";
const INDEX: &str =
    "What knows fast what the bucket has: `embedded` (each process for itself) or `redis`.";
const INDEX_URL: &str = "`redis://[USER:PASSWORD@]HOST:PORT/DB`, `rediss://..` for TLS, or \
    `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`; `DCBUILD_INDEX` goes before it.";
const NETWORK: &str = "The network of a RUN: `default` (its own with a way out, where this machine can make one, else \
    the machine's), `isolated` (its own, and none is run where that cannot be made), `none` or `host`.";
const NETWORKS: Kind = Kind::OneOf(&["default", "isolated", "none", "host"]);
const ALLOW: &str = "What a build of a cluster may be granted that asks for it: `network.host`, `security.insecure` (with `--allow`), `cgroup-parent` (with the flag of that name). Coordinator and worker must both grant it; it makes whoever may submit a master of the worker's machine.";
const KEEP_STORAGE: &str = "What may stay in the store, such as `500GiB`: every 10 minutes the longest unused goes, but \
    for what running builds use and images with a name; `none` keeps all.";
const KEEP_UNUSED: &str =
    "How long something in the store may stay unused, such as `720h`; `none` is for ever.";
const STORE_CA: &str = "A file of certificates to trust instead of the system's where the bucket is reached by https; \
    `AWS_CA_BUNDLE` goes before it, and is what workers and clients of a cluster read.";
const INDEX_CERT: &str =
    "The file of the certificate that a Redis with `tls-auth-clients` asks for, in PEM.";
const SENTINEL_AUTH: &str = "A file with `PASSWORD` or `USER:PASSWORD` for the sentinels, who do not get the URL's; \
    `DCBUILD_SENTINEL_AUTH` goes before it.";
const SUBMIT_WAIT: &str = "How long a build waits for a coordinator that does not answer, as while it is restarted; `0s` is \
    not at all.";
const TLS_CA: &str = "The file of certificates that a coordinator behind `https://` must come from, in PEM; the system's \
    where there is none. `DCBUILD_TLS_CA` goes before it.";
const TLS_CERT: &str = "The file of the certificate that is shown to the coordinator, in PEM; \
    `DCBUILD_TLS_CERT` goes before it.";
const TLS_KEY: &str =
    "The file of that certificate's key, in PEM; `DCBUILD_TLS_KEY` goes before it.";
const INDEX_CA: &str = "A file of certificates to trust instead of the system's.";

/// `HOST` stands for any host.
pub(super) const KEYS: [Key; 75] = [
    key("registry.HOST.mirrors", "[]", "Hosts that are asked first, in this order.").of(Kind::List),
    key("registry.HOST.http", "false", "Use plain http.").of(Kind::Flag),
    key(
        "registry.HOST.insecure",
        "false",
        "Use https without checking the certificate; with `http` beside it, plain http where the registry does without TLS.",
    )
    .of(Kind::Flag),
    key(
        "registry.HOST.ca",
        "[]",
        "Files of certificates to trust besides the system's and docker's in `/etc/docker/certs.d/HOST/*.crt`: of \
         authorities, or the registry's own, such as `openssl req -x509` makes.",
    )
    .of(Kind::List),
    key(
        "registry.HOST.keypair",
        "[]",
        "A table with `key` and `cert`, the files of the certificate that the registry is shown, in PEM; written \
         `[[registry.\"HOST\".keypair]]`. Else docker's in `/etc/docker/certs.d/HOST/*.cert` and `*.key`.",
    )
    .of(Kind::Keypairs),
    key(
        "registry.HOST.token_origins",
        "[]",
        "Token services that may see the registry's credentials, such as `https://login.example.com`, besides those on \
         its own host and, by https, in its own domain.",
    )
    .of(Kind::List),
    key(
        "registry.HOST.upload_chunk",
        "none",
        "Push blobs in chunks of so many bytes, such as `64MiB`, to a registry behind a proxy that limits what one \
         request may have; at least `64KiB`.",
    ),
    key("build.state_dir", "$XDG_DATA_HOME/dcbuild", "Where everything of local builds is kept."),
    key("build.parallelism", "the number of cpus", "How many steps run at once.").of(Kind::Number),
    key("build.keep_storage", "20GiB", "What may stay in the state folder after a build."),
    key("build.network", "default", NETWORK).of(NETWORKS),
    key("build.step_memory", "none", "The memory that one RUN may take."),
    key("build.store.type", "none", "`s3`: share what is built through a bucket.")
        .of(Kind::OneOf(&["s3"])),
    key("build.store.url", "none", STORE_URL),
    key("build.store.signing_key_files", "[]", SIGNING_KEYS).of(Kind::List),
    key("build.store.ca", "none", STORE_CA),
    key("build.index.type", "embedded", INDEX).of(Kind::OneOf(&["embedded", "redis"])),
    key("build.index.url", "none", INDEX_URL),
    key("build.index.ca", "none", INDEX_CA),
    key("build.index.cert", "none", INDEX_CERT),
    key("build.index.key", "none", "The file of that certificate's key."),
    key("build.index.sentinel_auth_file", "none", SENTINEL_AUTH),
    key(
        "build.cache_upload",
        "all",
        "What of a build goes to the bucket: `all` results, what the `outputs` are made of, or `none`.",
    )
    .of(Kind::OneOf(&["all", "outputs", "none"])),
    key("build.scope", "none", SCOPE),
    key("coordinator.listen", "127.0.0.1:7070", "Where clients and workers reach it."),
    key(
        "coordinator.tls.cert",
        "none",
        "The file of the coordinator's certificate and of what leads from there to its CA, in PEM; with it, nobody is \
         answered who does not speak TLS. Files that change are read again.",
    ),
    key("coordinator.tls.key", "none", "The file of that certificate's key, in PEM."),
    key(
        "coordinator.tls.client_ca",
        "none",
        "The file of certificates that those of clients and workers must come from, in PEM; without it, whoever reaches \
         the port may build.",
    ),
    key("coordinator.http_listen", "127.0.0.1:7071", "Where health, metrics and the page are."),
    key(
        "coordinator.http_tls",
        "same",
        "Who sees `/metrics` there once `coordinator.tls.cert` is set: over TLS whoever may reach the coordinator (`same`), \
         over TLS everybody (`open`), or everybody in the clear (`off`). `/healthz` answers everybody.",
    )
    .of(Kind::OneOf(&["same", "open", "off"])),
    key("coordinator.data_dir", "/var/lib/dcbuild/coordinator", "Where its log is kept."),
    key("coordinator.store.type", "folder", "The kind of store: `folder` or `s3`.")
        .of(Kind::OneOf(&["folder", "s3"])),
    key("coordinator.store.dir", "DATA_DIR/store", "The store's folder."),
    key(
        "coordinator.no_worker_timeout",
        "10m",
        "How long a build waits for a worker of a platform that is not there.",
    ),
    key("coordinator.store.url", "none", STORE_URL),
    key("coordinator.store.signing_key_files", "[]", SIGNING_KEYS).of(Kind::List),
    key("coordinator.store.ca", "none", STORE_CA),
    key("coordinator.index.type", "embedded", INDEX).of(Kind::OneOf(&["embedded", "redis"])),
    key("coordinator.index.url", "none", INDEX_URL),
    key("coordinator.index.ca", "none", INDEX_CA),
    key("coordinator.index.cert", "none", INDEX_CERT),
    key("coordinator.index.key", "none", "The file of that certificate's key."),
    key("coordinator.index.sentinel_auth_file", "none", SENTINEL_AUTH),
    key(
        "coordinator.grace",
        "5m",
        "How long a build goes on whose client is lost, unless it was submitted with `--detach`.",
    ),
    key(
        "coordinator.scope",
        "local",
        "Whose records builds read and write, where their clients' certificates give them no other scope: up to four words, \
         as in `acme/shop`.",
    ),
    key(
        "coordinator.scopes",
        "{}",
        "A table of the scopes of those who may only build, in these and below: by a host name or URI that a certificate is \
         for, or by the certificate's digest as `sha256:HEX`.",
    )
    .of(Kind::Table),
    key("coordinator.allow", "[]", ALLOW).of(Kind::List),
    key("coordinator.keep_storage", "none", KEEP_STORAGE),
    key("coordinator.keep_unused", "none", KEEP_UNUSED),
    key("worker.coordinator", "http://127.0.0.1:7070", "The coordinator that it works for."),
    key("worker.tls.ca", "none", TLS_CA),
    key("worker.tls.cert", "none", TLS_CERT),
    key("worker.tls.key", "none", TLS_KEY),
    key(
        "worker.tls.peer_ca",
        "none",
        "The file of certificates that those of other workers must come from, in PEM; without it, they come from where the \
         coordinator's does.",
    ),
    key(
        "worker.listen",
        "auto",
        "Where other workers read what the store lacks yet: `IP:PORT`, `none`, or `auto` for a free port of the address by which this machine reaches the coordinator.",
    ),
    key(
        "worker.advertise",
        "none",
        "What other workers are told of it, as `HOST:PORT`, where that is not `worker.listen`.",
    ),
    key("worker.data_dir", "/var/lib/dcbuild/worker", "Where its snapshots and blobs are kept."),
    key("worker.slots", "the number of cpus", "How many jobs it runs at once.").of(Kind::Number),
    key("worker.network", "default", NETWORK).of(NETWORKS),
    key("worker.labels", "{}", "A table of names and values that `dcbuild workers` shows.")
        .of(Kind::Table),
    key("worker.keep_storage", "50GiB", "What may stay in the data folder."),
    key("worker.step_memory", "none", "The memory that one RUN may take."),
    key(
        "worker.cache_mount_max",
        "10GiB",
        "How large a cache mount may be that is written back to the store.",
    ),
    key("worker.grace", "30s", "How long jobs may go on after a request to stop."),
    key("worker.allow", "[]", ALLOW).of(Kind::List),
    key("submit.scope", "none", SCOPE),
    key("submit.coordinator", "none", "The coordinator that builds are sent to."),
    key("submit.wait", "15s", SUBMIT_WAIT),
    key("submit.tls.ca", "none", TLS_CA),
    key("submit.tls.cert", "none", TLS_CERT),
    key("submit.tls.key", "none", TLS_KEY),
    key(
        "fetch.allow",
        "[]",
        "Hosts without a public address, by name or address, from which a coordinator may fetch for ADD.",
    )
    .of(Kind::List),
    key(
        "log.level",
        "info",
        "The log level of coordinator and worker, or a filter such as `info,dcbuild_worker=debug`; other commands say only what went wrong, unless `--log` asks for more.",
    ),
    key("log.format", "text", "How a line of the log looks: `text` or `json`.")
        .of(Kind::OneOf(&["text", "json"])),
    key("registry", "{}", "One table per registry host."),
];

/// Returns the default of a key as text.
pub(super) fn default_of(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default)
}

/// Describes every key in Markdown.
pub fn reference() -> String {
    let mut text = String::from("| key | default | meaning |\n|---|---|---|\n");
    for key in &KEYS {
        text.push_str(&format!("| `{}` | `{}` | {} |\n", key.name, key.default, key.doc));
    }
    text
}

/// Takes every key out that means nothing or has a value of another kind, and says so; what remains can be read.
pub(super) fn weed(document: &mut Value) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    walk(document, "", "", &mut mistakes);
    mistakes
}

/// Takes an alternative out that lacks what its type needs, or has what another type has; `T` is what reads it.
pub(super) fn weed_alternative<T: DeserializeOwned>(
    document: &mut Value,
    (section, name): (&str, &str),
    mistakes: &mut Vec<Mistake>,
) {
    let Some(Value::Object(table)) = document.get_mut(section) else { return };
    let Some(Err(problem)) = table.get(name).map(T::deserialize) else { return };
    table.remove(name);
    let key = format!("{section}.{name}");
    // What is missing may be what was just taken out.
    if !mistakes.iter().any(|mistake| mistake.key.starts_with(&key)) {
        mistakes.push(Mistake { key, problem: problem.to_string() });
    }
}

/// `pattern` is the table's name among the keys, `shown` the one that was written.
fn walk(value: &mut Value, pattern: &str, shown: &str, mistakes: &mut Vec<Mistake>) {
    let Value::Object(table) = value else { return };
    let join = |to: &str, name: &str| {
        if to.is_empty() { name.to_owned() } else { format!("{to}.{name}") }
    };
    table.retain(|name, value| {
        let pattern = join(pattern, if pattern == "registry" { "HOST" } else { name });
        let shown = join(shown, name);
        let below = format!("{pattern}.");
        let problem = if KEYS.iter().any(|key| key.name.starts_with(&below)) {
            walk(value, &pattern, &shown, mistakes);
            (!value.is_object()).then(|| format!("{value} is not a table"))
        } else {
            match KEYS.iter().find(|key| key.name == pattern) {
                Some(key) => key.kind.problem(value),
                None => Some("there is no such key".into()),
            }
        };
        let sound = problem.is_none();
        mistakes.extend(problem.map(|problem| Mistake { key: shown, problem }));
        sound
    });
}

impl Kind {
    /// What is wrong with a value; the text itself is read later.
    fn problem(self, value: &Value) -> Option<String> {
        let texts =
            |mut values: Box<dyn Iterator<Item = &Value> + '_>| values.all(Value::is_string);
        let (fits, wanted) = match self {
            Kind::Text => (value.is_string(), "a text in quotes".to_owned()),
            Kind::Flag => (value.is_boolean(), "true or false".to_owned()),
            Kind::Number => {
                let fits = value.as_u64().is_some_and(|number| u32::try_from(number).is_ok());
                (fits, "a number".to_owned())
            }
            Kind::List => {
                let fits = value.as_array().is_some_and(|list| texts(Box::new(list.iter())));
                (fits, "a list of texts".to_owned())
            }
            Kind::Table => {
                let fits = value.as_object().is_some_and(|table| texts(Box::new(table.values())));
                (fits, "a table of texts".to_owned())
            }
            Kind::Keypairs => {
                let is_pair = |value: &Value| {
                    let pair =
                        ["key", "cert"].map(|name| value.get(name).is_some_and(Value::is_string));
                    pair == [true, true] && value.as_object().is_some_and(|it| it.len() == 2)
                };
                let fits = value.as_array().is_some_and(|list| list.iter().all(is_pair));
                (fits, "a list of tables with the texts key and cert".to_owned())
            }
            Kind::OneOf(words) => {
                let fits = value.as_str().is_some_and(|word| words.contains(&word));
                (fits, format!("one of {}", words.join(", ")))
            }
        };
        (!fits).then(|| format!("{value} is not {wanted}"))
    }
}
