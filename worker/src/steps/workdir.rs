//! WORKDIR: a folder, and those above it.

use std::sync::Arc;

use dcbuild_plan::op::WorkdirOp;

use super::{Made, keep_recipe, owner};
use crate::attempt::{Attempt, Task};
use crate::error::{Failed, blocking};
use crate::spool::Sources;

pub(crate) async fn make(
    attempt: &Arc<Attempt>,
    task: &Arc<Task>,
    op: &WorkdirOp,
) -> Result<Made, Failed> {
    let (layers, task, op) = (attempt.shared.layers.clone(), task.clone(), op.clone());
    let now = attempt.shared.parts.clock.now();
    let changes = blocking(move || {
        let tree = layers.tree(&task.below)?;
        let owner = match op.user.as_str() {
            "" => (0, 0),
            user => owner(&layers, &task, &tree, user, false)?,
        };
        dcbuild_tree::workdir(&tree, &op.path, owner, now).map_err(|error| Failed::refused(&error))
    })
    .await?;
    let sources = Sources { contexts: Vec::new(), spool: None };
    keep_recipe(&attempt.shared.layers, changes, sources).await
}
