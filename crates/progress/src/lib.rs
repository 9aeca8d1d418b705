//! dcbuild-progress
