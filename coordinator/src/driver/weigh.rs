//! What advice would save: earlier builds have left layers, whose tables of contents say how much of them nobody needs.
//!
//! Nothing runs for it and nothing is fetched: where no record of a step is at hand, its advice stays without a number.

use std::sync::Arc;

use dcbuild_model::{Added, BlobDigest, LayerId, StepIndex};
use dcbuild_plan::report::CheckReport;
use dcbuild_plan::{Leftover, Need, Op, Plan, Planned, Report, Request, Sources, plan};
use dcbuild_store::read_bytes;
use dcbuild_tree::toc::decode;
use dcbuild_tree::{Change, Kind};

use super::sources::Round;
use super::{Driver, Stop};

/// A layer with a larger table is not looked into: advice is not worth the memory.
const TABLE_BYTES_MAX: u64 = 64 << 20;

impl Driver {
    /// Adds to advice what an earlier build says of it.
    pub(super) async fn weigh(
        &self,
        report: &mut Report,
        sources: Arc<Sources>,
    ) -> Result<(), Stop> {
        let Report::Check(CheckReport { findings, .. }) = report else { return Ok(()) };
        if findings.iter().all(|finding| finding.leftover.is_none()) {
            return Ok(());
        }
        let Some(plan) = self.known_plan(sources).await? else { return Ok(()) };
        let probed = self.parts.records.probe(&plan).await;
        for finding in findings {
            let Some(leftover) = finding.leftover else { continue };
            let steps = (0..).map(StepIndex).zip(&plan.steps);
            let own = steps
                .filter(|(_, step)| step.lines == finding.lines && matches!(step.op, Op::Run(_)));
            // Of several platforms the one that has most.
            let mut most = None;
            for (at, _) in own {
                let Some(record) = probed.found.get(&at).and_then(|found| found.last()) else {
                    continue;
                };
                let mut bytes = Some(0);
                for layer in &record.result.layers {
                    bytes =
                        bytes.zip(self.left_in(layer.layer, leftover).await).map(|(a, b)| a + b);
                }
                most = most.max(bytes);
            }
            if let Some(bytes) = most.filter(|bytes| *bytes > 0) {
                finding.weigh(bytes);
            }
        }
        Ok(())
    }

    /// The plan, if nothing has to be fetched for it; what is wrong with it is somebody else's to say.
    async fn known_plan(&self, sources: Arc<Sources>) -> Result<Option<Box<Plan>>, Stop> {
        let fetched = |need: &Need| match need {
            Need::Selection { context, .. } => Added::is_context(context),
            Need::Remote(_) => true,
            Need::Image { .. } | Need::Verdict(_) => false,
        };
        let ask = move |request: &Request, sources: &Sources| {
            Ok(match plan(request, sources)? {
                Planned::Ready(plan) => Round::Ready(Some(plan)),
                Planned::Lacks(needs) if needs.iter().any(fetched) => Round::Ready(None),
                Planned::Lacks(needs) => Round::Lacks(needs),
            })
        };
        let first = self.first(ask, &sources).await;
        match self.go_on(ask, sources, first).await {
            Ok((plan, _)) => Ok(plan),
            Err(Stop::Failed(_) | Stop::Changed(_)) => Ok(None),
            Err(Stop::Ended) => Err(Stop::Ended),
        }
    }

    /// The bytes of a leftover in a layer; nothing where that is not known.
    async fn left_in(&self, layer: LayerId, leftover: Leftover) -> Option<u64> {
        let blobs = &self.parts.records.stores.blobs;
        let table = read_bytes(&**blobs, &BlobDigest(layer.0), TABLE_BYTES_MAX).await.ok()?;
        let changes = tokio::task::spawn_blocking(move || decode(&table)).await.ok()?.ok()?;
        let sizes = changes.0.iter().filter_map(|(path, change)| match change {
            Change::Put(entry) if leftover.holds(path.as_bytes()) => match &entry.kind {
                Kind::File(body) => Some(body.size),
                _ => None,
            },
            _ => None,
        });
        Some(sizes.sum())
    }
}
