//! Where the names of registries lead: what the system says, with an error that can be told from other ones.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Says that a name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("could not find the address of {host}")]
pub(crate) struct NameError {
    pub(crate) host: String,
    pub(crate) source: std::io::Error,
}

/// Asks the system.
pub(crate) struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            // The port is put in by whoever connects.
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            match found.map(Iterator::collect::<Vec<_>>) {
                Ok(addresses) => {
                    let addresses: Addrs = Box::new(addresses.into_iter());
                    Ok(addresses)
                }
                Err(source) => Err(NameError { host, source }.into()),
            }
        })
    }
}
