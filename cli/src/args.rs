//! The words of the command line.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use dcbuild_client::BuildFlags;
use dcbuild_client::args::{MODES, Words};
use dcbuild_model::Scope;
use dcbuild_process::config::{CacheUpload, PeerAddress, PeerListen};
use dcbuild_process::{ByteSize, parse_duration};

use crate::cache::Cache;
use crate::pick::Pick;
use crate::prune::Prune;
use crate::state::Format;
use crate::stores::StoreFlags;

/// Builds container images from Dockerfiles, on this machine or on many.
#[derive(Debug, Parser)]
#[command(name = "dcbuild", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done; 1 the Dockerfile, the context, a step or the configuration is wrong; 2 the command line is; \
70 dcbuild is (a bug); 75 a machine, network or store failed, another try may do; 130 interrupted.

Of docker's flags before a command, -D, -l, -c, -H, --tls, --tlsverify, --tlscacert, --tlscert and --tlskey are \
understood, and its words buildx, builder, image and system.

Documentation: README.md and docs/ of the source. `dcbuild help COMMAND` explains a command.")]
pub(crate) struct Arguments {
    /// Configuration file (TOML or JSON); else `$DCBUILD_CONFIG`, then ~/.config/dcbuild/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Log what dcbuild itself does, to stderr: a level such as `debug`, or `dcbuild_worker=debug`
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image on this machine: no daemon, no set-up
    Build(Box<LocalBuild>),
    /// Build an image on a cluster
    Submit(Box<Submit>),
    /// Show what a build would do, without running anything
    Plan(Box<PlanFlags>),
    /// Follow a build of a cluster, and give it what it asks of its client
    Attach(OneBuild),
    /// Print the log of a build of a cluster, from its first byte, and follow it to its end
    Logs(OneBuild),
    /// List the builds of a cluster that wait or run, or all of them
    Ps(Builds),
    /// List the workers of a cluster, with their labels
    Workers(Cluster),
    /// End a build of a cluster
    Cancel(EndBuild),
    /// List, count, prune, export or import the cache: of this machine, of a cluster, or of a store
    Cache(Cache),
    /// Say for each step of a build whether the cache had it, and if not, what changed
    Explain(Explain),
    /// List the images that were given a name, here or on the cluster that is named
    Images(Names),
    /// Take names away from images, here or on the cluster that is named
    Rmi(RemoveNames),
    /// Try what builds need, on this machine and elsewhere, and say what is wrong
    Doctor(Doctor),
    /// Show what builds on this machine have left on disk
    Du(Du),
    /// Remove what builds on this machine have left on disk
    Prune(Prune),
    /// Run a coordinator: it plans builds and hands their steps to workers
    Coordinator(Coordinator),
    /// Run a worker: it runs the steps that a coordinator hands it
    Worker(WorkerFlags),
    /// Print the completion script of a shell
    Completion(Completion),
    /// Print the keys of the configuration file with their defaults, as Markdown
    ConfigReference,
    /// Print the version
    Version(Version),
}

