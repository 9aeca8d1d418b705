//! dcbuild-client
