//! Chooses the manifest of a platform from an index, with the fallbacks that containerd has.

use dcbuild_model::Platform;

use crate::manifest::{Descriptor, Index, OciPlatform};

/// How many indexes may stand between a reference and its manifest.
pub const NESTED_INDEXES_MAX: usize = 3;

/// Finds the entry that fits a platform best; the first wins among equals.
///
/// A machine runs lesser variants and the 32-bit form of its architecture too. An entry that names no platform fits
/// when no other does; attestations never do.
pub fn select_platform<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let candidates = || index.manifests.iter().filter(|entry| !is_attestation(entry));
    for form in acceptable(wanted) {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().and_then(OciPlatform::to_model).as_ref() == Some(&form)
        };
        if let Some(found) = candidates().find(fits) {
            return Some(found);
        }
    }
    candidates().find(|entry| entry.platform.is_none())
}

/// Says whether an entry describes how another was built and is no image itself.
pub fn is_attestation(entry: &Descriptor) -> bool {
    let unknown = entry
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    unknown
        || entry
            .annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
}

/// The platforms whose images run on this one, best first.
fn acceptable(wanted: &Platform) -> Vec<Platform> {
    let with = |arch: &str, variant: &str| Platform {
        os: wanted.os.clone(),
        arch: arch.into(),
        variant: variant.into(),
    };
    let mut forms = vec![wanted.clone()];
    let level = |text: &str| text.strip_prefix('v').and_then(|digits| digits.parse::<u8>().ok());
    match wanted.arch.as_str() {
        "amd64" => {
            let top = level(&wanted.variant).unwrap_or(1).min(9);
            forms.extend((2..top).rev().map(|lower| with("amd64", &format!("v{lower}"))));
            forms.push(with("amd64", ""));
            forms.push(with("386", ""));
        }
        "arm" => {
            let top = level(&wanted.variant).unwrap_or(7).min(9);
            forms.extend((5..top).rev().map(|lower| with("arm", &format!("v{lower}"))));
        }
        "arm64" => {
            let top = level(&wanted.variant).unwrap_or(8).min(9);
            forms.push(with("arm64", ""));
            forms.extend((5..=top.min(8)).rev().map(|lower| with("arm", &format!("v{lower}"))));
        }
        _ => {}
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcbuild_model::Digest;

    fn entry(text: &str) -> Descriptor {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (os, architecture, variant) = (next(), next(), next());
        let platform = OciPlatform { architecture, os, variant, ..OciPlatform::default() };
        let mut entry = Descriptor::new("application/x", Digest::of(text.as_bytes()), 1);
        entry.platform = (text != "none").then_some(platform);
        entry
    }

    fn chosen(entries: &[&str], wanted: &str) -> Option<String> {
        let manifests = entries.iter().map(|text| entry(text)).collect();
        let index = Index { manifests, ..Index::default() };
        let wanted = wanted.parse().unwrap();
        let found = select_platform(&index, &wanted)?.digest;
        entries.iter().find(|text| entry(text).digest == found).map(|text| (*text).to_owned())
    }

    #[test]
    fn the_best_entry_is_chosen() {
        for (entries, wanted, want) in [
            (&["linux/arm64/v8", "linux/amd64"][..], "linux/amd64", Some("linux/amd64")),
            (&["linux/arm64/v8", "linux/amd64"], "linux/arm64", Some("linux/arm64/v8")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", Some("linux/arm/v7")),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some("linux/arm/v6")),
            (&["linux/arm/v7"], "linux/arm64", Some("linux/arm/v7")),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/386"], "linux/amd64", Some("linux/386")),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/amd64/v2", "linux/amd64"], "linux/amd64/v3", Some("linux/amd64/v2")),
            (&["linux/amd64"], "linux/amd64/v3", Some("linux/amd64")),
            (&["windows/amd64"], "linux/amd64", None),
            (&["unknown/unknown", "none"], "linux/amd64", Some("none")),
            (&["unknown/unknown"], "linux/amd64", None),
            (&["../x", "linux/s390x"], "linux/s390x", Some("linux/s390x")),
        ] {
            assert_eq!(chosen(entries, wanted).as_deref(), want, "{entries:?} for {wanted}");
        }
    }
}
