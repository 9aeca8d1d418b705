//! dcbuild-oci
