//! The generated code is the one that the proto file gives.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;

fn generate(out: &Path) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile([here.join("v1.proto")], [here]).unwrap();
    tonic_prost_build::configure().out_dir(out).bytes(".").compile_fds(files).unwrap();
}

#[test]
fn generated_code_is_fresh() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path());
    let fresh = std::fs::read_to_string(folder.path().join("dcbuild.v1.rs")).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated/dcbuild.v1.rs");
    if std::fs::read_to_string(&committed).ok().as_deref() != Some(&fresh) {
        std::fs::write(&committed, fresh).unwrap();
        panic!("src/generated/dcbuild.v1.rs was not what v1.proto gives; it is now, commit it");
    }
}
