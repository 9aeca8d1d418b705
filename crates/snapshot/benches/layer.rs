//! What one pass over a layer costs beside its parts alone, on the same bytes: `cargo xtask bench --only layer`.
#![expect(clippy::print_stdout, reason = "its user is a person at a terminal")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::time::Duration;

use dcbuild_layer::{BlobForm, ReadContent as _, TwinHash, WrittenBlob, write_blob};
use dcbuild_model::{AttemptId, Compression};
use dcbuild_snapshot::{CommitForm, Committed, SnapshotContents, Snapshots};
use dcbuild_tree::{Change, Entry, FileBody, Kind, Meta};
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

/// What is measured, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Tar,
    Hash,
    Zstd,
    Gzip,
    Read,
    Twin,
    ZstdHash,
    GzipHash,
    Pass(Compression),
}

const PARTS: &[(Part, &str)] = &[
    (Part::Tar, "tar alone"),
    (Part::Hash, "sha256 alone"),
    (Part::Zstd, "zstd alone"),
    (Part::Gzip, "gzip alone"),
    (Part::Read, "files opened and read"),
    (Part::Twin, "sha256 of tar and files as one"),
    (Part::ZstdHash, "sha256 of the zstd blob"),
    (Part::GzipHash, "sha256 of the gzip blob"),
    (Part::Pass(Compression::None), "one pass, not compressed"),
    (Part::Pass(Compression::Zstd), "one pass, zstd"),
    (Part::Pass(Compression::Gzip), "one pass, gzip"),
];

fn main() -> Outcome<()> {
    let flags = Flags::read();
    let titles = ["ns a byte", "MB/s a core", "of slowest", "can be", "MB/s in time"];
    println!("{:36}{}", "", titles.map(|title| format!("{title:>14}")).concat());
    let chosen = |name: &str| flags.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
    for case in CASES.iter().filter(|case| chosen(case.name)) {
        run(case, &flags)?;
    }
    Ok(())
}

/// Measures the parts in turn, round after round; of each the round counts in which it was disturbed least.
fn run(case: &Case, flags: &Flags) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let snapshots = Snapshots::open(dir.path())?;
    let upper = snapshots.begin(AttemptId::from_bits(1), &Meta::default())?;
    fill(&upper.upper(), case)?;
    let form = CommitForm { lower: &|_| None, stubs: &[], threads: cores() };
    let committed = snapshots.commit(upper, &form)?;
    let subject = Subject::new(committed)?;
    println!("{}", case.name);
    let is_wanted = |part: &Part| !flags.profiled || *part == Part::Pass(Compression::Zstd);
    let parts: Vec<_> = PARTS.iter().filter(|(part, _)| is_wanted(part)).collect();
    let mut costs: BTreeMap<Part, Cost> = BTreeMap::new();
    for _ in 0..flags.rounds.max(1) {
        for (part, _) in &parts {
            let cost = once(|| subject.work(*part))?;
            let best = costs.entry(*part).or_insert(cost);
            *best = Cost { core: best.core.min(cost.core), time: best.time.min(cost.time) };
        }
    }
    for (part, what) in parts {
        Line { what, part: *part, costs: &costs }.print(&subject.tar);
    }
    Ok(())
}

/// A layer, as files and as bytes.
struct Subject {
    committed: Committed,
    contents: SnapshotContents,
    /// Where the files lie in the tar.
    places: Vec<(usize, usize)>,
    tar: Vec<u8>,
    zstd: Vec<u8>,
    gzip: Vec<u8>,
}

impl Subject {
    fn new(committed: Committed) -> Outcome<Subject> {
        let contents = SnapshotContents::new([committed.snapshot.clone()]);
        let [mut tar, mut zstd, mut gzip] = [const { Vec::new() }; 3];
        let index = pass(&committed, Compression::None, &mut tar)?.index;
        pass(&committed, Compression::Zstd, &mut zstd)?;
        pass(&committed, Compression::Gzip, &mut gzip)?;
        let mut places = Vec::new();
        for extent in committed.changes.0.keys().filter_map(|path| index.locate(path)) {
            places.push((extent.blob.start.try_into()?, extent.blob.end.try_into()?));
        }
        Ok(Subject { committed, contents, places, tar, zstd, gzip })
    }

