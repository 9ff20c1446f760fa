//! Which addresses may be asked for a user who names a URL: public ones, and networks that whoever runs the asking
//! machine allows. Everything that this machine alone can reach must be kept from users.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address that may not be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not a public address")]
pub struct Refused(pub IpAddr);

impl Refused {
    /// The smallest network that would allow it.
    pub fn net(self) -> IpNet {
        IpNet::from(self.0)
    }
}

/// Whether an address may be asked.
///
/// # Errors
/// It is neither public nor in a network that is allowed.
pub fn check(address: IpAddr, allowed: &[IpNet]) -> Result<(), Refused> {
    // `::ffff:10.0.0.1` is 10.0.0.1 to every socket.
    let address = address.to_canonical();
    if is_public(address) || allowed.iter().any(|net| net.contains(&address)) { Ok(()) } else { Err(Refused(address)) }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// All but the special-purpose blocks of the IANA registry.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        // This network, private, loopback, multicast and all that is reserved above it.
        0 | 10 | 127 | 224.. => true,
        // Carriers' NAT.
        100 => (64..128).contains(&b),
        // Link-local, the metadata services of clouds among it.
        169 => b == 254,
        172 => (16..32).contains(&b),
        // Protocol assignments, documentation, 6to4 relays, private.
        192 => (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99) || b == 168,
        // Benchmarks, documentation.
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !special
}

/// Only global unicast, without what leads elsewhere; and NAT64 of a public address.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = segments {
        return is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    let [first, second, ..] = segments;
    let special = match first {
        // Teredo, ORCHID, benchmarks and other protocol assignments; documentation.
        0x2001 => second < 0x200 || second == 0xdb8,
        // 6to4 holds any IPv4 address.
        0x2002 => true,
        0x3fff => second < 0x1000,
        _ => false,
    };
    (first & 0xe000) == 0x2000 && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(address: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<IpNet> = allowed.iter().map(|net| net.parse().unwrap()).collect();
        check(address.parse().unwrap(), &allowed).is_ok()
    }

    #[test]
    fn only_public_addresses_are_asked() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.171",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.1.2.3",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:10::1",
            "2001:20::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!verdict(refused, &[]), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(verdict(public, &[]), "{public}");
        }
    }

    #[test]
    fn an_allowed_network_is_allowed_in_every_spelling_and_nothing_beside_it() {
        assert!(verdict("127.0.0.1", &["127.0.0.0/8"]));
        assert!(verdict("::ffff:127.0.0.1", &["127.0.0.0/8"]));
        assert!(!verdict("::1", &["127.0.0.0/8"]));
        assert!(!verdict("169.254.169.254", &["127.0.0.0/8", "10.0.0.0/8"]));
        assert!(verdict("fd12::7", &["fd12::/16"]));
        assert_eq!(Refused("10.1.2.3".parse().unwrap()).net().to_string(), "10.1.2.3/32");
    }
}
