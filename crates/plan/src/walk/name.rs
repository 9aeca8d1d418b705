//! The names of steps, as BuildKit shows them.

use dcbuild_dockerfile::expand::{ExpandOptions, QuoteMode, UnsetMode, expand};
use dcbuild_model::Platform;

use super::{Stage, Walk};

impl Walk<'_> {
    /// The name of a step: its place in the stage and the instruction with the variables that are set.
    pub(super) fn title(&self, stage: &mut Stage, source: &str) -> String {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let mut options = ExpandOptions::with_escape(self.draft.dockerfile.escape());
        (options.quotes, options.unset) = (QuoteMode::Keep, UnsetMode::Keep);
        let text = expand(source, &lookup, options)
            .map_or_else(|_| source.to_owned(), |expanded| expanded.text);
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let text = format!("{} {rest}", word.to_uppercase());
        self.named(stage, text.trim_end())
    }

    /// A text behind the place of a step in its stage; where there are several platforms, behind the platform too.
    pub(super) fn named(&self, stage: &mut Stage, text: &str) -> String {
        if stage.total == 0 {
            return text.to_owned();
        }
        stage.counted += 1;
        let platform = if self.draft.request.is_index() {
            let from = text.starts_with("FROM ");
            let crossing = if from { String::new() } else { crossing(stage) };
            format!("{}{crossing} ", stage.platform)
        } else {
            String::new()
        };
        let width = stage.total.to_string().len();
        let title = if stage.title.is_empty() { "" } else { &format!("{} ", stage.title) };
        let onbuild = if stage.onbuild { "ONBUILD " } else { "" };
        format!("[{platform}{title}{:>width$}/{}] {onbuild}{text}", stage.counted, stage.total)
    }
}

/// The platform that a stage builds for, where it says that this is not the one that it runs on: `->arm64`.
fn crossing(stage: &Stage) -> String {
    let own = &stage.platform;
    let Some(target) = target_of(stage) else { return String::new() };
    if target.os != own.os {
        return format!("->{target}");
    }
    if target.arch == own.arch {
        return String::new();
    }
    let slash = if target.variant.is_empty() { "" } else { "/" };
    format!("->{}{slash}{}", target.arch, target.variant)
}

/// The platform that a stage builds for, as far as its ARGs tell it.
fn target_of(stage: &Stage) -> Option<Platform> {
    if let Some(target) = stage.env.get("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(target);
    }
    let (os, arch) = (stage.env.get("TARGETOS"), stage.env.get("TARGETARCH"));
    if os.is_none() && arch.is_none() {
        return None;
    }
    let given = |value: Option<&str>, own: &str| {
        value.filter(|value| !value.is_empty()).unwrap_or(own).to_owned()
    };
    let own = &stage.platform;
    format!("{}/{}", given(os, &own.os), given(arch, &own.arch)).parse().ok()
}
