//! Platforms, as OCI image configs name them.

use std::fmt;
use std::str::FromStr;

/// An operating system, an architecture and its variant, normalised as containerd does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Platform {
    /// The operating system, such as `linux`.
    pub os: String,
    /// The architecture, such as `amd64`.
    pub arch: String,
    /// The variant, such as `v7`; empty where there is none.
    pub variant: String,
}

/// Says why a text is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParsePlatformError {
    /// It is not written like one.
    #[error("'{text}' is not a platform (OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64)")]
    Malformed {
        /// The text.
        text: String,
    },
    /// It is one word, which nobody knows.
    #[error("\"{text}\": unknown operating system or architecture")]
    Unknown {
        /// The text.
        text: String,
    },
}

/// Operating systems that may stand alone; this machine's architecture is meant then.
const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Architectures that may stand alone; linux is meant then.
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// The platform that this program runs on.
    pub fn host() -> Platform {
        normalise(std::env::consts::OS.into(), std::env::consts::ARCH.into(), String::new())
    }
}

fn normalise(os: String, arch: String, variant: String) -> Platform {
    let (arch, variant) = match (arch.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        (arch, variant) => (arch, variant),
    };
    let os = if os == "macos" { "darwin".into() } else { os };
    Platform { os, arch: arch.into(), variant: variant.into() }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Platform, ParsePlatformError> {
        let invalid = || ParsePlatformError::Malformed { text: text.into() };
        let plain = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let lower = text.to_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if !parts.iter().all(|part| plain(part)) {
            return Err(invalid());
        }
        match parts[..] {
            [os, arch] => Ok(normalise(os.into(), arch.into(), String::new())),
            [os, arch, variant] => Ok(normalise(os.into(), arch.into(), variant.into())),
            [one] if SYSTEMS.contains(&one) => Ok(Platform { os: one.into(), ..Platform::host() }),
            [one] => {
                let platform = normalise("linux".into(), one.into(), String::new());
                if ARCHITECTURES.contains(&platform.arch.as_str()) {
                    Ok(platform)
                } else {
                    Err(ParsePlatformError::Unknown { text: text.into() })
                }
            }
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
        for text in ["", "a/b/c/d", "linux/", "linux/am d64", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        for text in ["armhf", "X86-64", "s390x", "Linux", "freebsd"] {
            assert!(text.parse::<Platform>().is_ok(), "{text}");
        }
        let error = "foo".parse::<Platform>().unwrap_err();
        assert_eq!(error.to_string(), "\"foo\": unknown operating system or architecture");
    }
}
