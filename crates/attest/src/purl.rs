//! Package URLs: how images are named among subjects and materials.

use dcbuild_model::Platform;
use dcbuild_oci::ImageRef;

/// Whence a package is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackageKind {
    /// From a registry.
    Docker,
    /// From a layout of OCI.
    Oci,
}

/// Writes an image's name as BuildKit does: `pkg:docker/alpine@3.17?platform=linux%2Famd64`.
pub fn package_url(kind: PackageKind, image: &ImageRef, platform: Option<&Platform>) -> String {
    let kind = match kind {
        PackageKind::Docker => "docker",
        PackageKind::Oci => "oci",
    };
    let name = image.repository().familiar();
    let path: Vec<String> = name.split('/').map(|part| escaped(part, "")).collect();
    let mut text = format!("pkg:{kind}/{}", path.join("/"));
    let tag = match (image.tag(), image.digest()) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    };
    if let Some(tag) = tag {
        text.push('@');
        text.push_str(&escaped(tag, ""));
    }
    let digest = image.digest().map(|digest| ("digest", digest.to_string()));
    let platform = platform.map(|platform| ("platform", platform.to_string()));
    for (number, (key, value)) in digest.into_iter().chain(platform).enumerate() {
        text.push(if number == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(&escaped(&value, ":"));
    }
    text
}

/// Percent-encodes all but unreserved characters and those of `kept`.
fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let char = char::from(byte);
        if char.is_ascii_alphanumeric() || "-_.~".contains(char) || kept.contains(char) {
            out.push(char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_buildkit_writes_them() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        for (name, platform, want) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            ("library/alpine:3.15", None, "pkg:docker/alpine@3.15".into()),
            ("user/test:v2", None, "pkg:docker/user/test@v2".into()),
            ("ghcr.io/foo/bar", None, "pkg:docker/ghcr.io/foo/bar@latest".into()),
            ("busybox", Some(&amd64), "pkg:docker/busybox@latest?platform=linux%2Famd64".into()),
            ("a:1", Some(&v7), "pkg:docker/a@1?platform=linux%2Farm%2Fv7".into()),
            ("127.0.0.1:5000/a:1", None, "pkg:docker/127.0.0.1%3A5000/a@1".into()),
            (&format!("alpine:3@{digest}"), None, format!("pkg:docker/alpine@3?digest={digest}")),
            (
                &format!("busybox@{digest}"),
                Some(&amd64),
                format!("pkg:docker/busybox?digest={digest}&platform=linux%2Famd64"),
            ),
        ] {
            let image: ImageRef = name.parse().unwrap();
            assert_eq!(package_url(PackageKind::Docker, &image, platform), want, "{name}");
        }
    }
}
