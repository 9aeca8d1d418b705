//! Pairs of virtual network cards, their addresses and routes.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::network::netlink::{Attributes, Message, Socket, attribute, flag, i32_at};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_KIND_AND_DATA: u16 = 18;
const LINK_GROUP: u16 = 27;
const LINK_NAMESPACE_FD: u16 = 28;
const KIND: u16 = 1;
const KIND_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_GATEWAY: u16 = 5;

const UP: u32 = 1;
const INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const TYPE_UNICAST: u8 = 1;

/// A socket for links, addresses and routes of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Socket);

/// The fixed part of every message about links; what it is about is brought up.
fn link_header() -> [u8; 16] {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&UP.to_ne_bytes());
    header[12..16].copy_from_slice(&UP.to_ne_bytes());
    header
}

impl Links {
    /// Opens one for the network namespace of this thread.
    pub(crate) fn open() -> Result<Links, Errno> {
        Socket::open(None).map(Links)
    }

    /// Makes a pair: one end here, in a group, the other with the name `peer` in another namespace. Its packets are no longer
    /// than `mtu`, if that is given.
    pub(crate) fn make_pair(
        &mut self,
        (name, group): (&str, u32),
        (peer, namespace): (&str, BorrowedFd<'_>),
        mtu: Option<u32>,
    ) -> Result<(), Errno> {
        let fd = u32::try_from(namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
        let limited = |attributes: Attributes| match mtu {
            Some(mtu) => attributes.number(LINK_MTU, mtu),
            None => attributes,
        };
        // It cannot be up before the pair is one.
        let peer = Attributes::new().raw(&[0; 16]).text(LINK_NAME, peer);
        let peer = limited(peer.number(LINK_NAMESPACE_FD, fd));
        let veth = Attributes::new()
            .text(KIND, "veth")
            .nest(KIND_DATA, Attributes::new().nest(VETH_PEER, peer));
        let attributes = Attributes::new().text(LINK_NAME, name).number(LINK_GROUP, group);
        let attributes = limited(attributes).nest(LINK_KIND_AND_DATA, veth);
        let flags = flag::ACK | flag::CREATE | flag::EXCL;
        self.0.carry_out(Message::new(NEW_LINK, flags, &link_header(), attributes))
    }

    /// Brings a link up.
    pub(crate) fn bring_up(&mut self, name: &str) -> Result<(), Errno> {
        let attributes = Attributes::new().text(LINK_NAME, name);
        self.0.carry_out(Message::new(NEW_LINK, flag::ACK, &link_header(), attributes))
    }

    /// Gives a link an address of a network with this prefix.
    pub(crate) fn add_address(
        &mut self,
        name: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Errno> {
        let index = self.index(name)?;
        let mut header = [INET, prefix, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let attributes = Attributes::new()
            .bytes(ADDRESS_LOCAL, &address.octets())
            .bytes(ADDRESS, &address.octets());
        let flags = flag::ACK | flag::CREATE | flag::EXCL;
        self.0.carry_out(Message::new(NEW_ADDRESS, flags, &header, attributes))
    }

    /// Sends everything that has no nearer way to a gateway.
    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), Errno> {
        let header = [INET, 0, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, TYPE_UNICAST, 0, 0, 0, 0];
        let attributes = Attributes::new().bytes(ROUTE_GATEWAY, &gateway.octets());
        let flags = flag::ACK | flag::CREATE | flag::EXCL;
        self.0.carry_out(Message::new(NEW_ROUTE, flags, &header, attributes))
    }

    /// How long the packets of a link may be, in bytes.
    pub(crate) fn mtu(&mut self, name: &str) -> Result<u32, Errno> {
        let attributes = Attributes::new().text(LINK_NAME, name);
        let answer = self.0.ask(Message::new(GET_LINK, 0, &[0; 16], attributes))?;
        let mtu = answer.get(16..).and_then(|attributes| attribute(attributes, LINK_MTU));
        let mtu = mtu.and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        mtu.ok_or(Errno::BADMSG)
    }

    fn index(&mut self, name: &str) -> Result<i32, Errno> {
        let attributes = Attributes::new().text(LINK_NAME, name);
        let answer = self.0.ask(Message::new(GET_LINK, 0, &[0; 16], attributes))?;
        i32_at(&answer, 4).ok_or(Errno::BADMSG)
    }
}
