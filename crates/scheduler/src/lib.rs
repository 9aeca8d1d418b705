//! dcbuild-scheduler
