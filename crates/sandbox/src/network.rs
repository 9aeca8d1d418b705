//! Networks of their own for steps: nothing at all, or a way out but none to the host and none to each other.
//!
//! Each step has a network namespace that is used once. The card of one with a way out is one end of a pair; the other end is on the host, and
//! its name is the claim to four addresses of the pool, so that processes of one host do not take the same. A namespace
//! ends with the last process in it and the last descriptor of it, and takes the pair along: nothing has to be swept.
//! What stays on the host is the table of rules, which names no step, and the switch that lets it forward packets.

mod links;
mod netlink;
mod rules;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use nix::sched::CloneFlags;
use rustix::io::Errno;

use crate::network::links::Links;
use crate::network::rules::{Range, Rules};
use crate::resolvers;
use crate::sys;

/// How the names of the host's ends begin.
const NAME_PREFIX: &str = "dcb";
/// The step's end.
const INNER_NAME: &str = "eth0";
/// The pool is the network of this prefix around its first address.
const POOL_PREFIX: u8 = 16;
/// Each step has the network of this prefix: two ends, and two addresses that are no machine's.
const PAIR_PREFIX: u8 = 30;
/// How many pairs the pool holds.
const PAIRS: u32 = 1 << (PAIR_PREFIX - POOL_PREFIX);
/// The addresses of machines' own services, such as those that hand out a cloud's credentials.
const LINK_LOCAL: Range = Range { first: Ipv4Addr::new(169, 254, 0, 0), prefix: 16 };
/// How many namespaces with a loopback are kept ready.
const LOOPBACK_SPARES: usize = 1;
/// The switch that lets the host forward packets.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// The routes of version 4, a line each: the card, and where it leads in hexadecimal digits.
const ROUTES: &str = "/proc/net/route";
/// The same as the thread sees it that makes a network.
const ROUTES_HERE: &str = "/proc/thread-self/net/route";

/// What a card's packets have without a word, and what is no card's at all.
const MTU_USUAL: u32 = 1_500;
const MTU_LEAST: u32 = 576;

/// How steps with a network of their own are connected.
///
/// The way out is by version 4 of the protocol only. Where a firewall of the host forwards nothing by itself, as Docker's
/// does, there is none: no table can allow what another forbids.
#[derive(Clone, Debug)]
pub struct IsolatedConfig {
    /// The /16 that steps have their addresses from; nothing else on the host's networks may use it.
    pub pool: Ipv4Addr,
    /// Networks that no step may reach, each an address and the length of its prefix.
    pub refused: Vec<(Ipv4Addr, u8)>,
    /// How many networks are kept ready.
    pub spares: usize,
}

impl Default for IsolatedConfig {
    fn default() -> IsolatedConfig {
        IsolatedConfig { pool: Ipv4Addr::new(10, 213, 0, 0), refused: Vec::new(), spares: 2 }
    }
}

/// Says why steps cannot have networks of their own here.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    /// The kernel lacks a part or the process a right.
    #[error("could not {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Rules of others would drop what steps send.
    #[error("the host's firewall forwards nothing by itself")]
    Firewall,
    /// Every address of the pool is taken.
    #[error("no address of the pool {pool}/{POOL_PREFIX} is free")]
    PoolFull {
        /// The pool.
        pool: Ipv4Addr,
    },
}

/// Whether a step on a network of its own reaches what a step on the host's does: there is a way out by version 4 of the
/// protocol, and a server of names that is not this host.
pub fn has_way_out() -> bool {
    let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
    leads_out(&routes) && resolvers::servers(&resolvers::of_host()).any(is_elsewhere)
}

fn leads_out(routes: &str) -> bool {
    cards_outward(routes).next().is_some()
}

/// The cards by which everything is reached that has no nearer way.
fn cards_outward(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (card, destination) = (words.next()?, words.next()?);
        (destination == "00000000").then_some(card)
    })
}

fn is_elsewhere(server: IpAddr) -> bool {
    // Only an address of this host can be bound to.
    server.is_ipv4() && !server.is_loopback() && UdpSocket::bind((server, 0)).is_err()
}

fn kernel(action: &'static str) -> impl FnOnce(Errno) -> IsolateError {
    move |errno| IsolateError::Kernel { action, source: errno.into() }
}

/// Networks with a way out.
#[derive(Debug)]
pub(crate) struct Networks {
    maker: Arc<Maker>,
    stock: Stock,
}

