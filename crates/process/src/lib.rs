//! dcbuild-process
