//! dcbuild-context
