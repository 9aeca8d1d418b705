//! `dcbuild explain`: of a build on this machine, or of one on a cluster.

use std::process::ExitCode;

use anyhow::Context as _;
use dcbuild_client::explained::explanation;
use dcbuild_coordinator::{Asked, ExplainError, Stores, explain as explain_here};
use dcbuild_explain::Explanation;
use dcbuild_model::{BuildId, Scope};

use crate::args;
use crate::build::App;
use crate::json;
use crate::remote::{address, client_at, failed, scope_here};
use crate::say;
use crate::state::Format;

/// `dcbuild explain`.
pub(crate) async fn explain(app: &App, flags: args::Explain) -> anyhow::Result<ExitCode> {
    let build = match flags.build.as_str() {
        "last" => None,
        id => Some(id.parse::<BuildId>().with_context(|| {
            format!("'{id}' is neither `last` nor the id of a build, which has 26 characters")
        })?),
    };
    let explained = if let Some(url) = address(app, &flags.cluster) {
        match client_at(app, &url, flags.cluster.scope)?.explain(build, flags.step).await {
            Ok(explained) => explained,
            Err(error) => return Ok(failed(&error)),
        }
    } else {
        let stores = Stores::folder(app.state.open_store()?);
        let asked = Asked { build, step: flags.step };
        local(&stores, &scope_here(app, flags.cluster.scope), &asked).await?
    };
    say(&match flags.format {
        Format::Text => explanation(&explained),
        Format::Json => json::pretty(serde_json::to_value(&explained)?),
    })
}

async fn local(stores: &Stores, scope: &Scope, asked: &Asked) -> anyhow::Result<Explanation> {
    explain_here(stores, scope, asked, None).await.map_err(|error| match error {
        ExplainError::NoBuilds => anyhow::Error::from(error)
            .context("`dcbuild build` has left nothing to explain in this state folder"),
        error => error.into(),
    })
}
