//! Any --mount is typed or refused.
#![no_main]

use dcbuild_dockerfile::{Escape, InstructionKind, expand_word, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|flag: &str| {
    let text = format!("FROM a\nRUN --mount={flag} true\n");
    let Ok(dockerfile) = parse(text.as_bytes()) else { return };
    for instruction in &dockerfile.stages[0].instructions {
        let InstructionKind::Run(run) = &instruction.kind else { continue };
        for mount in &run.mounts {
            let env = |name: &str| (name == "x").then(|| "va,l=ue".to_owned());
            let _mount = mount.resolve(&mut |text| expand_word(text, &env, Escape::Backslash));
        }
    }
});
