//! The images that the cases build from: configs of the kind that well-known images have, made up for the purpose.

use dcbuild_model::{ConfigDigest, DiffId, Digest, LayerDigest, ManifestDigest, Platform};
use dcbuild_oci::ImageConfig;
use dcbuild_plan::{ImageLayer, ImageSource, ResolvedImage};
use serde_json::{Value, json};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image behind a reference; any name is one.
pub(crate) fn image(reference: &str, platform: &Platform) -> ResolvedImage {
    let digest = Digest::of(reference.as_bytes());
    let config = json!({
        "architecture": platform.arch,
        "os": platform.os,
        "config": container(reference),
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "base"}],
    });
    ResolvedImage {
        manifest: ManifestDigest(digest),
        named: ManifestDigest(digest),
        config_digest: ConfigDigest(digest),
        config: ImageConfig::parse(config.to_string().as_bytes()).unwrap(),
        layers: vec![ImageLayer {
            digest: LayerDigest(digest),
            diff_id: DiffId(digest),
            size: 1,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        }],
        source: ImageSource::Registry { repository: "example.org/base".into() },
    }
}

fn container(reference: &str) -> Value {
    let path = reference.split(['@', ':']).next().unwrap_or(reference);
    match path.rsplit('/').next().unwrap_or(path) {
        "golang" => json!({
            "Env": ["PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin", "GOPATH=/go"],
            "Cmd": ["bash"], "WorkingDir": "/go",
        }),
        "rust" => json!({
            "Env": ["PATH=/usr/local/cargo/bin:/usr/bin:/bin", "CARGO_HOME=/usr/local/cargo"],
            "Cmd": ["bash"],
        }),
        "node" => json!({
            "Env": [PATH, "NODE_VERSION=22.1.0"],
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["node"],
        }),
        "python" => json!({"Env": [PATH, "LANG=C.UTF-8"], "Cmd": ["python3"]}),
        "ruby" => json!({"Env": [PATH, "GEM_HOME=/usr/local/bundle"], "Cmd": ["irb"]}),
        "nginx" => json!({
            "Env": [PATH, "NGINX_VERSION=1.27"], "ExposedPorts": {"80/tcp": {}},
            "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"],
            "StopSignal": "SIGQUIT", "Labels": {"maintainer": "nginx people"},
        }),
        "httpd" => json!({
            "Env": [PATH], "ExposedPorts": {"80/tcp": {}}, "Cmd": ["httpd-foreground"],
            "WorkingDir": "/usr/local/apache2", "StopSignal": "SIGWINCH",
        }),
        "postgres" => json!({
            "Env": [PATH, "PGDATA=/var/lib/postgresql/data"], "ExposedPorts": {"5432/tcp": {}},
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres"],
            "Volumes": {"/var/lib/postgresql/data": {}}, "StopSignal": "SIGINT",
        }),
        "mysql" => json!({
            "Env": [PATH], "ExposedPorts": {"3306/tcp": {}, "33060/tcp": {}},
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["mysqld"],
            "Volumes": {"/var/lib/mysql": {}},
        }),
        "redis" => json!({
            "Env": [PATH], "ExposedPorts": {"6379/tcp": {}}, "WorkingDir": "/data",
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["redis-server"],
            "Volumes": {"/data": {}},
        }),
        "php" => json!({
            "Env": [PATH, "PHP_INI_DIR=/usr/local/etc/php"], "Cmd": ["php-fpm"],
            "Entrypoint": ["docker-php-entrypoint"], "WorkingDir": "/var/www/html",
            "ExposedPorts": {"9000/tcp": {}}, "StopSignal": "SIGQUIT",
        }),
        "static-debian12" => json!({
            "Env": [PATH, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "User": "65532", "WorkingDir": "/home/nonroot",
        }),
        "python-onbuild" => json!({
            "Env": [PATH], "Cmd": ["python3"],
            "OnBuild": ["WORKDIR /app", "COPY requirements.txt .", "RUN pip install -r requirements.txt", "COPY . ."],
        }),
        "checked" => json!({
            "Env": [PATH], "Cmd": ["serve"], "User": "app:app",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64},
            "Shell": ["/bin/bash", "-c"], "Labels": {"a": "base", "b": "base"},
        }),
        "bare" => json!({}),
        _ => json!({"Env": [PATH], "Cmd": ["/bin/sh"]}),
    }
}
