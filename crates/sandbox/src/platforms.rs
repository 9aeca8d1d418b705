//! The platforms whose programs this machine runs: its own, and those whose programs the kernel hands to an interpreter.
//!
//! Which ones those are is asked of the kernel (`binfmt_misc`), by what each interpreter is registered for and not by its
//! name: a program's first bytes say what it was built for.

use std::path::{Path, PathBuf};

use dcbuild_model::Platform;

use crate::compat;

/// Where the kernel shows its interpreters.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// A longer entry is none.
const ENTRY_BYTES_MAX: u64 = 16 << 10;

/// A platform whose programs an interpreter of this machine runs, or could run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The platform.
    pub platform: Platform,
    /// The interpreter.
    pub interpreter: PathBuf,
    /// Why it runs nothing in a container; none where it does.
    pub obstacle: Option<Obstacle>,
}

/// Why an interpreter runs nothing in a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Obstacle {
    /// It is switched off.
    #[error("it is disabled")]
    Disabled,
    /// The kernel looks for its file inside the container.
    #[error("it is registered without the F flag, so a container would need its file")]
    NotFixed,
}

/// The platforms whose programs run here, the machine's own first.
pub fn platforms() -> Vec<Platform> {
    let mut platforms = native();
    platforms.extend(emulated());
    platforms
}

/// The platforms whose programs an interpreter runs.
pub fn emulated() -> Vec<Platform> {
    let foreign = foreign().into_iter().filter(|foreign| foreign.obstacle.is_none());
    foreign.map(|foreign| foreign.platform).collect()
}

/// The platforms that need no interpreter, the machine's own first, and last those of an older architecture.
pub fn native() -> Vec<Platform> {
    let own = Platform { os: "linux".into(), ..Platform::host() };
    let variants = variants().into_iter();
    let levels = variants.map(|variant| Platform { variant: variant.into(), ..own.clone() });
    std::iter::once(own.clone()).chain(levels).chain(compat::platforms()).collect()
}

/// The platforms that have an interpreter, each once; one that runs goes before one that does not.
pub fn foreign() -> Vec<Foreign> {
    foreign_in(Path::new(BINFMT_MISC))
}

fn foreign_in(folder: &Path) -> Vec<Foreign> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let off = read(&folder.join("status")).is_some_and(|status| status.trim() != "enabled");
    let mut found: Vec<Foreign> = Vec::new();
    let own = native();
    for entry in files.iter().filter_map(|file| Entry::parse(&read(file)?)) {
        let obstacle = match entry {
            Entry { enabled: false, .. } => Some(Obstacle::Disabled),
            _ if off => Some(Obstacle::Disabled),
            Entry { fixed: false, .. } => Some(Obstacle::NotFixed),
            Entry { .. } => None,
        };
        for platform in entry.platforms().into_iter().filter(|platform| !own.contains(platform)) {
            let interpreter = entry.interpreter.clone();
            let new = Foreign { platform, interpreter, obstacle };
            match found.iter_mut().find(|known| known.platform == new.platform) {
                Some(known) if known.obstacle.is_some() => *known = new,
                Some(_) => {}
                None => found.push(new),
            }
        }
    }
    found
}

fn read(file: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file).ok()?.take(ENTRY_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What the kernel says of one interpreter.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    interpreter: PathBuf,
    enabled: bool,
    /// Whether its file was opened when it was registered, so that a container need not have it.
    fixed: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Option<Vec<u8>>,
}

impl Entry {
    /// Reads an entry that knows programs by their bytes; none of any other.
    fn parse(text: &str) -> Option<Entry> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
        };
        Some(Entry {
            interpreter: PathBuf::from(field("interpreter ")?),
            enabled: text.lines().next()?.trim() == "enabled",
            fixed: field("flags:").is_some_and(|flags| flags.contains('F')),
            offset: field("offset ").and_then(|number| number.parse().ok()).unwrap_or(0),
            magic: bytes(&field("magic ")?)?,
            mask: field("mask ").map(|mask| bytes(&mask)).unwrap_or_default(),
        })
    }

    /// Whether the kernel hands a program that begins like this to the interpreter.
    fn takes(&self, program: &[u8]) -> bool {
        let Some(begin) =
            program.get(self.offset..).filter(|begin| begin.len() >= self.magic.len())
        else {
            return false;
        };
        let mask = |at: usize| match &self.mask {
            Some(mask) => mask.get(at).copied().unwrap_or(0xff),
            None => 0xff,
        };
        let same = |(at, (magic, byte)): (usize, (&u8, &u8))| (magic ^ byte) & mask(at) == 0;
        self.magic.iter().zip(begin).enumerate().all(same)
    }

    fn platforms(&self) -> Vec<Platform> {
        let taken = KINDS.iter().filter(|kind| self.takes(&kind.begin()));
        let variants = taken.flat_map(|kind| {
            kind.variants.iter().map(|variant| Platform {
                os: "linux".into(),
                arch: kind.arch.into(),
                variant: (*variant).into(),
            })
        });
        variants.collect()
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// Programs of one architecture.
struct Kind {
    arch: &'static str,
    variants: &'static [&'static str],
    class: u8,
    order: Order,
    machine: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

const KINDS: [Kind; 11] = [
    kind("amd64", &[""], 2, Order::Little, 62),
    kind("arm64", &[""], 2, Order::Little, 183),
    kind("arm", &["v7", "v6", "v5"], 1, Order::Little, 40),
    kind("386", &[""], 1, Order::Little, 3),
    kind("riscv64", &[""], 2, Order::Little, 243),
    kind("ppc64le", &[""], 2, Order::Little, 21),
    kind("ppc64", &[""], 2, Order::Big, 21),
    kind("s390x", &[""], 2, Order::Big, 22),
    kind("loong64", &[""], 2, Order::Little, 258),
    kind("mips64le", &[""], 2, Order::Little, 8),
    kind("mips64", &[""], 2, Order::Big, 8),
];

const fn kind(
    arch: &'static str,
    variants: &'static [&'static str],
    class: u8,
    order: Order,
    machine: u16,
) -> Kind {
    Kind { arch, variants, class, order, machine }
}

