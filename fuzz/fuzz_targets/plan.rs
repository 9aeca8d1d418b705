//! Any text is planned or refused, twice the same; every step stands behind those that it waits for.
#![no_main]

use dcbuild_model::{
    ConfigDigest, DiffId, Digest, LayerDigest, ManifestDigest, Platform, SelectionDigest, StepIndex,
};
use dcbuild_oci::ImageConfig;
use dcbuild_plan::{
    Call, ImageLayer, ImageSource, InputSource, Need, Plan, Planned, Request, ResolvedImage,
    Sources, call, plan, show,
};
use libfuzzer_sys::fuzz_target;

fn image() -> ResolvedImage {
    let platform: Platform = "linux/amd64".parse().unwrap();
    let mut config = ImageConfig::for_platform(&platform);
    config.config.env = vec!["PATH=/bin".into(), "X=a b".into()];
    config.config.on_build = vec!["RUN echo ${X}".into(), "COPY . /src".into()];
    let digest = Digest::of(b"image");
    ResolvedImage {
        manifest: ManifestDigest(digest),
        named: ManifestDigest(digest),
        config_digest: ConfigDigest(digest),
        config,
        layers: vec![ImageLayer {
            digest: LayerDigest(digest),
            diff_id: DiffId(digest),
            size: 1,
            media_type: String::new(),
        }],
        source: ImageSource::Registry { repository: "docker.io/library/busybox".into() },
    }
}

fn answer(needs: Vec<Need>, sources: &mut Sources) {
    for need in needs {
        match need {
            Need::Verdict(_) | Need::Remote(_) => panic!("there is no policy of a client"),
            Need::Image { reference, platform } => {
                let answer =
                    if reference.contains("none") { Err("not found".into()) } else { Ok(image()) };
                sources.images.insert((reference, platform), answer);
            }
            Need::Selection { context, selection } => {
                let digest = SelectionDigest(Digest::of(format!("{selection:?}").as_bytes()));
                sources.selections.insert((context, selection), Ok(digest));
            }
        }
    }
}

fn planned(request: &Request, sources: &mut Sources) -> Option<Plan> {
    for _ in 0..100 {
        match plan(request, sources).ok()? {
            Planned::Ready(plan) => return Some(*plan),
            Planned::Lacks(needs) => answer(needs, sources),
        }
    }
    panic!("the plan asks for ever");
}

fuzz_target!(|text: &str| {
    let mut request = Request::new(text);
    request.build_args.insert("X".into(), "va/l ue".into());
    let mut sources = Sources::default();
    for what in [Call::Check, Call::Outline, Call::Targets] {
        let _report = call(what, &request, &sources);
    }
    let Some(plan) = planned(&request, &mut sources) else { return };
    assert_eq!(planned(&request, &mut sources).as_ref(), Some(&plan));
    for (index, step) in (0..).map(StepIndex).zip(&plan.steps) {
        assert!(step.parent.is_none_or(|parent| parent < index));
        for input in &step.inputs {
            assert!(!matches!(input.source, InputSource::Step { step } if step >= index));
        }
    }
    let _shown = (show::text(&plan), show::dot(&plan), show::svg(&plan));
});
