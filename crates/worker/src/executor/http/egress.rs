//! Which addresses `http` tasks may call.
//!
//! A worker often stands where its users do not: beside databases and the metadata service of its
//! cloud. Addresses that are not of the public internet are therefore refused unless the worker's
//! settings allow them. What is checked is the address that is dialled, not the name that led to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What the settings allow beyond the public internet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Egress {
    allowed: Vec<Allowed>,
}

/// An entry of the settings, for one port or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allowed {
    target: Target,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Network(IpNet),
    /// A name, in lower case; whatever address it has.
    Host(String),
}

/// An address that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this worker may not call {address}, {kind}, which `{host}` stands for; to allow it, add \
     \"{address}\" or \"{host}:{port}\" to its setting `worker.http.allow`"
)]
pub(crate) struct Refused {
    host: String,
    port: u16,
    address: IpAddr,
    kind: &'static str,
}

/// An entry that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has `{0}`, which is no network, address or host, such as 10.0.0.0/8 or example.com:8080")]
pub(crate) struct Malformed(String);

impl Egress {
    /// Reads the entries: networks, addresses and hosts, the latter two with a port or without.
    pub(crate) fn new(entries: &[String]) -> Result<Self, Malformed> {
        let allowed = entries
            .iter()
            .map(|entry| Allowed::read(entry).ok_or_else(|| Malformed(entry.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self { allowed })
    }

    /// Whether `address` may be dialled for `host`.
    pub(crate) fn check(&self, host: &str, port: u16, address: IpAddr) -> Result<(), Refused> {
        let reached = reached(address);
        let Some(kind) = special(reached) else {
            return Ok(());
        };
        let host = name(host);
        let allows = |allowed: &Allowed| {
            allowed.port.is_none_or(|allowed| allowed == port)
                && match &allowed.target {
                    Target::Network(network) => {
                        network.contains(&address) || network.contains(&reached)
                    }
                    Target::Host(allowed) => *allowed == host,
                }
        };
        if self.allowed.iter().any(allows) {
            return Ok(());
        }
        Err(Refused {
            host,
            port,
            address,
            kind,
        })
    }
}

impl Allowed {
    fn read(entry: &str) -> Option<Self> {
        let network = |target: IpNet, port| Self {
            target: Target::Network(target),
            port,
        };
        if let Ok(target) = entry.parse() {
            return Some(network(target, None));
        }
        if let Ok(address) = unbracketed(entry).parse::<IpAddr>() {
            return Some(network(address.into(), None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Ok(address) = unbracketed(host).parse::<IpAddr>() {
            return Some(network(address.into(), port));
        }
        let host = name(host);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (!host.is_empty() && host.chars().all(is_name)).then_some(Self {
            target: Target::Host(host),
            port,
        })
    }
}

/// A host as names are compared.
fn name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// A host without the brackets around an IPv6 address.
pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// The address that a packet arrives at: gateways translate some IPv6 addresses to the IPv4 address
/// inside.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let inner = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        // IPv4-compatible, long deprecated; `::` and `::1` are none of them.
        | [0, 0, 0, 0, 0, 0, high @ 1..=0xffff, low]
        // NAT64.
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4.
        | [0x2002, high, low, ..] => (high, low),
        _ => return address,
    };
    let (high, low) = inner;
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into()
}

/// What an address outside the public internet is called; none of those inside.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// The registry of special-purpose addresses (RFC 6890), and where clouds put their services.
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] => {
            "the metadata service of a cloud"
        }
        [127, ..] => "a loopback address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => "a private address",
        [169, 254, ..] => "a link-local address",
        [224..=239, ..] => "a multicast address",
        [0, 0, 0, 0] => "the unspecified address",
        [0 | 240..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => "a reserved address",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    Some(match address.segments() {
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => "the metadata service of a cloud",
        // Site-local addresses are deprecated and still routed as private ones.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => "a private address",
        [0xfe80..=0xfebf, ..] => "a link-local address",
        [0xff00..=0xffff, ..] => "a multicast address",
        // Only 2000::/3 is handed out; of it, tunnels, protocols and documentation are no hosts.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "a reserved address",
        [0x2000..=0x3fff, ..] => return None,
        _ => "a reserved address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(entries: &[&str]) -> Egress {
        let entries: Vec<_> = entries.iter().map(|&entry| entry.to_owned()).collect();
        Egress::new(&entries).unwrap()
    }

    fn kind(address: &str) -> Option<&'static str> {
        let address = address.parse().unwrap();
        let refused = egress(&[]).check("host", 80, address).err()?;
        assert_eq!(refused.address, address);
        Some(refused.kind)
    }

    #[test]
    fn the_public_internet_is_open() {
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert_eq!(kind(address), None, "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_default() {
        for (address, expected) in [
            ("127.0.0.1", "a loopback address"),
            ("127.255.255.254", "a loopback address"),
            ("::1", "a loopback address"),
            ("10.1.2.3", "a private address"),
            ("172.16.0.1", "a private address"),
            ("172.31.255.255", "a private address"),
            ("192.168.0.1", "a private address"),
            ("100.64.0.1", "a private address"),
            ("fc00::1", "a private address"),
            ("fd12:3456::1", "a private address"),
            ("fec0::1", "a private address"),
            ("169.254.1.1", "a link-local address"),
            ("fe80::1", "a link-local address"),
            ("169.254.169.254", "the metadata service of a cloud"),
            ("168.63.129.16", "the metadata service of a cloud"),
            ("100.100.100.200", "the metadata service of a cloud"),
            ("fd00:ec2::254", "the metadata service of a cloud"),
            ("224.0.0.1", "a multicast address"),
            ("239.255.255.255", "a multicast address"),
            ("ff02::1", "a multicast address"),
            ("0.0.0.0", "the unspecified address"),
            ("::", "the unspecified address"),
            ("0.1.2.3", "a reserved address"),
            ("192.0.0.1", "a reserved address"),
            ("192.0.2.1", "a reserved address"),
            ("198.18.0.1", "a reserved address"),
            ("240.0.0.1", "a reserved address"),
            ("255.255.255.255", "a reserved address"),
            ("2001:db8::1", "a reserved address"),
            ("2001::1", "a reserved address"),
            ("64:ff9b:1::1", "a reserved address"),
            ("100::1", "a reserved address"),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn an_address_inside_another_is_seen() {
        for (address, expected) in [
            ("::ffff:127.0.0.1", "a loopback address"),
            ("::ffff:169.254.169.254", "the metadata service of a cloud"),
            ("::10.0.0.1", "a private address"),
            ("64:ff9b::7f00:1", "a loopback address"),
            ("64:ff9b::a00:1", "a private address"),
            ("2002:7f00:1::", "a loopback address"),
            ("2002:a9fe:a9fe::1", "the metadata service of a cloud"),
        ] {
            assert_eq!(kind(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn networks_addresses_and_hosts_can_be_allowed() {
        let allows = |entry: &str, host: &str, port, address: &str| {
            egress(&[entry])
                .check(host, port, address.parse().unwrap())
                .is_ok()
        };
        assert!(allows("10.0.0.0/8", "a", 80, "10.9.9.9"));
        assert!(allows("10.0.0.0/8", "a", 80, "::ffff:10.9.9.9"));
        assert!(!allows("10.0.0.0/8", "a", 80, "127.0.0.1"));
        assert!(allows("127.0.0.1", "a", 80, "127.0.0.1"));
        assert!(!allows("127.0.0.1", "a", 80, "127.0.0.2"));
        assert!(allows("127.0.0.1:8080", "a", 8080, "127.0.0.1"));
        assert!(!allows("127.0.0.1:8080", "a", 8081, "127.0.0.1"));
        assert!(allows("[::1]:8080", "a", 8080, "::1"));
        assert!(allows("::1", "a", 8080, "::1"));
        assert!(allows("fd00::/8", "a", 1, "fd00::7"));
        assert!(allows("Db.Internal", "db.internal.", 5, "10.0.0.1"));
        assert!(!allows("db.internal", "x.db.internal", 5, "10.0.0.1"));
        assert!(allows("db.internal:5", "DB.internal", 5, "10.0.0.1"));
        assert!(!allows("db.internal:5", "db.internal", 6, "10.0.0.1"));
    }

    #[test]
    fn malformed_entries_are_named() {
        for entry in ["", "10.0.0.0/33", "a b", "host:port", "http://host", ":80"] {
            assert_eq!(
                Egress::new(&[entry.to_owned()]).unwrap_err(),
                Malformed(entry.to_owned())
            );
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = egress(&[])
            .check("Localhost", 8080, "127.0.0.1".parse().unwrap())
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "this worker may not call 127.0.0.1, a loopback address, which `localhost` stands for; \
             to allow it, add \"127.0.0.1\" or \"localhost:8080\" to its setting `worker.http.allow`"
        );
    }
}
