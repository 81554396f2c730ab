//! Who the node is, whom it asks for names and time.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use stoke_api::objects::{DnsClient, HostEntry};

use super::Remarks;
use super::root::Root;

/// `/etc/hosts`: the node itself, then what the configuration says.
pub(super) fn hosts(hostname: &str, domain: &str, address: Ipv4Addr, entries: &[HostEntry]) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let full = match (hostname.contains('.'), domain.is_empty()) {
        (false, false) => format!("{hostname}.{domain}"),
        _ => hostname.to_owned(),
    };
    let names = if full == short { full } else { format!("{full} {short}") };
    let mut text = format!("127.0.0.1 localhost\n{address} {names}\n::1 localhost ip6-localhost ip6-loopback\n");
    for entry in entries {
        let _ = writeln!(text, "{} {}", entry.address, entry.names.join(" "));
    }
    text
}

/// resolv.conf(5): the configuration's words, else those of the lease.
pub(super) fn resolv_conf(client: &DnsClient, domain: &str, lease: &[Ipv4Addr]) -> String {
    let search = if client.search.is_empty() { domain.to_owned() } else { client.search.join(" ") };
    let mut text = if search.is_empty() { String::new() } else { format!("search {search}\n") };
    let of_lease = || lease.iter().map(|server| IpAddr::V4(*server)).collect();
    let servers: Vec<_> = if client.servers.is_empty() { of_lease() } else { client.servers.clone() };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// localtime(5): a link into the zone files, if the image has that zone.
pub(super) fn time_zone(root: Root<'_>, zone: Option<&str>, remarks: &mut Remarks) -> Result<()> {
    let name = zone.unwrap_or("Etc/UTC");
    let target = format!("usr/share/zoneinfo/{name}");
    if !root.has(&target) {
        if zone.is_some() {
            remarks.add(format!("timezone: the image has no {name} (tzdata)"));
        }
        return Ok(());
    }
    root.write("etc/timezone", format!("{name}\n"), 0o644)?;
    root.link("etc/localtime", &format!("/{target}"))
}

/// Servers of the time, for whichever program of the image asks them.
pub(super) fn ntp(root: Root<'_>, servers: &[String], remarks: &mut Remarks) -> Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let timesyncd = root.first(&["usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd"]).is_some();
    let chrony = root.first(&["usr/sbin/chronyd", "sbin/chronyd"]).is_some();
    if timesyncd {
        let text = format!("[Time]\nNTP={}\n", servers.join(" "));
        root.write("etc/systemd/timesyncd.conf.d/50-stokehold.conf", text, 0o644)?;
    }
    if chrony {
        let lines: String = servers.iter().flat_map(|server| ["server ", server, " iburst\n"]).collect();
        // Debian's chrony.conf reads this folder (`confdir`).
        root.write("etc/chrony/conf.d/50-stokehold.conf", lines, 0o644)?;
    }
    if !timesyncd && !chrony {
        remarks.add("ntp: the image has neither systemd-timesyncd nor chrony");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_goes_before_the_lease() {
        let lease = [Ipv4Addr::new(10, 10, 0, 1)];
        let nothing = resolv_conf(&DnsClient::default(), "lab", &lease);
        assert_eq!(nothing, "search lab\nnameserver 10.10.0.1\n");
        let client = DnsClient { servers: vec!["fd00::2".parse().unwrap()], search: vec!["a".into(), "b".into()] };
        assert_eq!(resolv_conf(&client, "lab", &lease), "search a b\nnameserver fd00::2\n");
    }

    #[test]
    fn hosts_has_the_node_first() {
        let store =
            HostEntry { address: "10.10.0.5".parse().unwrap(), names: vec!["store.lab".into(), "store".into()] };
        let text = hosts("node-1", "lab", Ipv4Addr::new(10, 10, 0, 21), &[store]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "10.10.0.21 node-1.lab node-1");
        assert_eq!(lines[3], "10.10.0.5 store.lab store");
    }
}
