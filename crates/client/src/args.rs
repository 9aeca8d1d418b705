//! The flags of a build, as the command line has them: those of `docker buildx build`, with docker's spelling.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Command};

use crate::legacy::LegacyFlags;
use crate::variables;

/// What a build is told on the command line; `build`, `submit` and `plan` share it.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(mut_args(docker_switch), args_override_self = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct BuildFlags {
    /// What the build reads: a folder, the URL of a git repository (`URL#REF:FOLDER`) or of an archive, or `-` for an
    /// archive or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub context: String,

    /// Name of the image, `[REGISTRY/]NAME[:TAG]`; may be given more than once
    #[arg(short = 't', long = "tag", value_name = "NAME", help_heading = "What is built")]
    pub tags: Vec<String>,
    /// The Dockerfile: a file, a URL, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH", value_parser = path(), help_heading = "What is built")]
    pub file: Option<PathBuf>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE", help_heading = "What is built")]
    pub target: Option<String>,
    /// Value of an ARG; without `=VALUE` the environment's
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "What is built")]
    pub build_args: Vec<String>,
    /// Further context, which FROM and `--from` find by its name: a folder, a URL, a git repository, `docker-image://REF`,
    /// `oci-layout://DIR[:TAG]` or `target:STAGE`
    #[arg(long = "build-context", value_name = "NAME=VALUE", help_heading = "What is built")]
    pub build_contexts: Vec<String>,
    /// The platform to build for, such as `linux/arm64`; several, separated by commas or given again, make an index of
    /// images [default: `DOCKER_DEFAULT_PLATFORM` of the environment, or the builder's]
    #[arg(
        long,
        value_name = "OS/ARCH",
        value_parser = Words(&["linux/amd64", "linux/arm64", "local"]),
        hide_possible_values = true,
        help_heading = "What is built"
    )]
    pub platform: Vec<String>,
    /// Label of the image; may be given more than once, as build arguments, contexts, secrets and all others of the kind
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = "What is built")]
    pub labels: Vec<String>,
    /// Annotation of the image's manifest; behind `index:` of the index of several platforms, behind
    /// `manifest[linux/amd64]:` of one platform's manifest, behind `manifest-descriptor:` or `index-descriptor:` of what
    /// points at them
    #[arg(long = "annotation", value_name = "[PLACE:]NAME=VALUE", help_heading = "What is built")]
    pub annotations: Vec<String>,

    /// What becomes of the result: `DIR` for its files, `-` for a tar of them on standard output, or
    /// `type=TYPE[,KEY=VALUE]` with the types image, registry, docker, oci, tar, local and cacheonly, such as
    /// `type=oci,dest=app.tar`; may be given more than once
    #[arg(short, long = "output", value_name = "DEST", help_heading = "What becomes of it")]
    pub outputs: Vec<String>,
    /// Push the image under its names; short for `--output=type=registry`
    #[arg(long, help_heading = "What becomes of it")]
    pub push: bool,
    /// Load the image into the docker daemon at `DOCKER_HOST`, or that of docker's context; short for
    /// `--output=type=docker`
    #[arg(long, help_heading = "What becomes of it")]
    pub load: bool,
    /// Write the image's id into this file
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = "What becomes of it")]
    pub iidfile: Option<PathBuf>,
    /// Write what was made into this file, as JSON
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = "What becomes of it")]
    pub metadata_file: Option<PathBuf>,

    /// Attest about the result: `type=provenance` or `type=sbom`, with the attributes of `--provenance` and `--sbom`; may
    /// be given more than once
    #[arg(long = "attest", value_name = "SPEC", help_heading = "What becomes of it")]
    pub attests: Vec<String>,
    /// Attest how it was built: `true`, or `mode=min|max`, `version=v1|v0.2`, `builder-id=URI`, `reproducible=true`,
    /// `filename=NAME` and `inline-only=true`, separated by commas [default: false]
    #[arg(
        long,
        value_name = "SPEC",
        value_parser = Words(&["true", "false", "mode=min", "mode=max"]),
        hide_possible_values = true,
        help_heading = "What becomes of it"
    )]
    pub provenance: Option<String>,
    /// Attest what it holds: `true`, or `generator=IMAGE`, a scanner by BuildKit's protocol, and what it is told
    /// [default: false]
    #[arg(
        long,
        value_name = "SPEC",
        value_parser = Words(&["true", "false"]),
        hide_possible_values = true,
        help_heading = "What becomes of it"
    )]
    pub sbom: Option<String>,

    /// Take nothing from the cache; cache mounts begin empty, unless `--keep-cache-mounts` is given
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
    /// Leave cache mounts (`RUN --mount=type=cache`) as they are for what takes nothing from the cache; they begin empty
    /// otherwise
    #[arg(long, help_heading = "What may be reused")]
    pub keep_cache_mounts: bool,
    /// Ask the registry for base images, even if a local image has their name
    #[arg(long, help_heading = "What may be reused")]
    pub pull: bool,
    /// Records of dcbuild at another place: `type=registry,ref=NAME` (or the name alone), `type=local,src=DIR` or
    /// `type=s3,bucket=B,region=R`; layers are fetched when they are needed
    #[arg(long = "cache-from", value_name = "SOURCE", help_heading = "What may be reused")]
    pub cache_from: Vec<String>,
    /// Where records go as well: `type=registry,ref=NAME`, `type=local,dest=DIR`, `type=s3,bucket=B,region=R`, each with
    /// `mode=max` for all steps, or `type=inline` into the image's config
    #[arg(long = "cache-to", value_name = "DEST", help_heading = "What may be reused")]
    pub cache_to: Vec<String>,

    /// Secret for `RUN --mount=type=secret`: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long = "secret", value_name = "SPEC", help_heading = "What a RUN sees")]
    pub secrets: Vec<String>,
    /// SSH agent or keys for `RUN --mount=type=ssh`: `ID[=SOCKET|KEYFILE,...]`, such as `default` for the agent at
    /// `SSH_AUTH_SOCK`; keys do not leave this machine
    #[arg(long = "ssh", value_name = "SPEC", help_heading = "What a RUN sees")]
    pub ssh: Vec<String>,
    /// Network of each RUN: default, none or host
    #[arg(
        long,
        value_name = "MODE",
        value_parser = Words(&["default", "none", "host"]),
        hide_possible_values = true,
        help_heading = "What a RUN sees"
    )]
    pub network: Option<String>,
    /// Permit what a Dockerfile may ask for: `network.host`, `security.insecure` or `device`, which a cluster must grant
    /// too
    #[arg(
        long,
        value_name = "WHAT",
        value_parser = Words(&["network.host", "security.insecure", "device"]),
        hide_possible_values = true,
        help_heading = "What is permitted"
    )]
    pub allow: Vec<String>,
    /// Line of /etc/hosts, such as `db:10.0.0.7`; the address `host-gateway` is that of the machine which runs the step,
    /// where its network reaches it
    #[arg(long = "add-host", value_name = "HOST:IP", help_heading = "What a RUN sees")]
    pub add_hosts: Vec<String>,
    /// Limit such as `nofile=1024:2048`
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "What a RUN sees")]
    pub ulimits: Vec<String>,
    /// Size of /dev/shm, such as `64m`
    #[arg(long, value_name = "SIZE", help_heading = "What a RUN sees")]
    pub shm_size: Option<String>,

    /// Option of the frontend that has no flag: `hostname=NAME` or `contextsubdir=FOLDER`
    #[arg(long = "opt", value_name = "NAME=VALUE", help_heading = "What a RUN sees")]
    pub opts: Vec<String>,
    /// A limit of each RUN, such as `memory=2g`: also `memory-swap`, `cpu-shares`, `cpu-period`, `cpu-quota`, `cpuset-cpus`
    /// and `cpuset-mems`
    #[arg(long = "resource", value_name = "NAME=VALUE", help_heading = "What a RUN sees")]
    pub resources: Vec<String>,
    /// A policy of what a build may take: `filename=FILE` in Rego (`.rego`), or in JSON as `BuildKit` reads it and
    /// `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY` names it. `Dockerfile.rego` beside the Dockerfile is asked by itself:
    /// `reset=true` asks only the named ones, `disabled=true` none in Rego, `strict=true` refuses a build without any;
    /// `log-level=debug` shows what they see
    #[arg(long = "policy", value_name = "[filename=]FILE", help_heading = "What is permitted")]
    pub policies: Vec<String>,
    /// The control group below which each RUN has its own: a path, or a slice of systemd's; a cluster must grant it
    #[arg(long, value_name = "CGROUP", help_heading = "What a RUN sees")]
    pub cgroup_parent: Option<String>,

    /// How progress is shown: auto, tty, plain (each line that a step writes), quiet, rawjson or none [default:
    /// `BUILDKIT_PROGRESS` of the environment, or auto]
    #[arg(
        long,
        value_name = "MODE",
        value_parser = Words(&MODES),
        hide_possible_values = true,
        help_heading = "What is shown"
    )]
    pub progress: Option<String>,
    /// Log what dcbuild itself does; short for `--log debug`
    #[arg(short = 'D', long, help_heading = "What is shown")]
    pub debug: bool,
    /// Print the image's id and nothing else
    #[arg(short, long, help_heading = "What is shown")]
    pub quiet: bool,
    /// Check the Dockerfile and build nothing; short for `--call=check`
    #[arg(long, help_heading = "What is shown")]
    pub check: bool,
    /// Ask about the Dockerfile instead of building it: `check`, `advice` (check, and what could be smaller or
    /// safer), `outline` or `targets`, and `,format=json` or `,ignorestatus=true`; `subrequests.describe` lists them
    #[arg(
        long,
        value_name = "METHOD",
        value_parser = Words(&["build", "check", "advice", "outline", "targets", "subrequests.describe"]),
        hide_possible_values = true,
        help_heading = "What is shown"
    )]
    pub call: Option<String>,
    /// The old name of `--call`
    #[arg(long, value_name = "METHOD", hide = true)]
    pub print: Option<String>,
    /// The name of a builder of docker's, which is skipped: `build` builds on this machine, `submit` on a cluster
    #[arg(long, value_name = "NAME", help_heading = "What is shown")]
    pub builder: Option<String>,

    #[command(flatten)]
    /// What a command line of old may hold besides.
    pub legacy: LegacyFlags,
}

