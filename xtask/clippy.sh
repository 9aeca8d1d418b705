#!/bin/sh
# Stands for rustc where cargo compiles a crate of the workspace (RUSTC_WORKSPACE_WRAPPER): the same code, and each lint.
exec clippy-driver "$@" -D warnings
