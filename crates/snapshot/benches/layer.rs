//! What one pass over a layer costs beside its parts alone, on the same bytes: `cargo xtask bench --only layer`.
#![expect(clippy::print_stdout, reason = "its user is a person at a terminal")]

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use dcbuild_layer::{BlobForm, write_blob};
use dcbuild_model::{AttemptId, Compression};
use dcbuild_snapshot::{CommitForm, Committed, SnapshotContents, Snapshots};
use dcbuild_tree::Meta;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use sha2::{Digest as _, Sha256};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Files in each folder.
const FOLDER_FILES: usize = 500;
/// How much a compressor is given at once.
const PIECE: usize = 1 << 20;

/// What a layer is made of.
struct Case {
    name: &'static str,
    files: usize,
    /// Each file's size is up to this, all sizes are equally frequent; or it is this, where there are few.
    bytes: usize,
}

const CASES: &[Case] = &[
    Case { name: "layer, 1 GiB in 4 files", files: 4, bytes: 256 << 20 },
    Case { name: "layer, 100,000 small files", files: 100_000, bytes: 8 << 10 },
];

struct Flags {
    only: Option<String>,
    rounds: usize,
    profiled: bool,
}

impl Flags {
    fn read() -> Flags {
        let mut flags = Flags { only: None, rounds: 3, profiled: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--only" => flags.only = words.next(),
                "--rounds" => flags.rounds = words.next().and_then(|n| n.parse().ok()).unwrap_or(3),
                // Only the pass in zstd, for a profiler.
                "--profiled" => flags.profiled = true,
                _ => {}
            }
        }
        flags
    }
}

fn main() -> Outcome<()> {
    let flags = Flags::read();
    println!("{:36}{:>12}{:>12}{:>12}", "MB/s", "of a core", "of slowest", "in time");
    let chosen = |name: &str| flags.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
    for case in CASES.iter().filter(|case| chosen(case.name)) {
        run(case, &flags)?;
    }
    Ok(())
}

fn run(case: &Case, flags: &Flags) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let snapshots = Snapshots::open(dir.path())?;
    let upper = snapshots.begin(AttemptId::from_bits(1), &Meta::default())?;
    fill(&upper.upper(), case)?;
    let form = CommitForm { lower: &|_| None, stubs: &[], threads: cores() };
    let (committed, commit) = once(|| Ok(snapshots.commit(upper, &form)?))?;
    let mut tar = Vec::new();
    pass(&committed, Compression::None, &mut tar)?;
    println!("{}", case.name);
    let timed = |compression| median(flags, || pass(&committed, compression, io::sink()));
    if flags.profiled {
        Line { what: "one pass, zstd", cost: timed(Compression::Zstd)?, slowest: None }.print(&tar);
        return Ok(());
    }
    let files = committed.snapshot.path();
    let tarred = median(flags, || tar_alone(files))?;
    let hashed = median(flags, || {
        std::hint::black_box(Sha256::digest(&tar));
        Ok(())
    })?;
    let zstd = median(flags, || zstd_alone(&tar))?;
    let gzip = median(flags, || gzip_alone(&tar))?;
    let slowest = |packed: Option<Cost>| {
        [Some(tarred), Some(hashed), packed].into_iter().flatten().max_by_key(|cost| cost.core)
    };
    let line = |what, cost, slowest| Line { what, cost, slowest };
    for line in [
        line("tar alone", tarred, None),
        line("sha256 alone", hashed, None),
        line("zstd alone", zstd, None),
        line("gzip alone", gzip, None),
        line("scan and hash of a RUN's files", commit, None),
        line("one pass, not compressed", timed(Compression::None)?, slowest(None)),
        line("one pass, zstd", timed(Compression::Zstd)?, slowest(Some(zstd))),
        line("one pass, gzip", timed(Compression::Gzip)?, slowest(Some(gzip))),
    ] {
        line.print(&tar);
    }
    Ok(())
}

/// Writes the layer's blob as a worker does.
fn pass(committed: &Committed, compression: Compression, out: impl Write) -> Outcome<()> {
    let contents = SnapshotContents::new([committed.snapshot.clone()]);
    let form = BlobForm { compression, level: None, threads: cores() };
    write_blob(&committed.changes, &contents, &form, out)?;
    Ok(())
}

fn tar_alone(files: &Path) -> Outcome<()> {
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(PIECE, io::sink()));
    tar.append_dir_all(".", files)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

