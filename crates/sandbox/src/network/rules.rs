//! What the host does with packets of steps: one table of nftables, replaced as a whole.
//!
//! Packets are told by the group of the card that they come in or go out by, which the kernel sets when the card is made,
//! so that there is no moment without rules and nothing to add or take away per step.

use std::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::net::netlink;

use crate::network::netlink::{Attributes, Message, Socket, attribute, flag, network_u32};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const REGISTER: u32 = 1;
const META_OUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const META_IN_GROUP: u32 = 21;
const META_OUT_GROUP: u32 = 22;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const SOURCE_AT: u32 = 12;
const DESTINATION_AT: u32 = 16;
const FIB_OUT: u32 = 1;
const FIB_TYPE: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_IN_CARD: u32 = 8;
const FIB_PRESENT: u32 = 32;
const TYPE_LOCAL: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;

/// The chains: name, type, place in the path of a packet, and order among others there.
const CHAINS: [(&str, &str, u32, i32); 4] = [
    // Before addresses are rewritten, so that a port published on the host is the host's.
    ("arriving", "filter", 0, -250),
    ("to_host", "filter", 1, -10),
    ("through", "filter", 2, -10),
    ("leaving", "nat", 4, 100),
];

/// The place in a packet's path where it is passed on.
const FORWARD: u32 = 2;
/// The policy of a chain that lets nothing through by itself.
const POLICY_DROP: u32 = 0;
/// The tables of the older way to filter packets that are in use.
const OLDER_TABLES: &str = "/proc/net/ip_tables_names";

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) first: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// Where the addresses of steps are from.
    pub(crate) pool: Range,
    /// How the names of the cards of all steps begin.
    pub(crate) prefix: &'static str,
    /// What no step may reach.
    pub(crate) refused: Vec<Range>,
    /// Servers of names that are asked for names although they lie in what is refused.
    pub(crate) nameservers: Vec<Ipv4Addr>,
}

