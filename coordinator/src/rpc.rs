//! The services: messages in and out, checked at the door; nothing else here names the wire's types.

mod builds;
pub(crate) mod events;
mod workers;

use std::sync::Arc;

use dcbuild_model::{InvalidScope, limits};
use dcbuild_process::Clock;
use dcbuild_proto::SCOPE_HEADER;
use dcbuild_proto::pb::builds_server::BuildsServer;
use dcbuild_proto::pb::workers_server::WorkersServer;
use dcbuild_remote::{StoreService, caller_names, guarded};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::access::{Access, AccessError, Caller};
use crate::core::{CoreHandle, Stopped};
use crate::driver::DriverParts;
use crate::records::Records;
use crate::sweeps::Sweeps;

/// What the services lean on.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) access: Arc<Access>,
    pub(crate) core: CoreHandle,
    pub(crate) records: Records,
    pub(crate) driver: DriverParts,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sweeps: Sweeps,
}

/// All services, with the limits of a message.
pub(crate) fn routes(services: &Services) -> Routes {
    let max = limits::MESSAGE_BYTES_MAX;
    let builds = BuildsServer::new(builds::BuildsService(services.clone()))
        .max_decoding_message_size(max)
        .max_encoding_message_size(max);
    let stores = &services.records.stores;
    let store = StoreService::new(stores.blobs.clone(), stores.layers.clone())
        .with_grants(stores.grants.clone())
        .with_caches(stores.caches.clone())
        .with_door(services.access.clone())
        .into_server();
    // Leases and records of large builds are larger than what others may send.
    let workers = WorkersServer::new(workers::WorkersService(services.clone()))
        .max_decoding_message_size(max.saturating_mul(8))
        .max_encoding_message_size(max.saturating_mul(8));
    Routes::new(builds).add_service(store).add_service(workers)
}

impl Services {
    /// Who asks, and for which scope.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let asked = match request.metadata().get(SCOPE_HEADER) {
            None => None,
            Some(value) => {
                let text = value.to_str().map_err(invalid)?;
                Some(text.parse().map_err(|error: InvalidScope| invalid(error))?)
            }
        };
        self.access.caller(&caller_names(request), asked).map_err(Status::from)
    }

    /// Refuses whoever may not work.
    fn let_work<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.access.worker(&caller_names(request)).map_err(Status::from)
    }
}

impl From<AccessError> for Status {
    fn from(error: AccessError) -> Status {
        Status::permission_denied(error.to_string())
    }
}

fn invalid(error: impl std::error::Error) -> Status {
    Status::invalid_argument(dcbuild_process::story(&error))
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Status {
        Status::unavailable(stopped.to_string())
    }
}
