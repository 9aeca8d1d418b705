//! Any bytes are a Dockerfile or are refused; what is refused can be shown.
#![no_main]

use dcbuild_dockerfile::{Span, excerpt, parse, parse_partly, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let partly = parse_partly(bytes);
    match parse(bytes) {
        Ok(dockerfile) => {
            assert_eq!(dockerfile, partly.dockerfile);
            let lines = u32::try_from(text.split('\n').count()).unwrap();
            for span in dockerfile.stages.iter().flat_map(|stage| {
                stage.instructions.iter().map(|instruction| instruction.span).chain([stage.span])
            }) {
                let Span { start_line, end_line } = span;
                assert!(1 <= start_line && start_line <= end_line && end_line <= lines, "{span:?}");
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _shown = error.span.map(|span| excerpt(&text, "Dockerfile", span));
        }
    }
    let _trigger = parse_trigger(&text);
});
