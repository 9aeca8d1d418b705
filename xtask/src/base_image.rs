//! Makes a Debian base image from the machine's own package sources.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use dcbuild_tests::layout::MadeImage;
use dcbuild_tests::registry::Registry;
use serde_json::json;

/// What is made.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The folder that becomes an OCI layout
    folder: PathBuf,
    /// The packages besides the essential ones
    #[arg(long, default_value = "gcc,libc6-dev")]
    include: String,
    /// Debian's release
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Serve it as this name from a registry, until Enter is pressed
    #[arg(long, value_name = "REPOSITORY:TAG")]
    serve: Option<String>,
}

/// Makes the image, where there is none yet.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    if flags.serve.is_none() && flags.folder.join("index.json").exists() {
        println!("{} is there already", flags.folder.display());
        return Ok(());
    }
    let image = MadeImage::new(
        vec![root_tar(flags)?],
        json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["bash"],
        }),
    );
    image.write(&flags.folder);
    println!("{} holds {}", flags.folder.display(), image.manifest.digest);
    if let Some(name) = &flags.serve {
        let registry = Registry::start();
        registry.put(name, &image);
        println!("{}/{name} is served until Enter is pressed", registry.host);
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

fn root_tar(flags: &Flags) -> anyhow::Result<Vec<u8>> {
    std::fs::create_dir_all(&flags.folder)
        .with_context(|| format!("could not make {}", flags.folder.display()))?;
    let tar = flags.folder.join("root.tar");
    println!("making a Debian {} with {}: a minute or two", flags.suite, flags.include);
    let status = Command::new("mmdebstrap")
        .args(["--variant=essential", "--aptopt=Acquire::Languages \"none\""])
        .arg("--dpkgopt=path-exclude=/usr/share/{doc,man,locale,info}/*")
        .arg(format!("--include={}", flags.include))
        .arg(&flags.suite)
        .arg(&tar)
        .status()
        .context("could not start mmdebstrap: install it, or run `cargo xtask setup examples`")?;
    ensure!(status.success(), "mmdebstrap: {status}");
    let bytes = std::fs::read(&tar).with_context(|| format!("could not read {}", tar.display()))?;
    std::fs::remove_file(&tar)?;
    Ok(bytes)
}
