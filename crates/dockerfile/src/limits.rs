//! How much text is taken in, and how much may come out of it.

/// The most bytes that a Dockerfile may have.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// The most bytes that one line may have, its line feed not counted; heredoc bodies are held to it too.
pub const LINE_BYTES_MAX: usize = 65_535;

/// The most stages that a Dockerfile may have.
pub const STAGES_MAX: usize = 10_000;

/// The most instructions that a Dockerfile may have, in all stages together.
pub const INSTRUCTIONS_MAX: usize = 100_000;

/// The most bytes that the expansion of one word may yield.
pub const EXPANSION_BYTES_MAX: usize = 1 << 20;

/// How deep substitutions may stand inside one another.
pub const EXPANSION_DEPTH_MAX: usize = 64;
