//! A door on loopback that git's traffic goes through where not every address may be reached: SOCKS 5, names looked up
//! here, every connection checked anew, so that no redirect and no submodule leads elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::Reach;

const CONNECTIONS_MAX: usize = 64;
const REFUSED: u8 = 2;
const UNREACHABLE: u8 = 4;

/// The door; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

impl Proxy {
    pub(crate) async fn start(reach: Reach) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (stopped, inner) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stopped.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                if inner.len() > CONNECTIONS_MAX {
                    continue;
                }
                let (reach, stopped) = (reach.clone(), stopped.clone());
                inner.spawn(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        served = serve(client, &reach) => {
                            if let Err(error) = served {
                                tracing::debug!(%error, "a connection of git ended");
                            }
                        }
                    }
                });
            }
        });
        Ok(Proxy { address, _stop: stop.drop_guard() })
    }
}

async fn serve(mut client: TcpStream, reach: &Reach) -> io::Result<()> {
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let version = client.read_u8().await?;
    let mut methods = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut methods).await?;
    if version != 5 || !methods.contains(&0) {
        return Err(bad("not SOCKS 5 without a password"));
    }
    client.write_all(&[5, 0]).await?;
    let [version, command, _, kind] = client.read_u32().await?.to_be_bytes();
    let host = match kind {
        1 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        4 => Ipv6Addr::from(client.read_u128().await?).to_string(),
        3 => {
            let mut name = vec![0; usize::from(client.read_u8().await?)];
            client.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| bad("the host is no text"))?
        }
        _ => return Err(bad("an address of an unknown kind")),
    };
    let port = client.read_u16().await?;
    if version != 5 || command != 1 {
        return Err(bad("another command than CONNECT"));
    }
    let answer = |code: u8| [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let addresses = match reach.look_up(&host, port).await {
        Ok(addresses) => addresses,
        Err(error) => {
            client.write_all(&answer(REFUSED)).await?;
            return Err(io::Error::other(error));
        }
    };
    match TcpStream::connect(&*addresses).await {
        Ok(mut server) => {
            client.write_all(&answer(0)).await?;
            copy_bidirectional(&mut client, &mut server).await?;
            Ok(())
        }
        Err(error) => {
            client.write_all(&answer(UNREACHABLE)).await?;
            Err(error)
        }
    }
}
