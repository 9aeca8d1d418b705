//! What the pages find around them: images in a registry, files and a repository on a web server.

use serde_json::{Value, json};

use crate::base::{busybox, busybox_layer};
use crate::home::Home;
use crate::layout::{LayerTar, MadeImage, architecture, digest};
use crate::reference::case::compressed;
use crate::registry::Registry;
use crate::web::Web;

/// What stands for the web server.
const WEB: &str = "{web}";

/// The servers, for as long as the cases of a page are run.
#[derive(Debug)]
pub struct World {
    /// In which dcbuild runs.
    pub home: Home,
    /// What stands for what in the texts of the pages.
    words: Vec<(&'static str, String)>,
    /// The layer that every image in the registry stands on.
    pub base: String,
    _registry: Registry,
    _web: Option<Web>,
}

/// The config of `parent:1`, which has every field that an image can hand down.
fn parent() -> Value {
    json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_PARENT=yes"],
        "Cmd": ["parent-cmd"],
        "Labels": { "of": "parent", "only": "parent" },
        "User": "nobody",
        "WorkingDir": "/tmp",
        "ExposedPorts": { "80/tcp": {} },
        "Volumes": { "/vol": {} },
        "StopSignal": "SIGINT",
        "Healthcheck": { "Test": ["CMD", "check"], "Interval": 1_000_000_000 },
        "Shell": ["/bin/ash", "-c"],
    })
}

/// The config of an image with these triggers.
fn triggers(lines: &[&str]) -> Value {
    json!({ "Env": ["PATH=/bin"], "OnBuild": lines })
}

/// Puts those images into the registry that are asked for; busybox always is.
fn fill(registry: &Registry, asks: &dyn Fn(&str) -> bool) {
    let base = busybox();
    registry.put("library/busybox:golden", &base);
    registry.put("library/busybox:latest", &base);
    let run = ["ENV ONE=1", "ENV TWO=${ONE}2", "RUN echo $TWO > /two"];
    for (name, config) in [
        ("parent:1", parent()),
        ("triggers:1", triggers(&run)),
        ("copies:1", triggers(&["COPY --from=build /app /app"])),
        ("fails:1", triggers(&["RUN exit 3"])),
    ] {
        if asks(name) {
            let image = MadeImage::new(vec![busybox_layer()], config);
            registry.put(&format!("library/{name}"), &image);
        }
    }
}

/// Puts on the server what the pages fetch, and gives the commit that the tag `v1` names.
fn serve(web: &Web) -> String {
    web.put("foobar", "foobar");
    web.put("dir/named.txt", "named");
    web.put("Dockerfile", "FROM scratch\nLABEL of=web\n");
    let tar = || LayerTar::default().file("in/one", 0o640, b"one").file("in/two", 0o755, b"two");
    for name in
        ["archive.tar", "archive.tar.gz", "archive.tar.bz2", "archive.tar.xz", "archive.tar.zst"]
    {
        web.put(name, compressed(name, tar().finish()));
    }
    let context = LayerTar::default()
        .file("Dockerfile", 0o644, b"FROM scratch\nCOPY . /all/\n")
        .file("other.Dockerfile", 0o644, b"FROM scratch\nCOPY a.txt /other\n")
        .file("a.txt", 0o640, b"a");
    web.put("context.tar.gz", compressed("context.tar.gz", context.finish()));
    let repository = web.repository("user/repo");
    repository.commit(&[
        ("Dockerfile", "FROM scratch\nCOPY . /all/\n"),
        ("README", "one"),
        ("run.sh", "#!/bin/sh\n"),
        ("docs/guide", "guide"),
        ("docs/Dockerfile", "FROM scratch\nCOPY . /docs/\n"),
    ]);
    repository.run(&["update-index", "--chmod=+x", "run.sh"]);
    repository.run(&["commit", "--quiet", "--message", "a program"]);
    repository.run(&["checkout", "--quiet", "--force", "."]);
    repository.run(&["tag", "v1"]);
    let commit = repository.run(&["rev-parse", "HEAD"]);
    repository.run(&["checkout", "--quiet", "-b", "container"]);
    repository.commit(&[("README", "container")]);
    repository.run(&["checkout", "--quiet", "main"]);
    repository.run(&["checkout", "--quiet", "-b", "nested"]);
    web.repository("user/inner").commit(&[("inside", "inside")]);
    repository.run(&["submodule", "--quiet", "add", &web.url("user/inner.git"), "inner"]);
    repository.commit(&[]);
    repository.run(&["checkout", "--quiet", "--force", "--recurse-submodules", "main"]);
    repository.commit(&[("README", "two")]);
    commit
}

impl World {
    /// Starts what is asked for: `asks` says whether the pages name an image, or the web server.
    pub fn start(asks: &dyn Fn(&str) -> bool) -> World {
        let registry = Registry::start();
        fill(&registry, asks);
        let other = if architecture() == "arm64" { "amd64" } else { "arm64" };
        let mut words =
            vec![("{here}", architecture().to_owned()), ("{elsewhere}", other.to_owned())];
        let web = asks(WEB).then(Web::start);
        if let Some(web) = &web {
            let commit = serve(web);
            words.push((WEB, web.host.clone()));
            words.push(("{short}", commit[..7].to_owned()));
            words.push(("{commit}", commit));
        }
        let home = Home::new(&registry.as_docker_io());
        World { home, words, base: digest(&busybox_layer()), _registry: registry, _web: web }
    }

    /// A text with what its words stand for.
    pub fn filled(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }
}
