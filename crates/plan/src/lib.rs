//! dcbuild-plan
