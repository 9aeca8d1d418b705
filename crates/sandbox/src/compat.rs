//! Programs of an older architecture that the processor runs by itself: those of 386 on amd64, of 32-bit arm on arm64.
//!
//! Whether it does is tried once, with a program of a few bytes: kernels can be built or started without.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use dcbuild_model::Platform;
use rustix::fs::{MemfdFlags, memfd_create};

/// What the tried program ends with.
const EXIT: i32 = 42;

/// An older architecture, and what is known of its system calls.
pub(crate) struct Older {
    /// The architecture that runs it too, as the compiler names it.
    host: &'static str,
    arch: &'static str,
    variants: &'static [&'static str],
    /// The machine of its programs, and their flags.
    elf: (u16, u32),
    /// Where programs are put in memory.
    base: u32,
    /// Ends with [`EXIT`].
    code: &'static [u8],
    /// What filters of system calls know it by.
    pub(crate) audit: u32,
    /// The calls that a step may not make, as `REFUSED` of the filter has them, and those that only it has.
    pub(crate) refused: &'static [u32],
    pub(crate) clone: u32,
    pub(crate) clone3: u32,
    pub(crate) personality: u32,
    pub(crate) socket: u32,
}

const OLDER: [Older; 2] = [
    Older {
        host: "x86_64",
        arch: "386",
        variants: &[""],
        elf: (3, 0),
        base: 0x0804_8000,
        code: &[0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80],
        audit: 0x4000_0003,
        refused: &[
            21, 22, 25, 51, 52, 62, 79, 86, 87, 88, 101, 103, 110, 111, 113, 115, 127, 128, 129,
            130, 131, 135, 149, 166, 167, 169, 217, 253, 264, 274, 276, 283, 286, 287, 288, 294,
            310, 317, 336, 338, 342, 346, 350, 357, 374, 404, 425, 426, 427, 428, 429, 430, 431,
            432, 433, 442, 443, 450,
        ],
        clone: 120,
        clone3: 435,
        personality: 136,
        socket: 359,
    },
    Older {
        host: "aarch64",
        arch: "arm",
        variants: &["v7", "v6"],
        elf: (40, 0x0500_0200),
        base: 0x0001_0000,
        code: &[0x2a, 0, 0xa0, 0xe3, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef],
        audit: 0x4000_0028,
        refused: &[
            21, 22, 25, 51, 52, 62, 79, 86, 87, 88, 103, 111, 115, 128, 129, 131, 135, 149, 169,
            218, 249, 262, 309, 310, 311, 319, 321, 337, 344, 347, 364, 367, 371, 375, 379, 386,
            388, 400, 401, 404, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443, 450,
        ],
        clone: 120,
        clone3: 435,
        personality: 136,
        socket: 281,
    },
];

/// The older architecture of this machine's kind, whether it runs or not.
pub(crate) fn older() -> Option<&'static Older> {
    OLDER.iter().find(|older| older.host == std::env::consts::ARCH)
}

/// The platforms whose programs run here although they are not the machine's own.
pub(crate) fn platforms() -> Vec<Platform> {
    static RUNS: OnceLock<bool> = OnceLock::new();
    let Some(older) = older().filter(|older| *RUNS.get_or_init(|| older.runs())) else {
        return Vec::new();
    };
    let platform = |variant: &&str| Platform {
        os: "linux".into(),
        arch: older.arch.into(),
        variant: (*variant).into(),
    };
    older.variants.iter().map(platform).collect()
}

impl Older {
    /// Whether a program of it comes to its end.
    fn runs(&self) -> bool {
        let Ok(file) = memfd_create("dcbuild-try", MemfdFlags::CLOEXEC) else { return false };
        let mut file = std::fs::File::from(file);
        if file.write_all(&self.program()).is_err() {
            return false;
        }
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.code() == Some(EXIT))
    }

    /// An executable file with one segment.
    fn program(&self) -> Vec<u8> {
        const HEADERS: u32 = 52 + 32;
        let (machine, flags) = self.elf;
        let bytes = HEADERS + u32::try_from(self.code.len()).unwrap_or_default();
        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [2, machine] {
            file.extend(half.to_le_bytes());
        }
        // The version, where it begins, where the segments are listed, and that sections are not.
        for word in [1, self.base + HEADERS, 52, 0, flags] {
            file.extend(word.to_le_bytes());
        }
        for half in [52u16, 32, 1, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        for word in [1, 0, self.base, self.base, bytes, bytes, 5, 0x1000] {
            file.extend(word.to_le_bytes());
        }
        file.extend(self.code);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_does_not_run() {
        let Some(older) = older() else { return };
        let broken = Older { elf: (0xfff0, 0), ..*older };
        assert!(!broken.runs());
        let other_end = Older { code: &[0; 12], ..*older };
        assert!(!other_end.runs());
    }

    #[test]
    fn lists_are_in_order_and_name_nothing_twice() {
        for older in &OLDER {
            assert!(older.refused.is_sorted_by(|one, next| one < next), "{}", older.arch);
            for other in [older.clone, older.clone3, older.personality, older.socket] {
                assert!(!older.refused.contains(&other), "{}", older.arch);
            }
        }
    }
}
