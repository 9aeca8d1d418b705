//! dcbuild-snapshot
