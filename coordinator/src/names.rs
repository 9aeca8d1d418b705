//! Gives images their names in the store of a cluster, whose workers do not write names there themselves.

use dcbuild_model::{Fault, ManifestDigest, UnixTime};
use dcbuild_proto::document::{Failed, Outcome, OutputKind, OutputResult, Submission};
use dcbuild_store::NamedImage;

use crate::records::Records;

/// The names that a build gives, once it is done; none where its worker shares the store and gave them.
pub(crate) fn given(
    submission: &Submission,
    outcome: &Outcome,
    tagged: UnixTime,
) -> Vec<NamedImage> {
    let Outcome::Done { outputs, .. } = outcome else { return Vec::new() };
    if submission.in_place {
        return Vec::new();
    }
    let kept = submission.outputs.iter().zip(outputs).filter_map(|(spec, made)| {
        match (&spec.kind, made) {
            (OutputKind::Image { keep: true, names, .. }, OutputResult::Image { manifest, .. }) => {
                Some((names, *manifest))
            }
            (OutputKind::Image { keep: true, names, .. }, OutputResult::Index { index, .. }) => {
                Some((names, *index))
            }
            _ => None,
        }
    });
    let named = |(names, manifest): (&Vec<String>, ManifestDigest)| {
        let image = move |name: &String| NamedImage { name: name.clone(), manifest, tagged };
        names.iter().map(image).collect::<Vec<_>>()
    };
    kept.flat_map(named).collect()
}

/// Writes names down; a build whose image has no name is not done.
pub(crate) async fn keep(records: &Records, names: Vec<NamedImage>, outcome: Outcome) -> Outcome {
    for image in names {
        if let Err(error) = records.stores.names.put(&records.scope, &image).await {
            let reason = dcbuild_process::story(&error);
            let message = format!("could not give the image the name {}: {reason}", image.name);
            let hint = Some("submit the build again: its steps are in the cache".to_owned());
            let failed = crate::driver::failed(Fault::Cluster, "NAMING", message);
            return Outcome::Failed(Failed { hint, ..failed });
        }
    }
    outcome
}
