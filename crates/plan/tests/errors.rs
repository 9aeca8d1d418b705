//! What an error of planning tells its reader beyond the place.

use dcbuild_model::Platform;
use dcbuild_plan::{PlanError, Planned, Request, Sources, plan};

/// The error of a Dockerfile whose images no registry has.
fn error_without_images(dockerfile: &str) -> PlanError {
    let request = Request { platforms: vec![Platform::host()], ..Request::new(dockerfile) };
    let mut sources = Sources::default();
    loop {
        match plan(&request, &sources) {
            Err(error) => return error,
            Ok(Planned::Ready(_)) => panic!("it was planned"),
            Ok(Planned::Lacks(needs)) => {
                for need in needs {
                    let dcbuild_plan::Need::Image { reference, platform } = need else { continue };
                    sources
                        .images
                        .insert((reference, platform), Err("not found".to_owned().into()));
                }
            }
        }
    }
}

#[test]
fn a_misspelt_stage_is_named() {
    let dockerfile = "FROM scratch AS builder\nCOPY a /\nFROM scratch\nCOPY --from=bulder /a /\n";
    let error = error_without_images(dockerfile);
    assert_eq!(error.hint().unwrap(), "did you mean the stage builder?");
    assert_eq!(error.lines(), Some((4, 4)));
    let error = error_without_images("FROM alpine AS builder\nRUN a\n");
    assert_eq!(error.hint(), None);
}
