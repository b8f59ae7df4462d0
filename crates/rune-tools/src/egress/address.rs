//! Which addresses belong to the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Range4 = ([u8; 4], u32, &'static str);

/// IPv4 ranges that are not public (IANA special-purpose registry), and what they are.
const SPECIAL_V4: [Range4; 17] = [
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared (carrier-grade NAT)"),
    ([127, 0, 0, 0], 8, "loopback"),
    // Azure's platform service, reachable from every machine there.
    ([168, 63, 129, 16], 32, "cloud metadata"),
    ([169, 254, 169, 254], 32, "cloud metadata"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 88, 99, 0], 24, "6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// IPv6 ranges that are not public although they are within 2000::/3, or that have a
/// name worth telling.
const SPECIAL_V6: [([u16; 8], u32, &str); 14] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// All global unicast addresses that IANA has given out.
const GLOBAL_UNICAST_V6: [u16; 8] = [0x2000, 0, 0, 0, 0, 0, 0, 0];

/// The well-known NAT64 prefix, 64:ff9b::/96: the IPv4 address behind it is what is reached.
const NAT64: [u16; 8] = [0x64, 0xff9b, 0, 0, 0, 0, 0, 0];

/// The address that is reached through this one: the IPv4 address where it is only
/// another way to write it.
pub(crate) fn reached(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                IpAddr::V4(v4)
            } else if within_v6(v6, NAT64, 96) {
                IpAddr::V4(Ipv4Addr::from_bits(low_32(v6)))
            } else {
                address
            }
        }
    }
}

/// Why the address is not public; `None` where it is.
pub(crate) fn special_kind(address: IpAddr) -> Option<&'static str> {
    match reached(address) {
        IpAddr::V4(v4) => SPECIAL_V4
            .iter()
            .find(|(net, len, _)| within_v4(v4, *net, *len))
            .map(|(_, _, kind)| *kind),
        IpAddr::V6(v6) => SPECIAL_V6
            .iter()
            .find(|(net, len, _)| within_v6(v6, *net, *len))
            .map(|(_, _, kind)| *kind)
            .or_else(|| (!within_v6(v6, GLOBAL_UNICAST_V6, 3)).then_some("reserved")),
    }
}

/// Whether addresses of this kind are never meant by a name: those of the machine's own link, where the metadata of clouds is.
pub(super) fn is_link_local(kind: &str) -> bool {
    matches!(kind, "link-local" | "cloud metadata")
}

fn within_v4(address: Ipv4Addr, net: [u8; 4], len: u32) -> bool {
    let shift = 32 - len;
    address.to_bits() >> shift == Ipv4Addr::from_octets(net).to_bits() >> shift
}

fn within_v6(address: Ipv6Addr, net: [u16; 8], len: u32) -> bool {
    let shift = 128 - len;
    address.to_bits() >> shift == Ipv6Addr::from_segments(net).to_bits() >> shift
}

fn low_32(address: Ipv6Addr) -> u32 {
    let [.., high, low] = address.segments();
    u32::from(high) << 16 | u32::from(low)
}
