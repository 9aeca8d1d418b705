//! The socket of an ssh agent in a RUN: what is asked there goes to the build's client, which has the keys.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_agent::Ask;
use dcbuild_model::StepIndex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attempt::Attempt;
use crate::error::Failed;
use crate::report::{AskCoordinator, Fence};

/// An agent as a RUN mounts it.
pub(super) struct AgentMount<'a> {
    pub(super) id: &'a str,
    pub(super) required: bool,
    pub(super) target: &'a str,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
}

impl AgentMount<'_> {
    /// Says that the client answers for no such agent.
    pub(super) fn lacking(&self) -> Failed {
        let id = self.id;
        let hint = match id {
            "default" => "give --ssh default, with an agent at SSH_AUTH_SOCK".to_owned(),
            id => format!("give it with --ssh {id}=SOCKET or --ssh {id}=KEYFILE"),
        };
        Failed::rejected(format!("no SSH key \"{id}\" forwarded from the client"))
            .with_hint(Some(hint))
    }
}

/// Asks the client of the build, by way of the coordinator.
struct Client {
    coordinator: Arc<dyn AskCoordinator>,
    fence: Fence,
    step: StepIndex,
    agent: String,
}

#[async_trait::async_trait]
impl Ask for Client {
    async fn ask(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.coordinator.agent(self.fence, self.step, &self.agent, message).await
    }
}

/// Answers on a socket in a folder until the guard is dropped.
pub(super) fn serve(
    attempt: &Attempt,
    at: StepIndex,
    mount: &AgentMount<'_>,
    folder: &Path,
) -> io::Result<(PathBuf, DropGuard)> {
    const NAME: &str = "agent";
    let listener = dcbuild_agent::bind(folder, NAME)?;
    let socket = folder.join(NAME);
    let (uid, gid) = mount.owner;
    std::os::unix::fs::chown(&socket, Some(uid), Some(gid))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mount.mode);
    std::fs::set_permissions(&socket, mode)?;
    let client = Client {
        coordinator: attempt.ask.clone(),
        fence: attempt.fence,
        step: at,
        agent: mount.id.to_owned(),
    };
    let (stop, tasks) = (CancellationToken::new(), attempt.shared.tasks.clone());
    let serving = dcbuild_agent::serve(listener, Arc::new(client), tasks.clone(), stop.clone());
    tasks.spawn(serving);
    Ok((socket, stop.drop_guard()))
}