fn zstd_alone(tar: &[u8]) -> Outcome<()> {
    let mut compressor = zstd::bulk::Compressor::new(3)?;
    let mut out = vec![0; zstd::zstd_safe::compress_bound(PIECE)];
    for piece in tar.chunks(PIECE) {
        compressor.compress_to_buffer(piece, &mut out)?;
    }
    Ok(())
}

fn gzip_alone(tar: &[u8]) -> Outcome<()> {
    let level = libdeflater::CompressionLvl::new(4).map_err(|_| "no level 4")?;
    let mut compressor = libdeflater::Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(PIECE)];
    for piece in tar.chunks(PIECE) {
        compressor.gzip_compress(piece, &mut out).map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

/// What something took.
#[derive(Clone, Copy)]
struct Cost {
    /// Of all cores together.
    core: Duration,
    /// On the clock.
    time: Duration,
}

struct Line {
    what: &'static str,
    cost: Cost,
    slowest: Option<Cost>,
}

impl Line {
    fn print(&self, tar: &[u8]) {
        let bytes = u32::try_from(tar.len() / 1000).map_or(f64::MAX, f64::from);
        let rate = |time: Duration| bytes / 1000.0 / time.as_secs_f64();
        let part = self.slowest.map(|slowest| {
            let percent = 100.0 * slowest.core.as_secs_f64() / self.cost.core.as_secs_f64();
            format!("{percent:.0} %")
        });
        println!(
            "  {:34}{:>12.0}{:>12}{:>12.0}",
            self.what,
            rate(self.cost.core),
            part.unwrap_or_default(),
            rate(self.cost.time)
        );
    }
}

fn once<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Cost)> {
    #[expect(clippy::disallowed_types, reason = "a benchmark takes the time")]
    let (began, before) = (std::time::Instant::now(), cpu()?);
    let made = work()?;
    Ok((made, Cost { core: cpu()?.saturating_sub(before), time: began.elapsed() }))
}

fn median(flags: &Flags, work: impl Fn() -> Outcome<()>) -> Outcome<Cost> {
    let mut costs = Vec::new();
    for _ in 0..flags.rounds.max(1) {
        costs.push(once(&work)?.1);
    }
    costs.sort_by_key(|cost| cost.core);
    costs.get(costs.len() / 2).copied().ok_or_else(|| "no round was run".into())
}

/// What all threads of this process have taken so far.
fn cpu() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let passed = |time: TimeVal| -> Outcome<Duration> {
        let micros = Duration::from_micros(u64::try_from(time.tv_usec())?);
        Ok(Duration::from_secs(u64::try_from(time.tv_sec())?) + micros)
    };
    Ok(passed(usage.user_time())? + passed(usage.system_time())?)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The files: half of each is words of a program, a quarter records with numbers, a quarter is as good as random.
fn fill(root: &Path, case: &Case) -> Outcome<()> {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let pool = pool(&mut chance);
    for number in 0..case.files {
        let folder = root.join(format!("folder-{:04}", number / FOLDER_FILES));
        if number % FOLDER_FILES == 0 {
            std::fs::create_dir(&folder)?;
        }
        let few = case.files < FOLDER_FILES;
        let size = if few { case.bytes } else { chance.below(case.bytes) };
        let mut file = File::create(folder.join(format!("file-{number:06}.src")))?;
        let mut left = size;
        while left > 0 {
            let from = chance.below(pool.len() - (4 << 10));
            let piece = pool.get(from..).unwrap_or_default();
            let piece = piece.get(..left.min(1 << 10)).unwrap_or(piece);
            file.write_all(piece)?;
            left -= piece.len();
        }
    }
    Ok(())
}

/// What the files are cut from: too long for a compressor to remember all of it.
fn pool(chance: &mut Chance) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "fn ", "let ", "return ", "struct ", "impl ", "    ", "\n", "self.", "value", "(", ")",
        " = ", ";\n", "match ", "for ", "size", "error", "path", "&mut ", "String", "::new", "0x",
        ", ", "if ",
    ];
    let mut pool = Vec::with_capacity(65 << 20);
    while pool.len() < 64 << 20 {
        match chance.below(4) {
            0 => (0..64).for_each(|_| pool.extend_from_slice(&chance.next().to_le_bytes())),
            1 => (0..32).for_each(|at: u64| {
                pool.extend_from_slice(&(0x40_0000 + at * 24).to_le_bytes());
                pool.extend_from_slice(&(chance.next() >> 48).to_le_bytes());
            }),
            _ => (0..100).for_each(|_| {
                let word = WORDS.get(chance.below(WORDS.len())).copied().unwrap_or_default();
                pool.extend_from_slice(word.as_bytes());
            }),
        }
    }
    pool
}

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(1).max(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }
}
