//! Who may read and write what: the scope that a caller's credential gives. Pure.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::Scope;
use dcbuild_remote::Door;

/// The scopes that there are, and who has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    own: Scope,
    given: BTreeMap<String, Scope>,
}

/// Somebody who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    /// What his builds read and write.
    pub(crate) scope: Scope,
    /// Whether he sees all of the coordinator, and not that scope and those below it alone.
    pub(crate) sees_all: bool,
}

/// Says why somebody may not do what he asks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error(
        "this client may build in the scope {bound} and below it, and {asked} is neither: name one of those with --scope, or none"
    )]
    Outside { asked: Scope, bound: Scope },
    #[error(
        "the names of this certificate have several scopes, {}: let coordinator.scopes give it one",
        .scopes.join(" and ")
    )]
    Several { scopes: Vec<String> },
    #[error(
        "this certificate is for builds in the scope {scope}: to work, a certificate is needed that coordinator.scopes does not name"
    )]
    NoWorker { scope: Scope },
}

impl Access {
    /// `given` are scopes by names of certificates; who has none of them builds in the coordinator's own.
    pub(crate) fn new(own: Scope, given: BTreeMap<String, Scope>) -> Access {
        Access { own, given }
    }

    /// The scope that a certificate with these names gives, if it gives one.
    fn bound(&self, names: &[String]) -> Result<Option<&Scope>, AccessError> {
        let found: BTreeSet<&Scope> =
            names.iter().filter_map(|name| self.given.get(name)).collect();
        if found.len() > 1 {
            let scopes = found.into_iter().map(ToString::to_string).collect();
            return Err(AccessError::Several { scopes });
        }
        Ok(found.into_iter().next())
    }

    /// Who it is that shows a certificate with these names, and asks for a scope or leaves it open.
    pub(crate) fn caller(
        &self,
        names: &[String],
        asked: Option<Scope>,
    ) -> Result<Caller, AccessError> {
        let given = self.bound(names)?;
        let bound = given.unwrap_or(&self.own);
        match asked {
            None => Ok(Caller { scope: bound.clone(), sees_all: given.is_none() }),
            Some(asked) if asked.is_within(bound) => Ok(Caller { scope: asked, sees_all: false }),
            Some(asked) => Err(AccessError::Outside { asked, bound: bound.clone() }),
        }
    }

    /// Whether it may be a worker, whose word counts for all scopes.
    pub(crate) fn worker(&self, names: &[String]) -> Result<(), AccessError> {
        match self.bound(names)? {
            None => Ok(()),
            Some(scope) => Err(AccessError::NoWorker { scope: scope.clone() }),
        }
    }
}

impl Door for Access {
    fn lets_work(&self, names: &[String]) -> Result<(), String> {
        self.worker(names).map_err(|error| error.to_string())
    }

    fn reads(&self, scope: &Scope) -> bool {
        let mut all = std::iter::once(&self.own).chain(self.given.values());
        self.writes(scope) || all.any(|own| own.is_within(scope))
    }

    fn writes(&self, scope: &Scope) -> bool {
        std::iter::once(&self.own).chain(self.given.values()).any(|own| scope.is_within(own))
    }
}

impl Caller {
    /// Whether he sees a build, a record or a name of that scope.
    pub(crate) fn sees(&self, scope: &Scope) -> bool {
        self.sees_all || scope.is_within(&self.scope)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    fn access() -> Access {
        let given = [("forks.example", "acme/shop/pr"), ("ann", "acme/shop"), ("both", "zoo")];
        let given = given.map(|(name, text)| (name.to_owned(), scope(text)));
        Access::new(scope("acme"), given.into())
    }

    fn check(names: &[&str], asked: Option<&str>, want: Expect) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let told = match access().caller(&names, asked.map(scope)) {
            Ok(Caller { scope, sees_all: true }) => format!("{scope}, sees all"),
            Ok(Caller { scope, .. }) => scope.to_string(),
            Err(error) => error.to_string(),
        };
        want.assert_eq(&told);
    }

    #[test]
    fn the_credential_gives_the_scope_and_a_request_only_one_below_it() {
        check(&[], None, expect!["acme, sees all"]);
        check(&["stranger"], Some("acme/shop"), expect!["acme/shop"]);
        check(
            &[],
            Some("zoo"),
            expect![
                "this client may build in the scope acme and below it, and zoo is neither: name one of those with --scope, or none"
            ],
        );
        check(&["sha256:00", "forks.example"], None, expect!["acme/shop/pr"]);
        check(&["forks.example"], Some("acme/shop/pr/7"), expect!["acme/shop/pr/7"]);
        check(
            &["forks.example"],
            Some("acme/shop"),
            expect![
                "this client may build in the scope acme/shop/pr and below it, and acme/shop is neither: name one of those with --scope, or none"
            ],
        );
        check(
            &["ann", "both"],
            None,
            expect![
                "the names of this certificate have several scopes, acme/shop and zoo: let coordinator.scopes give it one"
            ],
        );
    }

    #[test]
    fn who_has_a_scope_is_no_worker_and_workers_serve_the_scopes_that_there_are() {
        let access = access();
        assert_eq!(access.worker(&["worker-1".into()]), Ok(()));
        assert!(access.worker(&["ann".into()]).is_err());
        assert!(access.writes(&scope("acme/shop/pr/7")) && access.writes(&scope("zoo/x")));
        assert!(!access.writes(&scope("bank")) && !access.reads(&scope("bank")));
        let below = Access::new(scope("acme/shop"), BTreeMap::new());
        assert!(below.reads(&scope("acme")) && !below.writes(&scope("acme")));
    }
}