    fn work(&self, part: Part) -> Outcome<()> {
        let hash = |bytes: &[u8]| {
            std::hint::black_box(Sha256::digest(bytes));
            Ok(())
        };
        match part {
            Part::Tar => tar_alone(self.committed.snapshot.path()),
            Part::Hash => hash(&self.tar),
            Part::Zstd => zstd_alone(&self.tar),
            Part::Gzip => gzip_alone(&self.tar),
            Part::Read => self.read_alone(),
            Part::Twin => {
                self.twin_alone();
                Ok(())
            }
            Part::ZstdHash => hash(&self.zstd),
            Part::GzipHash => hash(&self.gzip),
            Part::Pass(compression) => {
                pass(&self.committed, compression, io::sink())?;
                Ok(())
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = &FileBody> {
        self.committed.changes.0.values().filter_map(|change| match change {
            Change::Put(Entry { kind: Kind::File(body), .. }) => Some(body),
            _ => None,
        })
    }

    /// Reads each file into memory that is there already.
    fn read_alone(&self) -> Outcome<()> {
        let mut memory = vec![0; PIECE];
        for body in self.files() {
            let mut reader = self.contents.open(body)?;
            while reader.read(&mut memory)? > 0 {}
        }
        Ok(())
    }

    /// Hashes the tar with the files where they are in it.
    fn twin_alone(&self) {
        let (mut hash, mut passed) = (TwinHash::new(), 0);
        for (start, end) in &self.places {
            hash.around(self.tar.get(passed..*start).unwrap_or_default());
            hash.begin();
            hash.content(self.tar.get(*start..*end).unwrap_or_default());
            std::hint::black_box(hash.end());
            passed = *end;
        }
        hash.around(self.tar.get(passed..).unwrap_or_default());
        std::hint::black_box(hash.finish());
    }
}

/// Writes the layer's blob as a worker does.
fn pass(committed: &Committed, compression: Compression, out: impl Write) -> Outcome<WrittenBlob> {
    let contents = SnapshotContents::new([committed.snapshot.clone()]);
    let form = BlobForm { compression, level: None, threads: cores() };
    Ok(write_blob(&committed.changes, &contents, &form, out)?)
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

struct Line<'a> {
    what: &'static str,
    part: Part,
    costs: &'a BTreeMap<Part, Cost>,
}

impl Line<'_> {
    fn print(&self, tar: &[u8]) {
        let bytes = u32::try_from(tar.len() / 1000).map_or(f64::MAX, f64::from);
        let rate = |time: f64| bytes / 1000.0 / time;
        let Some(cost) = self.costs.get(&self.part) else { return };
        let core = cost.core.as_secs_f64();
        let percent = |part: f64, whole: f64| format!("{:.0} %", 100.0 * part / whole);
        let (of_slowest, can_be) = self
            .parts()
            .map(|(slowest, sum)| (percent(slowest, core), percent(slowest, sum)))
            .unwrap_or_default();
        println!(
            "  {:34}{:>14.2}{:>14.0}{of_slowest:>14}{can_be:>14}{:>14.0}",
            self.what,
            core * 1e6 / bytes,
            rate(core),
            rate(cost.time.as_secs_f64())
        );
    }

    /// The slowest part of a pass, and all that one core cannot do without: the aim is a part of the one, the other is
    /// what can be reached.
    fn parts(&self) -> Option<(f64, f64)> {
        let Part::Pass(compression) = self.part else { return None };
        let (packed, hashed): (&[Part], &[Part]) = match compression {
            Compression::None => (&[], &[]),
            Compression::Zstd => (&[Part::Zstd], &[Part::ZstdHash]),
            Compression::Gzip => (&[Part::Gzip], &[Part::GzipHash]),
        };
        let seconds = |part: &Part| self.costs.get(part).map(|cost| cost.core.as_secs_f64());
        let all =
            |parts: &[&[Part]]| parts.concat().iter().map(seconds).collect::<Option<Vec<_>>>();
        let slowest = all(&[&[Part::Tar, Part::Hash], packed])?.into_iter().reduce(f64::max)?;
        Some((slowest, all(&[&[Part::Read, Part::Twin], packed, hashed])?.iter().sum()))
    }
}

fn once(work: impl FnOnce() -> Outcome<()>) -> Outcome<Cost> {
    #[expect(clippy::disallowed_types, reason = "a benchmark takes the time")]
    let (began, before) = (std::time::Instant::now(), cpu()?);
    work()?;
    Ok(Cost { core: cpu()?.saturating_sub(before), time: began.elapsed() })
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
