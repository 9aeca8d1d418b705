//! dcbuild-proto
