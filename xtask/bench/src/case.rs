//! The cases, and the contexts that they are built from.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Files of the context in which nothing changes.
const UNCHANGED_FILES: usize = 10_000;

/// Files in each folder of a large context.
const FOLDER_FILES: usize = 500;

/// Where dcbuild builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In one process.
    Here,
    /// On a coordinator and four workers.
    Cluster,
}

/// What a case is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Many steps that do nothing.
    Steps,
    /// A context in which nothing changed.
    Unchanged,
    /// A large context, copied for the first time.
    Cold,
    /// A large context in which one file changed.
    OneChanged,
    /// Stages that wait, side by side.
    Stages,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) place: Place,
    /// Whether it is built once before the time is taken.
    pub(crate) is_warm: bool,
}

pub(crate) const CASES: &[Case] = &[
    Case { name: "50 steps of RUN :", shape: Shape::Steps, place: Place::Here, is_warm: false },
    Case {
        name: "10,000 files, nothing changed",
        shape: Shape::Unchanged,
        place: Place::Here,
        is_warm: true,
    },
    Case {
        name: "COPY of many files, cold",
        shape: Shape::Cold,
        place: Place::Here,
        is_warm: false,
    },
    Case {
        name: "COPY of many files, one changed",
        shape: Shape::OneChanged,
        place: Place::Here,
        is_warm: true,
    },
    Case {
        name: "8 stages of sleep 2, 4 workers",
        shape: Shape::Stages,
        place: Place::Cluster,
        is_warm: false,
    },
];

/// A build context on disk.
#[derive(Debug)]
pub(crate) struct Folder {
    shape: Shape,
    base: String,
    context: PathBuf,
    _kept: tempfile::TempDir,
}

impl Folder {
    /// Makes the context of a case.
    pub(crate) fn new(case: &Case, host: &str, files: usize) -> anyhow::Result<Folder> {
        let folder = tempfile::tempdir().context("could not make a folder")?;
        let context = folder.path().join("context");
        let count = match case.shape {
            Shape::Steps | Shape::Stages => 0,
            Shape::Unchanged => UNCHANGED_FILES,
            Shape::Cold | Shape::OneChanged => files,
        };
        std::fs::create_dir_all(context.join("files"))?;
        for number in 0..count {
            let folder = context.join(format!("files/{}", number / FOLDER_FILES));
            if number % FOLDER_FILES == 0 {
                std::fs::create_dir(&folder)?;
            }
            std::fs::write(folder.join(format!("{number}.txt")), content(number))?;
        }
        let base = format!("{host}/busybox:golden");
        Ok(Folder { shape: case.shape, base, context, _kept: folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.context
    }

    /// Writes a Dockerfile that no cache has seen.
    pub(crate) fn prepare(&self, round: usize) -> anyhow::Result<()> {
        let mut text =
            format!("FROM {} AS base\nENV ROUND={}-{round}\n", self.base, std::process::id());
        match self.shape {
            Shape::Steps => text.push_str(&"RUN :\n".repeat(50)),
            Shape::Unchanged => text.push_str("COPY files /files\nRUN ls /files > /list\n"),
            Shape::Cold | Shape::OneChanged => text.push_str("WORKDIR /w\nCOPY files /files\n"),
            Shape::Stages => text.push_str(&stages()),
        }
        std::fs::write(self.context.join("Dockerfile"), text)
            .context("could not write the Dockerfile")
    }

    fn changing(&self) -> PathBuf {
        self.context.join("files/0/0.txt")
    }

    /// Changes one file, where the case is about that.
    pub(crate) fn change(&self, round: usize) -> anyhow::Result<()> {
        if self.shape == Shape::OneChanged {
            std::fs::write(self.changing(), format!("changed in round {round}\n"))?;
        }
        Ok(())
    }

    /// Takes the change back, for the next builder.
    pub(crate) fn change_back(&self) -> anyhow::Result<()> {
        if self.shape == Shape::OneChanged {
            std::fs::write(self.changing(), content(0))?;
        }
        Ok(())
    }
}

fn content(number: usize) -> String {
    format!("file {number} of a context that is large because it has many files\n").repeat(4)
}

fn stages() -> String {
    let mut text = String::new();
    for number in 0..8 {
        text.push_str(&format!(
            "FROM base AS s{number}\nRUN sleep 2 && echo {number} > /o{number}\n"
        ));
    }
    text.push_str("FROM scratch\n");
    for number in 0..8 {
        text.push_str(&format!("COPY --from=s{number} /o{number} /\n"));
    }
    text
}
