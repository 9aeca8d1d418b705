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

/// What name services say, by the system's library, where a name or an address of it does not exist.
const NO_SUCH_NAME: [&str; 5] = [
    "Name or service not known",
    "Name does not resolve",
    "No address associated with hostname",
    "nodename nor servname provided",
    "No such host is known",
];

impl Fault {
    /// Who can mend that a host was not found: whoever wrote its name where there is no such name, else it is the network.
    ///
    /// The standard library keeps of the system's answer its words alone.
    pub fn of_lookup(error: &std::io::Error) -> Fault {
        let words = error.to_string();
        if NO_SUCH_NAME.iter().any(|known| words.contains(known)) {
            Fault::Request
        } else {
            Fault::Cluster
        }
    }

    /// The process's exit code for this fault.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Request | Fault::Step => 1,
            Fault::Cluster => 75,
            Fault::Bug => 70,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_service_that_does_not_answer() {
        let said = |words: &str| Fault::of_lookup(&std::io::Error::other(words));
        let failed = "failed to lookup address information: ";
        assert_eq!(said(&format!("{failed}Name or service not known")), Fault::Request);
        assert_eq!(said(&format!("{failed}Temporary failure in name resolution")), Fault::Cluster);
        assert_eq!(said("Try again"), Fault::Cluster);
    }
}
