//! The services: messages in and out, checked at the door; nothing else here names the wire's types.

mod builds;
pub(crate) mod events;
mod store;
mod workers;

use std::future::Future;
use std::panic::AssertUnwindSafe;

use dcbuild_model::limits;
use dcbuild_proto::pb::builds_server::BuildsServer;
use dcbuild_proto::pb::store_server::StoreServer;
use dcbuild_proto::pb::workers_server::WorkersServer;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::core::{CoreHandle, Stopped};
use crate::records::Records;

/// What the services lean on.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) core: CoreHandle,
    pub(crate) records: Records,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// All services, with the limits of a message.
pub(crate) fn routes(services: &Services) -> Routes {
    let max = limits::MESSAGE_BYTES_MAX;
    let builds = BuildsServer::new(builds::BuildsService(services.clone()))
        .max_decoding_message_size(max)
        .max_encoding_message_size(max);
    let store = StoreServer::new(store::StoreService(services.clone()))
        .max_decoding_message_size(max)
        .max_encoding_message_size(max);
    // Leases and records of large builds are larger than what others may send.
    let workers = WorkersServer::new(workers::WorkersService(services.clone()))
        .max_decoding_message_size(max.saturating_mul(8))
        .max_encoding_message_size(max.saturating_mul(8));
    Routes::new(builds).add_service(store).add_service(workers)
}

/// Answers a request; a panic fails this request alone.
async fn guarded<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    answer.map_or_else(
        |_| {
            tracing::error!(name, "a request met a fault of the coordinator");
            Err(Status::internal(format!("{name} met a fault of the coordinator")))
        },
        |answer| answer.map(Response::new),
    )
}

fn invalid(error: impl std::error::Error) -> Status {
    Status::invalid_argument(crate::images::chain(&error))
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Status {
        Status::unavailable(stopped.to_string())
    }
}
