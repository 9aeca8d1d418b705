//! dcbuild-registry
