//! Whole Dockerfiles in the ways of well-known projects: their bases are a busybox whose tools stand for those of each.

use dcbuild_tests::base::busybox_layer;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::layout::{LayerTar, MadeImage};
use dcbuild_tests::registry::Registry;
use serde_json::json;

use super::{Case, Theirs, cases, compare, entries};

const TOOL: &[u8] = include_bytes!("tool.sh");
const TOOLS: [&str; 19] = [
    "addgroup",
    "adduser",
    "apk",
    "apt-get",
    "apt-mark",
    "bundle",
    "cargo",
    "composer",
    "docker-php-ext-install",
    "dpkg-architecture",
    "go",
    "groupadd",
    "install",
    "mvn",
    "npm",
    "pip",
    "useradd",
    "curl",
    "yarn",
];
const BASES: [&str; 11] = [
    "alpine:3.19",
    "composer:latest",
    "debian:bookworm-slim",
    "eclipse-temurin:17-jre",
    "golang:1.22-alpine",
    "node:20-alpine",
    "node:onbuild",
    "php:8.2-fpm",
    "python:3.12-slim",
    "ruby:3.2",
    "rust:1.77",
];
const FILES: [&str; 32] = [
    ".build/linux-amd64/prometheus",
    ".mvn/wrapper.properties",
    "10-listen.sh",
    "15-local.envsh",
    "Cargo.toml",
    "Gemfile",
    "Gemfile.lock",
    "app.py",
    "bin/docker-entrypoint",
    "bin/rails",
    "cmd/buildctl/main.go",
    "composer.json",
    "composer.lock",
    "config/config.exs",
    "config/prod.exs",
    "documentation/examples/prometheus.yml",
    "fix-permissions",
    "go.mod",
    "go.sum",
    "lib/demo.ex",
    "main.go",
    "mix.exs",
    "mix.lock",
    "npm_licenses.tar.bz2",
    "package-lock.json",
    "package.json",
    "pom.xml",
    "priv/static/app.js",
    "requirements.txt",
    "src/main.rs",
    "version.txt",
    "yarn.lock",
];
const SCRIPTS: [&str; 3] = ["docker-ensure-initdb.sh", "docker-entrypoint.sh", "mvnw"];

/// A base: its tools, its accounts, and what an image of it is to do with those who build upon it.
fn base(name: &str) -> MadeImage {
    let mut tools = LayerTar::default()
        .dir("usr/local", 0o755)
        .dir("usr/local/bin", 0o755)
        .dir("var/log", 0o755)
        .dir("var/www", 0o777)
        .file("usr/local/bin/tool", 0o755, TOOL)
        .file("var/log/tools", 0o666, b"")
        .file("usr/bin/composer", 0o755, b"composer\n")
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n");
    for tool in TOOLS {
        tools = tools.hard_link(&format!("usr/local/bin/{tool}"), "usr/local/bin/tool");
    }
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut config = json!({ "Env": [path, "BASE_VERSION=1.2"], "Cmd": ["sh"] });
    if name == "node:onbuild" {
        config["OnBuild"] = json!([
            "ARG NODE_ENV",
            "ENV NODE_ENV $NODE_ENV",
            "WORKDIR /usr/src/app",
            "COPY package.json /usr/src/app/",
            "RUN npm install && npm cache clean --force",
            "COPY . /usr/src/app"
        ]);
        config["Cmd"] = json!(["npm", "start"]);
    }
    MadeImage::new(vec![busybox_layer(), tools.finish()], config)
}

#[test]
fn whole_dockerfiles_make_what_docker_makes() {
    let registry = Registry::start();
    registry.put("library/busybox:golden", &base("busybox:golden"));
    for name in BASES {
        registry.put(&format!("library/{name}"), &base(name));
    }
    let theirs = Theirs::start(&registry, &[&["busybox:golden"], &BASES[..]].concat());
    let file = |path: &&str| ContextEntry::file(path, &format!("{path}\n"));
    let script = |path: &&str| ContextEntry { mode: Some("755".to_owned()), ..file(path) };
    let more = FILES.iter().map(file).chain(SCRIPTS.iter().map(script));
    let entries: Vec<ContextEntry> = entries().into_iter().chain(more).collect();
    let cases: Vec<Case> = cases(include_str!("projects.txt"));
    assert!(cases.len() > 20, "{} cases", cases.len());
    compare(&registry, &theirs, &cases, |context| write_context(context, &entries));
}
