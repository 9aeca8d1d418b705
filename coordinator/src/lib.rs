//! dcbuild-coordinator
