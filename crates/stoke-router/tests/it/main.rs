//! The role as a process in a network namespace, with the clients of others: udhcpc, dhclient, dig, rdisc6; beside
//! dnsmasq as another server and as a relay.
//!
//! Needs root and the Debian packages iproute2, udhcpc, isc-dhcp-client, dnsmasq-base, bind9-dnsutils, ndisc6.

#[cfg(test)]
mod addresses;
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
