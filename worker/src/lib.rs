//! dcbuild-worker