impl Kind {
    /// The first bytes of an executable file.
    fn begin(&self) -> [u8; 64] {
        let mut begin = [0; 64];
        let (data, executable, machine) = match self.order {
            Order::Little => (1, 2u16.to_le_bytes(), self.machine.to_le_bytes()),
            Order::Big => (2, 2u16.to_be_bytes(), self.machine.to_be_bytes()),
        };
        begin[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.class, data, 1]);
        begin[16..18].copy_from_slice(&executable);
        begin[18..20].copy_from_slice(&machine);
        begin
    }
}

/// The levels of the architecture beyond the first that this processor has.
#[cfg(target_arch = "x86_64")]
fn variants() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let second = has!("cmpxchg16b")
        && has!("popcnt")
        && has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2");
    let third = second
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let fourth = third
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let levels = [(second, "v2"), (third, "v3"), (fourth, "v4")];
    levels.iter().filter(|(there, _)| *there).map(|(_, level)| *level).collect()
}

/// The levels of the architecture beyond the first that this processor has.
#[cfg(not(target_arch = "x86_64"))]
fn variants() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "magic 7f454c460201010000000000000000000200b700\n\
                         mask ffffffffffffff00fffffffffffffffffeffffff\n";
    const ARM: &str = "magic 7f454c4601010100000000000000000002002800\n\
                       mask ffffffffffffff00fffffffffffffffffeffffff\n";
    const S390X: &str = "magic 7f454c4602020100000000000000000000020016\n\
                         mask ffffffffffffff00fffffffffffffffffffeffff\n";

    fn entry(state: &str, flags: &str, rest: &str) -> String {
        format!("{state}\ninterpreter /usr/bin/some\nflags: {flags}\noffset 0\n{rest}")
    }

    fn found(files: &[(&str, String)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let tell = |foreign: Foreign| match foreign.obstacle {
            None => foreign.platform.to_string(),
            Some(obstacle) => format!("{}: {obstacle}", foreign.platform),
        };
        foreign_in(folder.path()).into_iter().map(tell).collect()
    }

    #[test]
    fn interpreters_are_known_by_what_they_take() {
        let files = [
            ("status", "enabled\n".to_owned()),
            // Its name says nothing.
            ("a-python", entry("enabled", "F", "extension .py\n")),
            ("b-x", entry("enabled", "POCF", S390X)),
            ("c-y", entry("enabled", "F", ARM)),
        ];
        assert_eq!(found(&files), ["linux/s390x", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]);
    }

    #[test]
    fn an_interpreter_that_is_off_or_not_fixed_runs_nothing() {
        let s390x = |state: &str, flags: &str| entry(state, flags, S390X);
        let one = |text: String| found(&[("q", text)]);
        assert_eq!(one(s390x("disabled", "F")), ["linux/s390x: it is disabled"]);
        let not_fixed = "linux/s390x: it is registered without the F flag, \
                         so a container would need its file";
        assert_eq!(one(s390x("enabled", "OC")), [not_fixed]);
        let off = [("status", "disabled\n".to_owned()), ("q", s390x("enabled", "F"))];
        assert_eq!(found(&off), ["linux/s390x: it is disabled"]);
        // Two for one platform: the one that works counts.
        let both = [("a", s390x("disabled", "F")), ("b", s390x("enabled", "F"))];
        assert_eq!(found(&both), ["linux/s390x"]);
    }

    #[test]
    fn the_machine_needs_no_interpreter_for_its_own() {
        let own = native();
        assert_eq!(own[0], Platform { os: "linux".into(), ..Platform::host() });
        let both = [
            ("a", entry("enabled", "F", ARM64)),
            ("b", entry("enabled", "F", "magic 7f454c4602010100000000000000000002003e00\n")),
        ];
        let foreign = found(&both);
        assert!(foreign.iter().all(|platform| *platform != own[0].to_string()), "{foreign:?}");
        assert_eq!(foreign.len(), 1, "{foreign:?}");
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn entries_that_are_none_are_passed_over() {
        for text in ["", "enabled\n", "enabled\ninterpreter /x\nmagic zz\n", "enabled\nmagic 7f\n"]
        {
            assert_eq!(Entry::parse(text), None, "{text:?}");
        }
        let long = entry("enabled", "F", &format!("magic {}\n", "00".repeat(100)));
        assert!(!Entry::parse(&long).unwrap().takes(&[0; 64]));
    }
}