/// How progress may be shown.
pub const MODES: [&str; 6] = ["auto", "tty", "plain", "quiet", "rawjson", "none"];

/// A text of which a shell may complete these words; what else it can be, and what is wrong, whoever reads it says.
#[derive(Clone, Copy, Debug)]
pub struct Words(pub &'static [&'static str]);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

/// A path, which may be empty: so CI writes a flag whose variable is not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl BuildFlags {
    /// The flags without those that were given an empty value, which docker takes for not given.
    #[must_use]
    pub fn given(&self) -> BuildFlags {
        let mut flags = self.clone();
        for path in [&mut flags.file, &mut flags.iidfile, &mut flags.metadata_file] {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        for values in [
            &mut flags.outputs,
            &mut flags.annotations,
            &mut flags.secrets,
            &mut flags.ssh,
            &mut flags.allow,
            &mut flags.add_hosts,
            &mut flags.build_contexts,
        ] {
            values.retain(|value| !value.trim().is_empty());
        }
        flags
    }

    /// Flags that were given and mean nothing to a builder of today; their user should know.
    pub fn without_effect(&self) -> Vec<&'static str> {
        self.legacy.without_effect()
    }

    /// What was named and is skipped, in words for their user: a builder of docker's.
    pub fn skipped(&self) -> Vec<String> {
        let print = self.print.iter();
        let print =
            print.map(|_| "--print is the old name of --call, and means the same".to_owned());
        let builder = self.builder.iter().filter(|name| !matches!(name.as_str(), "default" | ""));
        let told = |name: &String| {
            format!(
                "--builder {name} names a builder of docker's and is skipped: `build` builds on this machine, `submit` on a cluster"
            )
        };
        builder.map(told).chain(print).collect()
    }
}

/// Lets a switch take a value as docker's do: `--push=false`.
fn docker_switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .value_parser(docker_bool)
        .value_name("BOOL")
}

/// The words that docker takes for true and false.
pub(crate) fn docker_bool(text: &str) -> Result<bool, String> {
    variables::switch(text).ok_or_else(|| "it is neither true nor false".into())
}
