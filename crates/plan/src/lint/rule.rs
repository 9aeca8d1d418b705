//! The checks that there are: their names, what they are about, and where more is said of them.

use serde::{Deserialize, Serialize};

/// Where docker's documentation explains each check.
const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule/";

macro_rules! rules {
    ($($(#[$kind:meta])? $rule:ident $page:literal $about:literal,)*) => {
        /// One check.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "each name says what the check is about, and `about` says it in full")]
        pub enum Rule { $($rule,)* }

        impl Rule {
            /// Every check, in the order of docker's documentation.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            /// Its name, as `# check=skip=` takes it.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => stringify!($rule),)* }
            }

            /// What it is about, in one sentence.
            pub fn about(self) -> &'static str {
                match self { $(Rule::$rule => $about,)* }
            }

            fn page(self) -> &'static str {
                match self { $(Rule::$rule => $page,)* }
            }
        }
    };
}

rules! {
    StageNameCasing "stage-name-casing" "Stage names should be lowercase",
    FromAsCasing "from-as-casing" "The 'as' keyword should match the case of the 'from' keyword",
    NoEmptyContinuation "no-empty-continuation"
        "Empty continuation lines will become errors in a future release",
    ConsistentInstructionCasing "consistent-instruction-casing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    DuplicateStageName "duplicate-stage-name" "Stage names should be unique",
    ReservedStageName "reserved-stage-name" "Reserved words should not be used as stage names",
    JSONArgsRecommended "json-args-recommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    MaintainerDeprecated "maintainer-deprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    UndefinedArgInFrom "undefined-arg-in-from" "FROM command must use declared ARGs",
    WorkdirRelativePath "workdir-relative-path"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    UndefinedVar "undefined-var" "Variables should be defined before their use",
    MultipleInstructionsDisallowed "multiple-instructions-disallowed"
        "Multiple instructions of the same type should not be used in the same stage",
    LegacyKeyValueFormat "legacy-key-value-format"
        "Legacy key/value format with whitespace separator should not be used",
    InvalidBaseImagePlatform "invalid-base-image-platform"
        "Base image platform does not match expected target platform",
    RedundantTargetPlatform "redundant-target-platform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    SecretsUsedInArgOrEnv "secrets-used-in-arg-or-env"
        "Sensitive data should not be used in the ARG or ENV commands",
    InvalidDefaultArgInFrom "invalid-default-arg-in-from"
        "Default value for global ARG results in an empty or invalid base image name",
    FromPlatformFlagConstDisallowed "from-platform-flag-const-disallowed"
        "FROM --platform flag should not use a constant value",
    CopyIgnoredFile "copy-ignored-file" "Attempting to Copy file that is excluded by .dockerignore",
    InvalidDefinitionDescription "invalid-definition-description"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ExposeProtoCasing "expose-proto-casing" "Protocol in EXPOSE instruction should be lowercase",
    ExposeInvalidFormat "expose-invalid-format"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    UnpinnedBaseImage "" "A base image should be named by a version or a digest",
    PackageListsKept "" "What a package manager downloads for itself should not stay in a layer",
    BuildToolsInFinalStage "" "What only builds need should not be in the image that runs",
    FinalStageCouldBeSmaller "" "A stage that only starts a program needs no system below it",
    SecretsInValues "" "Secrets should not be values of ARG and ENV",
}

impl Rule {
    /// Whether it only speaks where `# check=experimental=` asks for it.
    pub fn is_experimental(self) -> bool {
        matches!(self, Rule::InvalidDefinitionDescription)
    }

    /// Whether it only speaks where advice is asked for; docker knows it not.
    pub fn is_advice(self) -> bool {
        matches!(
            self,
            Rule::UnpinnedBaseImage
                | Rule::PackageListsKept
                | Rule::BuildToolsInFinalStage
                | Rule::FinalStageCouldBeSmaller
                | Rule::SecretsInValues
        )
    }

    /// A page about it.
    pub fn url(self) -> Option<String> {
        // Docker's documentation has no page for the first, and knows nothing of the others.
        (self != Rule::InvalidBaseImagePlatform && !self.is_advice())
            .then(|| format!("{PAGES}{}/", self.page()))
    }
}