/// Networks of nothing but a loopback; the first that is taken starts their stock.
#[derive(Debug, Default)]
pub(crate) struct Loopbacks(OnceLock<Option<Stock>>);

/// Some networks that are ready: making one takes longer than most of the rest of a cell.
#[derive(Debug)]
struct Stock(Mutex<Receiver<Slot>>);

/// What makes networks.
#[derive(Debug)]
struct Maker {
    host: Mutex<Links>,
    pool: u32,
    rules: Rules,
    table: String,
    group: u32,
    next: AtomicU32,
}

/// The network of one step; it ends with the last process in it once this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    namespace: File,
}

impl Slot {
    /// Where a child of this process finds the namespace as long as this is held.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }
}

impl Networks {
    /// Puts the rules in force, turns forwarding on, and makes the first network to see that it can be done.
    pub(crate) fn start(config: IsolatedConfig) -> Result<Networks, IsolateError> {
        if rules::others_forbid().map_err(kernel("look at the host's firewall"))? {
            return Err(IsolateError::Firewall);
        }
        let maker = Arc::new(Maker::new(&config)?);
        maker
            .rules
            .install(&maker.table, maker.group)
            .map_err(kernel("put the rules for the packets of steps in force"))?;
        forward().map_err(|source| IsolateError::Kernel {
            action: "let the host forward packets",
            source,
        })?;
        // Rather now than with the first step.
        let first = maker.make()?;
        let stocking = Arc::clone(&maker);
        let stock = Stock::start(config.spares, Some(first), move || stocking.make())
            .map_err(|source| IsolateError::Kernel { action: "start a thread", source })?;
        Ok(Networks { maker, stock })
    }

    /// Takes a network for one step.
    pub(crate) fn take(&self) -> Result<Slot, IsolateError> {
        self.stock.take().map_or_else(|| self.maker.make(), Ok)
    }
}

impl Loopbacks {
    /// Takes a network for one step.
    pub(crate) fn take(&self) -> Result<Slot, IsolateError> {
        let stock = self.0.get_or_init(|| Stock::start(LOOPBACK_SPARES, None, make_loopback).ok());
        stock.as_ref().and_then(Stock::take).map_or_else(make_loopback, Ok)
    }
}

fn make_loopback() -> Result<Slot, IsolateError> {
    let (namespace, mut inside) = fresh_namespace()?;
    inside.bring_up("lo").map_err(kernel("bring a loopback up"))?;
    Ok(Slot { namespace })
}