/// One expression of a rule.
struct Expression(&'static str, Attributes);

impl Rules {
    /// Puts the rules for cards of `group` in force as the table `table`, in one transaction.
    pub(crate) fn install(&self, table: &str, group: u32) -> Result<(), Errno> {
        Socket::open(Some(netlink::NETFILTER))?.carry_out_all(&self.batch(table, group))
    }

    fn batch(&self, table: &str, group: u32) -> Vec<Message> {
        let edge = |kind| Message::new(kind, 0, &[0, 0, 0, 10], Attributes::new());
        let named = || Attributes::new().text(1, table);
        let mut batch = vec![edge(BATCH_BEGIN)];
        // Made so that it can be deleted, which it can only be when it is there.
        for (kind, flags) in
            [(NEW_TABLE, flag::CREATE), (DELETE_TABLE, 0), (NEW_TABLE, flag::CREATE)]
        {
            batch.push(message(kind, flags, named()));
        }
        for (name, kind, place, order) in CHAINS {
            let hook =
                Attributes::new().network_number(1, place).network_number(2, order.cast_unsigned());
            let chain = named().text(3, name).nest(4, hook).text(7, kind);
            batch.push(message(NEW_CHAIN, flag::CREATE, chain));
        }
        for (chain, rule) in self.rules(group) {
            let expressions =
                rule.into_iter().fold(Attributes::new(), |all, Expression(name, data)| {
                    all.nest(1, Attributes::new().text(1, name).nest(2, data))
                });
            let rule = named().text(2, chain).nest(4, expressions);
            batch.push(message(NEW_RULE, flag::CREATE | flag::APPEND, rule));
        }
        batch.push(edge(BATCH_END));
        batch
    }

    fn rules(&self, group: u32) -> Vec<(&'static str, Vec<Expression>)> {
        let from_step = || is(meta(META_IN_GROUP), EQUAL, &group.to_ne_bytes());
        let to_step = || is(meta(META_OUT_GROUP), EQUAL, &group.to_ne_bytes());
        let ipv6 = || is(meta(META_FAMILY), EQUAL, &[FAMILY_IPV6]);
        let mut rules = vec![
            ("arriving", all([from_step(), ipv6(), drop_it()])),
            // A source that does not lead back to the card is another's.
            (
                "arriving",
                all([
                    from_step(),
                    is(fib(FIB_OUT, FIB_SOURCE | FIB_IN_CARD | FIB_PRESENT), EQUAL, &[0]),
                    drop_it(),
                ]),
            ),
            (
                "arriving",
                all([
                    from_step(),
                    is(fib(FIB_TYPE, FIB_DESTINATION), EQUAL, &TYPE_LOCAL.to_ne_bytes()),
                    drop_it(),
                ]),
            ),
            ("to_host", all([from_step(), drop_it()])),
            (
                "through",
                all([
                    from_step(),
                    is(meta(META_OUT_NAME), EQUAL, self.prefix.as_bytes()),
                    drop_it(),
                ]),
            ),
        ];
        // Twice: as the step names them, and as another's rules may have rewritten them.
        for chain in ["arriving", "through"] {
            for server in &self.nameservers {
                for protocol in [TCP, UDP] {
                    let server = Range { first: *server, prefix: 32 };
                    let to = within(DESTINATION_AT, server, EQUAL);
                    rules.push((chain, all([from_step(), to, port(protocol), accept_it()])));
                }
            }
            for refused in self.refused.iter().chain([&self.pool]) {
                let to = within(DESTINATION_AT, *refused, EQUAL);
                rules.push((chain, all([from_step(), to, drop_it()])));
            }
        }
        let answers = [
            Expression("ct", Attributes::new().network_number(1, REGISTER).network_number(2, 0)),
            masked(ESTABLISHED_OR_RELATED.to_ne_bytes()),
            compare(UNEQUAL, &[0; 4]),
        ];
        rules.push(("through", all([to_step(), answers.into(), accept_it()])));
        rules.push(("through", all([to_step(), drop_it()])));
        let outward = is(meta(META_OUT_NAME), UNEQUAL, self.prefix.as_bytes());
        let masquerade = vec![Expression("masq", Attributes::new())];
        rules.push(("leaving", all([within(SOURCE_AT, self.pool, EQUAL), outward, masquerade])));
        rules
    }
}

/// Whether a table is there.
pub(crate) fn is_installed(table: &str) -> Result<bool, Errno> {
    let question = Attributes::new().text(1, table);
    let message = Message::new(SUBSYSTEM << 8 | GET_TABLE, 0, &[FAMILY_INET, 0, 0, 0], question);
    match Socket::open(Some(netlink::NETFILTER))?.ask(message) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn message(kind: u16, flags: u16, attributes: Attributes) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flags | flag::ACK, &[FAMILY_INET, 0, 0, 0], attributes)
}

fn all<const N: usize>(parts: [Vec<Expression>; N]) -> Vec<Expression> {
    parts.into_iter().flatten().collect()
}

fn is(load: Expression, operation: u32, value: &[u8]) -> Vec<Expression> {
    vec![load, compare(operation, value)]
}

fn meta(key: u32) -> Expression {
    Expression("meta", Attributes::new().network_number(1, REGISTER).network_number(2, key))
}

fn fib(result: u32, flags: u32) -> Expression {
    let attributes = Attributes::new()
        .network_number(1, REGISTER)
        .network_number(2, result)
        .network_number(3, flags);
    Expression("fib", attributes)
}

/// Whether rules of others drop what is passed on unless it is named there; no table can allow what another forbids.
pub(crate) fn others_forbid() -> Result<bool, Errno> {
    // What the older tables say cannot be seen from here; who uses them usually means to forbid.
    let older = std::fs::read_to_string(OLDER_TABLES).unwrap_or_default();
    if older.lines().any(|table| table == "filter") {
        return Ok(true);
    }
    let ask = Message::new(SUBSYSTEM << 8 | GET_CHAIN, flag::LIST, &[0; 4], Attributes::new());
    let chains = Socket::open(Some(netlink::NETFILTER))?.list(ask)?;
    Ok(chains.iter().any(|chain| forbids(chain)))
}

