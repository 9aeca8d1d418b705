//! dcbuild-testkit
