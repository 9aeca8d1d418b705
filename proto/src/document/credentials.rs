//! What proves to a registry who we are.

use serde::{Deserialize, Serialize};

/// Credentials of a registry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// The identity token; empty if there is none.
    pub identity_token: String,
    /// A token that the registry takes as it is; empty if there is none.
    #[serde(default)]
    pub registry_token: String,
    /// Where they come from, for people.
    #[serde(default)]
    pub source: String,
}

impl RegistryCredentials {
    /// Whether they prove nothing; their source may still say why there are none.
    pub fn is_nothing(&self) -> bool {
        [&self.username, &self.password, &self.identity_token, &self.registry_token]
            .into_iter()
            .all(String::is_empty)
    }
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredentials(..)")
    }
}
