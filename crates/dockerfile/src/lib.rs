//! dcbuild-dockerfile