impl Stock {
    /// Starts a thread that makes networks, after the one that there is, until nobody takes them or one cannot be made.
    fn start(
        spares: usize,
        mut first: Option<Slot>,
        make: impl Fn() -> Result<Slot, IsolateError> + Send + 'static,
    ) -> io::Result<Stock> {
        let (tx, rx) = sync_channel(spares);
        let work = move || {
            loop {
                match first.take().map_or_else(&make, Ok) {
                    Ok(slot) => {
                        if tx.send(slot).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "networks of steps are made one by one from now on");
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new().name("networks".to_owned()).spawn(work)?;
        Ok(Stock(Mutex::new(rx)))
    }

    /// Takes one; none where the thread has ended with an error, which whoever makes one finds again.
    fn take(&self) -> Option<Slot> {
        self.0.lock().ok()?.recv().ok()
    }
}

impl Maker {
    fn new(config: &IsolatedConfig) -> Result<Maker, IsolateError> {
        let pool = Range { first: config.pool, prefix: POOL_PREFIX };
        let ranges =
            config.refused.iter().map(|(first, prefix)| Range { first: *first, prefix: *prefix });
        let refused: Vec<_> = [LINK_LOCAL].into_iter().chain(ranges).collect();
        let resolv_conf = resolvers::of_host();
        let nameservers = resolvers::servers(&resolv_conf)
            .filter_map(|server| match server {
                // Some clouds serve names where they serve credentials.
                IpAddr::V4(server) if server.is_link_local() => Some(server),
                _ => None,
            })
            .collect();
        let rules = Rules { pool, prefix: NAME_PREFIX, refused, nameservers };
        let group = group(&rules);
        Ok(Maker {
            host: Mutex::new(Links::open().map_err(kernel("talk to the kernel"))?),
            pool: u32::from(config.pool) & u32::MAX << (32 - u32::from(POOL_PREFIX)),
            rules,
            table: format!("dcbuild-{group:08x}"),
            group,
            // Somewhere, so that several processes do not try the same names.
            next: AtomicU32::new(std::process::id().wrapping_mul(101)),
        })
    }

    fn make(&self) -> Result<Slot, IsolateError> {
        // Somebody may have emptied the host's rules since.
        if !rules::is_installed(&self.table).map_err(kernel("look at the rules"))? {
            self.rules
                .install(&self.table, self.group)
                .map_err(kernel("put the rules for the packets of steps in force"))?;
        }
        let (namespace, mut inside) = fresh_namespace()?;
        let (name, first) = self.claim(&namespace)?;
        let (outer, inner) = (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2));
        let connect = |host: &mut Links| {
            host.add_address(&name, outer, PAIR_PREFIX)?;
            inside.bring_up("lo")?;
            inside.bring_up(INNER_NAME)?;
            inside.add_address(INNER_NAME, inner, PAIR_PREFIX)?;
            inside.add_default_route(outer)
        };
        self.on_host(connect).map_err(kernel("connect a step's network"))?;
        Ok(Slot { namespace })
    }

    /// Makes the pair under the first name that is free; the name stands for its addresses.
    fn claim(&self, namespace: &File) -> Result<(String, u32), IsolateError> {
        let mtu = self.mtu_outward();
        for _ in 0..PAIRS {
            let number = self.next.fetch_add(1, Ordering::Relaxed) % PAIRS;
            let name = format!("{NAME_PREFIX}{number}");
            let made = self.on_host(|host| {
                host.make_pair((&name, self.group), (INNER_NAME, namespace.as_fd()), mtu)
            });
            match made {
                Ok(()) => return Ok((name, self.pool + number * 4)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(kernel("make a pair of network cards")(errno)),
            }
        }
        Err(IsolateError::PoolFull { pool: self.pool.into() })
    }

    /// How long packets may be on the way out, where that is less than usual: in clouds, overlays and tunnels, many of which
    /// drop what is longer without a word.
    fn mtu_outward(&self) -> Option<u32> {
        let routes = std::fs::read_to_string(ROUTES_HERE).unwrap_or_default();
        let mtus =
            cards_outward(&routes).filter_map(|card| self.on_host(|host| host.mtu(card)).ok());
        mtus.filter(|mtu| (MTU_LEAST..MTU_USUAL).contains(mtu)).min()
    }

    fn on_host<T>(&self, work: impl FnOnce(&mut Links) -> Result<T, Errno>) -> Result<T, Errno> {
        // A panic of another holder leaves a socket that is as good as before.
        let mut host = self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut host)
    }
}

/// The group of cards that the same rules are for.
fn group(rules: &Rules) -> u32 {
    let mut hasher = DefaultHasher::new();
    rules.hash(&mut hasher);
    // Never zero, which every card has that nobody gave a group; and positive, as some tools want it.
    let low = u32::try_from(hasher.finish() & 0x7fff_ffff).unwrap_or_default();
    low | 1 << 30
}

fn forward() -> io::Result<()> {
    if std::fs::read_to_string(FORWARDING)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(FORWARDING, "1")?;
    tracing::warn!(
        "net.ipv4.ip_forward was 0 and is 1 now, for the networks of steps: this machine passes packets on between its \
         networks, unless a firewall says otherwise"
    );
    Ok(())
}

/// Makes a network namespace, and a socket in it.
fn fresh_namespace() -> Result<(File, Links), IsolateError> {
    let make = || {
        sys::unshare(CloneFlags::CLONE_NEWNET).map_err(kernel("make a network namespace"))?;
        let namespace = File::open("/proc/thread-self/ns/net").map_err(|source| {
            IsolateError::Kernel { action: "hold a network namespace", source }
        })?;
        Ok((namespace, Links::open().map_err(kernel("talk to the kernel"))?))
    };
    // A namespace belongs to a thread, and this one's must stay what it is.
    std::thread::scope(|scope| {
        scope.spawn(make).join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread that does it died");
            Err(IsolateError::Kernel { action: "make a network namespace", source })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_to_everywhere_leads_out() {
        let near = "Iface Destination Gateway Flags\neth0 000200C0 00000000 0001\n";
        assert!(!leads_out("") && !leads_out(near));
        assert!(leads_out(&format!("{near}eth0 00000000 010200C0 0003\n")));
    }

    #[test]
    fn this_host_is_not_elsewhere() {
        for (server, expected) in [("127.0.0.53", false), ("::1", false), ("192.0.2.7", true)] {
            assert_eq!(is_elsewhere(server.parse().unwrap()), expected, "{server}");
        }
    }
}
