//! One build, timed, and the median of several.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use dcbuild_tests::wait::Stopwatch;

use super::split::Split;

/// What one build took.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Sample {
    /// Seconds until the command had ended, with the image in the registry.
    pub(super) there: f64,
    /// Seconds until all that was made is stored, and on the disk.
    pub(super) drained: f64,
    /// Where the time went; only dcbuild says.
    pub(super) split: Option<Split>,
}

/// Times a build that begins on a disk with nothing left to write.
pub(super) fn sample<T>(
    build: impl FnOnce() -> anyhow::Result<T>,
    drain: impl FnOnce(),
) -> anyhow::Result<(Sample, T)> {
    sync()?;
    let watch = Stopwatch::start();
    let said = build()?;
    let there = watch.passed().as_secs_f64();
    drain();
    sync()?;
    let drained = watch.passed().as_secs_f64();
    Ok((Sample { there, drained, split: None }, said))
}

/// The median of each time; the split is of the build with the median time.
pub(super) fn median(samples: &[Sample]) -> Sample {
    let middle = |time: &dyn Fn(&Sample) -> f64| {
        let mut sorted = samples.to_vec();
        sorted.sort_by(|one, other| time(one).total_cmp(&time(other)));
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    let there = middle(&|sample| sample.there);
    Sample { drained: middle(&|sample| sample.drained).drained, ..there }
}

/// What was written counts only once it is on the disk.
fn sync() -> anyhow::Result<()> {
    Command::new("sync").status().context("could not sync")?;
    Ok(())
}

/// The bytes that a folder takes on the disk.
pub(super) fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let output = Command::new("du").args(["--summarize", "--block-size=1"]).arg(dir).output();
    let output = output.context("could not start du")?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes = words.split_whitespace().next().and_then(|word| word.parse().ok());
    ensure!(bytes.is_some(), "du says nothing of {}", dir.display());
    Ok(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_each_time() {
        let sample = |there, drained| Sample { there, drained, split: None };
        let all = [sample(3.0, 4.0), sample(1.0, 9.0), sample(2.0, 5.0)];
        assert_eq!(median(&all), sample(2.0, 5.0));
        assert_eq!(median(&[]), Sample::default());
    }

    #[test]
    fn a_folder_takes_what_its_files_take() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!((1 << 20..1 << 21).contains(&bytes), "{bytes}");
    }
}