impl Command {
    /// Whether the flags of a build ask for dcbuild's own log.
    pub(crate) fn is_debugged(&self) -> bool {
        match self {
            Command::Build(flags) => flags.build.debug,
            Command::Submit(flags) => flags.build.debug,
            Command::Plan(flags) => flags.build.debug,
            _ => false,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct LocalBuild {
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    /// What goes to the bucket: all results, what the outputs are made of, or nothing
    #[arg(long, value_name = "WHAT", value_parser = cache_upload(), hide_possible_values = true)]
    pub(crate) cache_upload: Option<CacheUpload>,
    /// Whose records are read and written, such as `acme/shop`; else `$DCBUILD_SCOPE` or the configuration
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<Scope>,
    /// What `submit` has
    #[arg(long, hide = true)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) build: BuildFlags,
}

fn cache_upload() -> impl TypedValueParser<Value = CacheUpload> {
    Words(&["all", "outputs", "none"]).try_map(|text| match text.as_str() {
        "all" => Ok(CacheUpload::All),
        "outputs" => Ok(CacheUpload::Outputs),
        "none" => Ok(CacheUpload::None),
        _ => Err("it is all, outputs or none"),
    })
}

/// Which coordinator is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// The coordinator, such as `http://10.0.0.5:7070`; else `$DCBUILD_COORDINATOR` or the configuration
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// Whose records are read and written, such as `acme/shop/pr/17`; else `$DCBUILD_SCOPE` or the configuration
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<Scope>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Print the build's id and return as soon as the bytes of the context are safe
    #[arg(long)]
    pub(crate) detach: bool,
    /// What later builds find in the coordinator's store: all results, what the outputs are made of, or nothing
    #[arg(long, value_name = "WHAT", value_parser = cache_upload(), hide_possible_values = true)]
    pub(crate) cache_upload: Option<CacheUpload>,
    #[command(flatten)]
    pub(crate) build: BuildFlags,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanFlags {
    /// How the plan is printed: text for people, json for programs, dot or svg as a graph
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: PlanFormat,
    #[command(flatten)]
    pub(crate) build: BuildFlags,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum PlanFormat {
    // No comments for the help: with them, it takes three lines for each flag.
    Text,
    Json,
    Dot,
    Svg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OneBuild {
    /// The build's id, as `submit --detach` or `ps` printed it
    #[arg(value_name = "ID")]
    pub(crate) build: String,
    /// It is followed in any case
    #[arg(long, short, hide = true)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How progress is shown: auto, tty, plain, quiet, rawjson or none
    #[arg(long, value_name = "MODE", value_parser = Words(&MODES), hide_possible_values = true)]
    pub(crate) progress: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EndBuild {
    /// The build's id, as `submit --detach` or `ps` printed it
    #[arg(value_name = "ID")]
    pub(crate) build: String,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The build's id, or `last`; builds of this machine, or of the cluster that is named
    #[arg(value_name = "BUILD", default_value = "last")]
    pub(crate) build: String,
    /// One step only: its number, its stage, or a part of its text such as `RUN make`
    #[arg(value_name = "STEP")]
    pub(crate) step: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of docker's")]
pub(crate) struct Builds {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Print ids alone, which `attach`, `logs` and `cancel` take; with `--all` those of ended builds too
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Builds that have ended too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
    /// Ids are whole in any case
    #[arg(long, hide = true)]
    pub(crate) no_trunc: bool,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of docker's")]
pub(crate) struct Names {
    /// Only those of this name, with its tag or without; `*`, `?` and `[a-z]` stand for parts of names
    #[arg(value_name = "NAME[:TAG]", value_parser = Pick::name)]
    pub(crate) name: Option<Pick>,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Only these: `reference=PATTERN`, or `dangling=true`, which none is
    #[arg(long, short, value_name = "FILTER", value_parser = Pick::filter)]
    pub(crate) filter: Vec<Pick>,
    /// Taken for docker's sake: there are no images between those that have a name
    #[arg(long, short, hide = true)]
    pub(crate) all: bool,
    /// The digests are there in any case
    #[arg(long, hide = true)]
    pub(crate) digests: bool,
    /// Print digests whole
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print ids alone, which `rmi` takes as well
    #[arg(long, short, conflicts_with = "format")]
    pub(crate) quiet: bool,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveNames {
    /// Names as `dcbuild images` lists them, or ids as `dcbuild images --quiet` prints them
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// End well where there is no such image
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Taken for docker's sake: what an image was made of stays until it is pruned
    #[arg(long, hide = true)]
    pub(crate) no_prune: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How the findings are printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Du {
    /// How the table is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
    /// List each cache mount, too
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// The name of a builder of docker's, which is skipped
    #[arg(long, value_name = "NAME", hide = true)]
    builder: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Coordinator {
    /// Where clients and workers reach it [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// The file of its certificate, in PEM: with it, everything is encrypted; --tls-key names the key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The file of the certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The file of the CA whose certificates clients and workers must show, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Where health and metrics are served [default: 127.0.0.1:7071]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http_listen: Option<SocketAddr>,
    /// Where its log is kept [default: /var/lib/dcbuild/coordinator]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    /// Whose records builds read and write whose clients have no other scope, such as `acme` [default: local]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<Scope>,
    /// What may stay in the store, such as 500GiB; the longest unused goes [default: all of it]
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep_storage: Option<ByteSize>,
    /// How long something in the store may stay unused, such as 720h [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) keep_unused: Option<std::time::Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerFlags {
    /// The coordinator, such as `http://10.0.0.5:7070`; else `$DCBUILD_COORDINATOR` or the configuration
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// Where its snapshots and cache mounts are kept [default: /var/lib/dcbuild/worker]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How many jobs it runs at once [default: the number of cpus]
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<u32>,
    /// Where other workers read what the store lacks yet: `IP:PORT`, `none`, or `auto` for a free port of the address by
    /// which this machine reaches the coordinator [default: auto]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<PeerListen>,
    /// What other workers are told of it, where that is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<PeerAddress>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Where shells look for it:
  bash: dcbuild completion bash > ~/.local/share/bash-completion/completions/dcbuild
  zsh:  dcbuild completion zsh > /usr/local/share/zsh/site-functions/_dcbuild
  fish: dcbuild completion fish > ~/.config/fish/completions/dcbuild.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}
