//! dcbuild-layer
