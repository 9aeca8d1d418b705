//! Who can mend a failure.

/// Says who can mend a failure; sets exit code, gRPC code and whether a retry makes sense.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The request, the Dockerfile or a flag is wrong: its author mends it.
    Request,
    /// A step of the Dockerfile failed: its author mends it; never retried.
    Step,
    /// A machine, a network or a store failed: another try may do.
    Cluster,
    /// dcbuild itself is wrong.
    Bug,
}

impl Fault {
    /// The process's exit code for this fault.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Request | Fault::Step => 1,
            Fault::Cluster => 75,
            Fault::Bug => 70,
        }
    }
}
