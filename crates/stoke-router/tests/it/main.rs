//! The role as a process in a network namespace, with the clients of others: udhcpc, dhclient, dig, rdisc6; beside
//! dnsmasq as another server and as a relay; compared with Kea and dnsmasq, which the test bed unpacks into its cache.
//!
//! Needs root and the Debian packages iproute2, udhcpc, isc-dhcp-client, dhcpcd-base, dnsmasq-base, bind9-dnsutils, ndisc6,
//! mmdebstrap.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod ipv6;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod names;
#[cfg(test)]
mod packets;
#[cfg(test)]
mod world;
