//! One name for what each client calls by its own.

use super::Given;
use super::clients::{MACS, UUID};
use super::servers::in_pool;

/// The kind of an answer, or that there is none.
pub(super) const ANSWER: &str = "answer";

/// Names of `udhcpc`, then those that `dhclient` and `dhcpcd` share, then options by number.
const NAMES: [(&str, &str); 36] = [
    ("ip", "address"),
    ("ip_address", "address"),
    ("yiaddr", "address"),
    ("subnet", "subnet mask (1)"),
    ("subnet_mask", "subnet mask (1)"),
    ("option 1", "subnet mask (1)"),
    ("router", "router (3)"),
    ("routers", "router (3)"),
    ("option 3", "router (3)"),
    ("dns", "DNS servers (6)"),
    ("domain_name_servers", "DNS servers (6)"),
    ("option 6", "DNS servers (6)"),
    ("domain", "domain (15)"),
    ("domain_name", "domain (15)"),
    ("option 15", "domain (15)"),
    ("mtu", "MTU (26)"),
    ("interface_mtu", "MTU (26)"),
    ("option 26", "MTU (26)"),
    ("broadcast", "broadcast address (28)"),
    ("broadcast_address", "broadcast address (28)"),
    ("option 28", "broadcast address (28)"),
    ("opt43", "vendor-specific (43)"),
    ("serverid", "server identifier (54)"),
    ("dhcp_server_identifier", "server identifier (54)"),
    ("option 54", "server identifier (54)"),
    ("option 56", "message (56)"),
    ("vendor", "vendor class (60)"),
    ("opt61", "client identifier (61)"),
    ("tftp", "TFTP server (66)"),
    ("bootfile", "boot file (67)"),
    ("boot_file", "file"),
    ("siaddr", "siaddr"),
    ("next_server", "siaddr"),
    ("option 51", "lease time (51)"),
    ("opt175", "iPXE settings (175)"),
    ("opt97", "machine identifier (97)"),
];

/// The same under common names, without what is not said, and with what is each client's own named.
pub(super) fn common(given: Given) -> Given {
    let said = given.into_iter().filter(|(_, value)| !value.is_empty() && value != "0.0.0.0");
    said.map(|(name, value)| {
        let value = own(&name, &value).unwrap_or(value);
        let common = NAMES.iter().find(|(one, _)| *one == name).map(|(_, common)| (*common).to_owned());
        (common.unwrap_or(name), value)
    })
    .collect()
}

fn own(name: &str, value: &str) -> Option<String> {
    let sent = match name {
        "opt61" => MACS.iter().any(|mac| value == format!("01{}", mac.to_string().replace(':', ""))),
        "opt97" => UUID.ends_with(value),
        _ => false,
    };
    let pool = in_pool(value).then_some("of the pool");
    sent.then_some("as it was sent").or(pool).map(str::to_owned)
}
