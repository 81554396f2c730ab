//! The role as a process in a network namespace, with the clients of others: udhcpc, dhclient, dig, rdisc6.
//!
//! Needs root and the Debian packages iproute2, udhcpc, isc-dhcp-client, bind9-dnsutils, ndisc6.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod ipv6;
#[cfg(test)]
mod names;
#[cfg(test)]
mod world;
