//! dcbuild-sandbox