fn forbids(chain: &[u8]) -> bool {
    let Some(([family, ..], attributes)) = chain.split_at_checked(4) else { return false };
    let number = |bytes, kind| attribute(bytes, kind).and_then(network_u32);
    let place = attribute(attributes, 4).and_then(|hook| number(hook, 1));
    [FAMILY_INET, FAMILY_IPV4].contains(family)
        && place == Some(FORWARD)
        && number(attributes, 5) == Some(POLICY_DROP)
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    let attributes = Attributes::new()
        .network_number(1, REGISTER)
        .network_number(2, base)
        .network_number(3, offset)
        .network_number(4, length);
    Expression("payload", attributes)
}

fn compare(operation: u32, value: &[u8]) -> Expression {
    let attributes = Attributes::new()
        .network_number(1, REGISTER)
        .network_number(2, operation)
        .nest(3, Attributes::new().bytes(1, value));
    Expression("cmp", attributes)
}

fn masked(mask: [u8; 4]) -> Expression {
    let attributes = Attributes::new()
        .network_number(1, REGISTER)
        .network_number(2, REGISTER)
        .network_number(3, 4)
        .nest(4, Attributes::new().bytes(1, &mask))
        .nest(5, Attributes::new().bytes(1, &[0; 4]));
    Expression("bitwise", attributes)
}

/// Compares an address of the packet's with a range.
fn within(offset: u32, range: Range, operation: u32) -> Vec<Expression> {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(range.prefix.into())).unwrap_or(0);
    let mut expressions = is(meta(META_FAMILY), EQUAL, &[FAMILY_IPV4]);
    expressions.push(payload(BASE_NETWORK, offset, 4));
    expressions.push(masked(mask.to_be_bytes()));
    let first = u32::from(range.first) & mask;
    expressions.push(compare(operation, &first.to_be_bytes()));
    expressions
}

fn port(protocol: u8) -> Vec<Expression> {
    let mut expressions = is(meta(META_PROTOCOL), EQUAL, &[protocol]);
    expressions.push(payload(BASE_TRANSPORT, 2, 2));
    expressions.push(compare(EQUAL, &DNS_PORT.to_be_bytes()));
    expressions
}

fn verdict(code: u32) -> Vec<Expression> {
    let verdict = Attributes::new().nest(2, Attributes::new().network_number(1, code));
    vec![Expression("immediate", Attributes::new().network_number(1, 0).nest(2, verdict))]
}

fn drop_it() -> Vec<Expression> {
    verdict(0)
}

fn accept_it() -> Vec<Expression> {
    verdict(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_chain_that_passes_nothing_on_forbids() {
        let chain = |family: u8, place, policy| {
            let hook = Attributes::new().network_number(1, place).network_number(2, 0);
            let chain = Attributes::new().text(3, "FORWARD").nest(4, hook);
            let chain = chain.network_number(5, policy);
            Attributes::new().raw(&[family, 0, 0, 0]).raw(&chain.into_bytes()).into_bytes()
        };
        for (family, place, policy, expected) in [
            (FAMILY_IPV4, FORWARD, POLICY_DROP, true),
            (FAMILY_INET, FORWARD, POLICY_DROP, true),
            (FAMILY_IPV4, FORWARD, 1, false),
            (FAMILY_IPV4, 1, POLICY_DROP, false),
            (FAMILY_IPV6, FORWARD, POLICY_DROP, false),
        ] {
            let bytes = chain(family, place, policy);
            assert_eq!(forbids(&bytes), expected, "{family} {place} {policy}");
        }
        assert!(!forbids(&[2, 0]) && !forbids(&[]));
    }
}
