//! Ranges of dnsmasq's `dhcp-range`, and the subnets that they are of.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// `[tag:…,]FIRST[,LAST|static][,NETMASK[,BROADCAST]][,LEASE]` (dnsmasq(8), `--dhcp-range`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    first: Ipv4Addr,
    last: Option<Ipv4Addr>,
    mask: Option<u8>,
}

impl Range {
    /// Reads one; `None` if it is of IPv6, or none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(',').map(str::trim).filter(|word| !word.contains(':'));
        let first: Ipv4Addr = words.next()?.parse().ok()?;
        let mut range = Self { first, last: None, mask: None };
        for word in words {
            let Ok(address) = word.parse::<Ipv4Addr>() else { continue };
            let bits = u32::from(address);
            let is_mask = bits.leading_ones() >= 8 && bits.leading_ones() + bits.trailing_zeros() == 32;
            match (is_mask, range.mask, range.last) {
                (true, None, _) => range.mask = u8::try_from(bits.leading_ones()).ok(),
                (false, None, None) => range.last = Some(address),
                _ => {}
            }
        }
        Some(range)
    }

    /// The subnets of ranges, with their pools. Where no netmask is said, the smallest usual subnet is taken that has the
    /// range and all addresses near it.
    pub(super) fn subnets(ranges: &[Self], addresses: impl Iterator<Item = Ipv4Addr>) -> Vec<(Ipv4Net, Vec<String>)> {
        let addresses: Vec<_> = addresses.collect();
        let mut subnets: Vec<(Ipv4Net, Vec<String>)> = Vec::new();
        for range in ranges {
            let Some(cidr) = range.subnet(&addresses) else { continue };
            let pools = range.last.map(|last| format!("{}-{last}", range.first));
            match subnets.iter_mut().find(|(known, _)| known.contains(&range.first)) {
                Some((_, known)) => known.extend(pools),
                None => subnets.push((cidr, pools.into_iter().collect())),
            }
        }
        subnets
    }

    fn subnet(&self, addresses: &[Ipv4Addr]) -> Option<Ipv4Net> {
        if let Some(mask) = self.mask {
            return Some(Ipv4Net::new(self.first, mask).ok()?.trunc());
        }
        let near = Ipv4Net::new(self.first, 16).ok()?.trunc();
        let within = |cidr: &Ipv4Net| {
            let mut all = addresses.iter().filter(|address| near.contains(*address)).chain(&self.last);
            all.all(|address| cidr.contains(address))
        };
        [24, 23, 22, 20, 16]
            .into_iter()
            .filter_map(|prefix| Ipv4Net::new(self.first, prefix).ok())
            .map(|net| net.trunc())
            .find(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_their_subnets() {
        let subnets = |texts: &[&str], addresses: &[[u8; 4]]| {
            let ranges: Vec<_> = texts.iter().filter_map(|text| Range::parse(text)).collect();
            let addresses = addresses.iter().map(|address| Ipv4Addr::from(*address));
            let told = |(cidr, pools): (Ipv4Net, Vec<String>)| format!("{cidr} {}", pools.join(","));
            Range::subnets(&ranges, addresses).into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(subnets(&["10.0.0.10,10.0.0.20,255.255.0.0,12h"], &[]), ["10.0.0.0/16 10.0.0.10-10.0.0.20"]);
        assert_eq!(subnets(&["172.16.0.0,static,infinite"], &[[172, 16, 0, 9]]), ["172.16.0.0/24 "]);
        assert_eq!(subnets(&["172.16.0.0,static"], &[[172, 16, 3, 9]]), ["172.16.0.0/22 "]);
        let two = ["set:a,10.0.0.10,10.0.0.20", "10.0.0.30,10.0.0.40"];
        assert_eq!(subnets(&two, &[]), ["10.0.0.0/24 10.0.0.10-10.0.0.20,10.0.0.30-10.0.0.40"]);
        assert_eq!(subnets(&["fd00::1,fd00::9", "nonsense"], &[]), [""; 0]);
    }
}
