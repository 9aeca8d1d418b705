//! Installs what is not Rust.

use anyhow::bail;
use clap::ValueEnum;

use crate::step::{step, works};

/// What is to be installed.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// For what
    #[arg(value_enum, default_value = "all")]
    purpose: Purpose,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Purpose {
    /// The tests
    Tests,
    /// The examples
    Examples,
    /// The measurements
    Bench,
    /// Everything
    All,
}

struct Package {
    name: &'static str,
    purposes: &'static [Purpose],
    reason: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "busybox-static",
        purposes: &[Purpose::Tests],
        reason: "the base image of all tests is made from it",
    },
    Package {
        name: "docker-registry",
        purposes: &[Purpose::Tests],
        reason: "tests pull from it and push to it",
    },
    Package {
        name: "e2fsprogs",
        purposes: &[Purpose::Tests],
        reason: "a disk that a test fills is of ext4, as those of workers are",
    },
    Package {
        name: "git",
        purposes: &[Purpose::Tests],
        reason: "contexts and ADD take it from repositories, which it serves to the tests as well",
    },
    Package {
        name: "openssh-client",
        purposes: &[Purpose::Tests],
        reason: "its agent and its ssh-add are what RUN --mount=type=ssh is tested with",
    },
    Package {
        name: "redis-server",
        purposes: &[Purpose::Tests],
        reason: "the index of a remote cache is tested against it, and against its sentinels",
    },
    Package {
        name: "skopeo",
        purposes: &[Purpose::Tests],
        reason: "a second opinion on the images that are written",
    },
    Package {
        name: "docker.io",
        purposes: &[Purpose::Tests, Purpose::Bench],
        reason: "images are loaded into a daemon of the tests' own; what dcbuild is measured against",
    },
    Package {
        name: "mmdebstrap",
        purposes: &[Purpose::Examples],
        reason: "the example's base image with gcc is made with it",
    },
];

/// Says what is needed, and installs what is missing.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let wanted = |package: &&Package| {
        flags.purpose == Purpose::All || package.purposes.contains(&flags.purpose)
    };
    let mut missing = Vec::new();
    for package in PACKAGES.iter().filter(wanted) {
        let there = works("dpkg-query", &["--status", package.name]);
        let state = if there { "installed" } else { "missing" };
        println!("{:16} {state:10} {}", package.name, package.reason);
        if !there {
            missing.push(package.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !works("apt-get", &["--version"]) {
        bail!("there is no apt-get: please install {} by hand", missing.join(" "));
    }
    println!("installing {} with apt-get", missing.join(" "));
    step("apt-get", &["update", "--quiet"])?;
    let fixed = ["install", "--quiet", "--yes", "--no-install-recommends"];
    step("apt-get", &[&fixed[..], &missing].concat())
}
