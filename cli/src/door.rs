//! Where other workers reach this one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dcbuild_process::config::{ClientTls, PeerAddress, PeerListen, WorkerConfig};
use dcbuild_remote::{ClientCertificates, ServerCertificates, ServerTls, Speech};
use dcbuild_worker::Door;
use tokio::net::{TcpListener, UdpSocket, lookup_host};

use crate::roles::place_hint;
use crate::secure::is_encrypted;

/// How often it is tried to find out by which address the coordinator is reached.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the workers of a cluster with TLS know each other by.
#[derive(Default)]
pub(crate) struct Known {
    /// What others are shown here.
    pub(crate) own: Option<Arc<ServerCertificates>>,
    /// What others are known by, and what they are shown.
    pub(crate) others: Option<Arc<ClientCertificates>>,
}

impl Known {
    /// Reads it, for a worker that reaches its coordinator by this URL.
    pub(crate) fn read(settings: &WorkerConfig, coordinator: &str) -> anyhow::Result<Known> {
        if !is_encrypted(coordinator) {
            return Ok(Known::default());
        }
        let ClientTls { ca, identity } = settings.tls.clone();
        let ca = settings.peer_ca.clone().or(ca);
        let own = match &identity {
            None => None,
            Some((cert, key)) => {
                // Who reads is asked for a certificate where it is known whose it must be.
                let (cert, key, client_ca) = (cert.clone(), key.clone(), ca.clone());
                let files = ServerTls { cert, key, client_ca };
                let own = ServerCertificates::open(files, Speech::Calls);
                Some(Arc::new(own.context("could not use the certificates of worker.tls")?))
            }
        };
        let others = ClientCertificates::open(ClientTls { ca, identity });
        let others = Arc::new(others.context("could not use the certificates of worker.tls")?);
        Ok(Known { own, others: Some(others) })
    }

    /// Where a worker listens for others: in a cluster with TLS only with a certificate.
    pub(crate) fn listens(&self, listen: PeerListen) -> PeerListen {
        if self.others.is_none() || self.own.is_some() || listen == PeerListen::Nowhere {
            return listen;
        }
        tracing::warn!(
            "other workers read nothing from this one, for it has no certificate to show: what it makes they have by the \
             store alone. worker.tls.cert and worker.tls.key name one; --listen none says that this is meant"
        );
        PeerListen::Nowhere
    }
}

/// Opens the door, if there is to be one; waits until it is known how the coordinator is reached, without which a worker
/// has nothing to do.
pub(crate) async fn open(
    listen: PeerListen,
    advertise: Option<PeerAddress>,
    (coordinator, known): (&str, &Known),
) -> anyhow::Result<Option<Door>> {
    let at = match known.listens(listen) {
        PeerListen::Nowhere => return Ok(None),
        PeerListen::At(at) => at,
        PeerListen::Auto => SocketAddr::new(own_address(coordinator).await, 0),
    };
    let bound = TcpListener::bind(at).await;
    let kind = bound.as_ref().err().map(std::io::Error::kind);
    let listener = bound.with_context(|| {
        let hint = place_hint(kind, "--listen");
        format!("could not listen on {at} for other workers: {hint}; `--listen none` does without")
    })?;
    let bound = listener.local_addr().context("could not tell where the worker listens")?;
    let address = match advertise {
        Some(address) => address.to_string(),
        None if bound.ip().is_unspecified() => {
            SocketAddr::new(own_address(coordinator).await, bound.port()).to_string()
        }
        None => bound.to_string(),
    };
    Ok(Some(Door { listener, address, certificates: known.own.clone() }))
}

/// The address by which this machine reaches the coordinator.
async fn own_address(coordinator: &str) -> IpAddr {
    let mut said = false;
    loop {
        match find_address(coordinator).await {
            Ok(address) => return address,
            Err(error) if !said => {
                let error = format!("{error:#}");
                tracing::warn!(error, "the worker waits until its coordinator can be found");
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn find_address(coordinator: &str) -> anyhow::Result<IpAddr> {
    let place = place_of(coordinator);
    let found = lookup_host(&place).await;
    let found = found.with_context(|| format!("could not find {place}"))?;
    let mut last = None;
    for to in found {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let asked = async {
            let socket = UdpSocket::bind((any, 0)).await?;
            // Nothing is sent: it only says by which way it would go.
            socket.connect(to).await?;
            socket.local_addr()
        };
        match asked.await {
            Ok(own) => return Ok(own.ip()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("no way leads to {place}")),
        None => bail!("{place} has no address"),
    }
}

/// Host and port of a URL.
fn place_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let place = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, scheme) {
        (true, _) => place.to_owned(),
        (false, "https") => format!("{place}:443"),
        (false, _) => format!("{place}:80"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_a_port() {
        for (url, place) in [
            ("http://10.0.0.5:7070", "10.0.0.5:7070"),
            ("coordinator:7070", "coordinator:7070"),
            ("https://coordinator.example/", "coordinator.example:443"),
            ("http://user@[::1]:7070/path", "[::1]:7070"),
            ("http://coordinator", "coordinator:80"),
        ] {
            assert_eq!(place_of(url), place);
        }
    }

    #[tokio::test]
    async fn a_door_is_where_the_coordinator_is_reached_from() {
        let known = Known::default();
        let url = ("http://127.0.0.1:7070", &known);
        let door = open(PeerListen::Auto, None, url).await.unwrap().unwrap();
        let bound = door.listener.local_addr().unwrap();
        assert_eq!((bound.ip(), bound.to_string()), (Ipv4Addr::LOCALHOST.into(), door.address));
        assert!(open(PeerListen::Nowhere, None, url).await.unwrap().is_none());

        let everywhere = PeerListen::At("0.0.0.0:0".parse().unwrap());
        let door = open(everywhere, None, url).await.unwrap().unwrap();
        assert!(door.address.starts_with("127.0.0.1:"), "{}", door.address);
        let told = open(everywhere, Some("w:9".parse().unwrap()), url).await.unwrap().unwrap();
        assert_eq!(told.address, "w:9");

        let taken = PeerListen::At(bound);
        let error = format!("{:#}", open(taken, None, url).await.unwrap_err());
        assert!(error.contains("name another address with --listen"), "{error}");
    }
}
