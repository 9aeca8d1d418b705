//! The flags of a build, as the command line has them: those of `docker buildx build`, with docker's spelling.

use std::path::PathBuf;

/// What a build is told on the command line; `build`, `submit` and `plan` share it.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct BuildFlags {
    /// The folder that the build reads, or `-` for a Dockerfile on standard input and no folder
    #[arg(value_name = "CONTEXT")]
    pub context: String,

    /// Name of the image, `NAME[:TAG]`; may be given more than once
    #[arg(short = 't', long = "tag", value_name = "NAME", help_heading = "What is built")]
    pub tags: Vec<String>,
    /// The Dockerfile, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH", help_heading = "What is built")]
    pub file: Option<PathBuf>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE", help_heading = "What is built")]
    pub target: Option<String>,
    /// Value of an ARG; without `=VALUE` the environment's
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "What is built")]
    pub build_args: Vec<String>,
    /// Further context: a folder, `docker-image://REF`, `oci-layout://DIR[:TAG]` or `target:STAGE`
    #[arg(long = "build-context", value_name = "NAME=VALUE", help_heading = "What is built")]
    pub build_contexts: Vec<String>,
    /// The platform to build for, such as `linux/arm64`
    #[arg(long, value_name = "OS/ARCH", help_heading = "What is built")]
    pub platform: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = "What is built")]
    pub labels: Vec<String>,
    /// Annotation of the image's manifest
    #[arg(long = "annotation", value_name = "NAME=VALUE", help_heading = "What is built")]
    pub annotations: Vec<String>,

    /// What becomes of the result: `DIR`, `-`, or `type=TYPE[,KEY=VALUE]` with the types image, registry, docker, oci,
    /// tar, local and cacheonly; may be given more than once
    #[arg(short, long = "output", value_name = "DEST", help_heading = "What becomes of it")]
    pub outputs: Vec<String>,
    /// Push the image under its names; short for `--output=type=registry`
    #[arg(long, help_heading = "What becomes of it")]
    pub push: bool,
    /// Load the image into the docker daemon; short for `--output=type=docker`
    #[arg(long, help_heading = "What becomes of it")]
    pub load: bool,
    /// Write the image's id into this file
    #[arg(long, value_name = "FILE", help_heading = "What becomes of it")]
    pub iidfile: Option<PathBuf>,
    /// Write what was made into this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "What becomes of it")]
    pub metadata_file: Option<PathBuf>,

    /// Take nothing from the cache
    #[arg(long, help_heading = "What may be reused")]
    pub no_cache: bool,
    /// Take nothing from the cache for these stages
    #[arg(
        long,
        value_name = "STAGE,...",
        value_delimiter = ',',
        help_heading = "What may be reused"
    )]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for base images, even if a local image has their name
    #[arg(long, help_heading = "What may be reused")]
    pub pull: bool,
    /// Not supported yet: the cache needs no import
    #[arg(long = "cache-from", value_name = "SOURCE", help_heading = "What may be reused")]
    pub cache_from: Vec<String>,
    /// Not supported yet: the cache needs no export
    #[arg(long = "cache-to", value_name = "DEST", help_heading = "What may be reused")]
    pub cache_to: Vec<String>,

    /// Secret for `RUN --mount=type=secret`: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long = "secret", value_name = "SPEC", help_heading = "What a RUN sees")]
    pub secrets: Vec<String>,
    /// Not supported yet: an SSH agent for `RUN --mount=type=ssh`
    #[arg(long = "ssh", value_name = "SPEC", help_heading = "What a RUN sees")]
    pub ssh: Vec<String>,
    /// Network of each RUN: default, none or host
    #[arg(long, value_name = "MODE", help_heading = "What a RUN sees")]
    pub network: Option<String>,
    /// Permit what a Dockerfile may ask for: `network.host` or `security.insecure`
    #[arg(long, value_name = "WHAT", value_delimiter = ',', help_heading = "What a RUN sees")]
    pub allow: Vec<String>,
    /// Line of /etc/hosts
    #[arg(long = "add-host", value_name = "HOST:IP", help_heading = "What a RUN sees")]
    pub add_hosts: Vec<String>,
    /// Limit such as `nofile=1024:2048`
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "What a RUN sees")]
    pub ulimits: Vec<String>,
    /// Size of /dev/shm, such as `64m`
    #[arg(long, value_name = "SIZE", help_heading = "What a RUN sees")]
    pub shm_size: Option<String>,

    /// How progress is shown: auto, tty, plain, quiet, rawjson or none
    #[arg(long, value_name = "MODE", help_heading = "What is shown")]
    pub progress: Option<String>,
    /// Print the image's id and nothing else
    #[arg(short, long, help_heading = "What is shown")]
    pub quiet: bool,
    /// Not supported yet: check the Dockerfile and build nothing
    #[arg(long, help_heading = "What is shown")]
    pub check: bool,
    /// Not supported yet: another way to evaluate the Dockerfile
    #[arg(long, value_name = "METHOD", help_heading = "What is shown")]
    pub call: Option<String>,
}
