//! Flags of the builder before BuildKit: `docker build` still takes them, and so do we, but they change nothing.

use crate::FlagError;
use crate::args::docker_bool;

/// What a command line of old may still hold; none of it is in the help.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct LegacyFlags {
    /// Containers of steps never outlive their step
    #[arg(long, hide = true)]
    rm: bool,
    /// As `--rm`
    #[arg(long, hide = true)]
    force_rm: bool,
    /// The context is not sent to a daemon
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(short, long, value_name = "SIZE", hide = true)]
    memory: Option<String>,
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, hide = true)]
    memory_swap: Option<String>,
    #[arg(short, long, value_name = "N", hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true, hide = true)]
    cpu_quota: Option<String>,
    #[arg(long, value_name = "LIST", hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST", hide = true)]
    cpuset_mems: Option<String>,
    #[arg(long, value_name = "KIND", hide = true)]
    isolation: Option<String>,
    #[arg(long, value_name = "OPTION", hide = true)]
    security_opt: Vec<String>,
    /// Docker's own default is not to look at signatures
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = docker_bool,
        hide = true
    )]
    disable_content_trust: Option<bool>,
    /// A debugger of buildx
    #[arg(long, value_name = "COMMAND", hide = true)]
    invoke: Option<String>,
    /// A server of buildx
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<String>,
    #[arg(long, value_name = "FILE", hide = true)]
    server_config: Option<String>,
}

impl LegacyFlags {
    /// Refuses what would be another build, or none, if it were passed over.
    pub(crate) fn refuse(&self) -> Result<(), FlagError> {
        let server =
            "leave it out: dcbuild has no server of its own; `dcbuild submit` builds on a cluster";
        let trust = self.disable_content_trust.filter(|disabled| !disabled);
        let asked = [
            (
                "disable-content-trust",
                trust.map(|_| "false".to_owned()),
                "name base images by their digest: dcbuild does not verify signatures",
            ),
            (
                "invoke",
                self.invoke.clone(),
                "leave it out: dcbuild has no debugger; --target builds up to a stage, whose image can be run",
            ),
            ("root", self.root.clone(), server),
            ("server-config", self.server_config.clone(), server),
        ];
        let given =
            asked.into_iter().find_map(|(flag, value, instead)| Some((flag, value?, instead)));
        match given {
            None => Ok(()),
            Some((flag, value, instead)) => Err(FlagError::Unsupported { flag, value, instead }),
        }
    }

    /// The flags that were given and would have meant something, which their user should know.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let given = [
            ("squash", self.squash),
            ("memory", self.memory.is_some()),
            ("memory-swap", self.memory_swap.is_some()),
            ("cpu-shares", self.cpu_shares.is_some()),
            ("cpu-period", self.cpu_period.is_some()),
            ("cpu-quota", self.cpu_quota.is_some()),
            ("cpuset-cpus", self.cpuset_cpus.is_some()),
            ("cpuset-mems", self.cpuset_mems.is_some()),
            ("isolation", self.isolation.is_some()),
            ("security-opt", !self.security_opt.is_empty()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}
