//! dcbuild-store
