//! dcbuild-tests
