//! Replies: what is in an OFFER, ACK or NAK, and where it goes.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::config::Subnet;
use crate::server::{BootOptions, Destination, Reply, Server};
use crate::wire::{Message, MessageType, Request, option};

/// What every Ethernet carries.
const ETHERNET_MTU: u16 = 1500;

impl Server {
    /// An OFFER or ACK.
    pub(crate) fn grant(
        &self,
        request: &Request,
        kind: MessageType,
        address: Ipv4Addr,
        source: Ipv4Addr,
        boot: Option<&BootOptions>,
    ) -> Option<Reply> {
        let subnet = self.subnets_of(request).find(|subnet| subnet.cidr.contains(&address));
        let subnet = subnet.or_else(|| self.subnets_of(request).next())?;
        let own = self.own_address(subnet)?;
        let mut message = Message::reply(request, kind);
        message.option(option::SERVER_ID, request.server_override().unwrap_or(own).octets());
        if request.kind == MessageType::Inform {
            message.client(address);
        } else {
            message.client(request.client);
            message.yours(address);
            times(&mut message, self.lease_time(request));
        }
        self.network_options(request, subnet, &mut message);
        if let Some(boot) = boot {
            boot_options(&mut message, boot);
        }
        echo(request, &mut message);
        let to = destination(request, address, source);
        Some(Reply { bytes: message.encode(), from: own, to })
    }

    /// The server's own address for clients of a subnet: in it, or behind a relay the first one that there is.
    fn own_address(&self, subnet: &Subnet) -> Option<Ipv4Addr> {
        if subnet.relayed { self.config.own_addresses().next() } else { Some(subnet.gateway) }
    }

    /// What this server calls itself towards a client.
    pub(crate) fn identifier(&self, request: &Request) -> Option<Ipv4Addr> {
        let own = || self.subnets_of(request).next().and_then(|subnet| self.own_address(subnet));
        request.server_override().or_else(own).or_else(|| self.config.own_addresses().next())
    }

    fn network_options(&self, request: &Request, subnet: &Subnet, message: &mut Message) {
        message.option(option::SUBNET_MASK, subnet.cidr.netmask().octets());
        if subnet.default_route {
            message.option(option::ROUTER, subnet.gateway.octets());
        }
        if let Some(own) = self.own_address(subnet) {
            message.option(option::DNS_SERVER, own.octets());
        }
        message.option(option::DOMAIN_NAME, &self.config().domain);
        message.option(option::BROADCAST, subnet.cidr.broadcast().octets());
        if let Some(host) = self.reservation(request).filter(|_| request.wants(option::HOST_NAME)) {
            message.option(option::HOST_NAME, &host.hostname);
        }
        // Who does not ask sends what is lost where frames must be smaller than Ethernet's.
        if request.wants(option::INTERFACE_MTU) || self.config().mtu < ETHERNET_MTU {
            message.option(option::INTERFACE_MTU, self.config().mtu.to_be_bytes());
        }
    }

    /// A NAK (RFC 2131 section 4.3.2: broadcast, for the client's address is wrong).
    pub(crate) fn refuse(&self, request: &Request, address: Ipv4Addr) -> Option<Reply> {
        let from = self.own_address(self.subnets_of(request).next()?)?;
        let mut message = Message::reply(request, MessageType::Nak);
        message.option(option::SERVER_ID, request.server_override().unwrap_or(from).octets());
        message.option(option::MESSAGE, format!("{address} is not yours here"));
        let to = if request.relay.is_unspecified() {
            Destination::Link { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST }
        } else {
            message.broadcast();
            Destination::Relay(request.relay)
        };
        echo(request, &mut message);
        Some(Reply { bytes: message.encode(), from, to })
    }
}

/// What goes back as it came: client identifier (RFC 6842), machine identifier (RFC 4578 section 2.3, firmware drops
/// replies without it), subnet selection (RFC 3011 section 3), and last of all the relay's option (RFC 3046 section 2.1).
pub(crate) fn echo(request: &Request, message: &mut Message) {
    // One longer than that came in pieces (RFC 3396), and would make the reply larger than a frame.
    let longest =
        [(option::CLIENT_ID, 255), (option::MACHINE_ID, 32), (option::SUBNET_SELECTION, 4), (option::RELAY_AGENT, 255)];
    for (code, longest) in longest {
        let value = request.options.get(code).filter(|value| value.len() <= longest);
        message.option(code, value.unwrap_or_default());
    }
}

fn times(message: &mut Message, lease: u32) {
    message.option(option::LEASE_TIME, lease.to_be_bytes());
    message.option(option::RENEWAL, (lease / 2).to_be_bytes());
    message.option(option::REBINDING, (lease - lease / 8).to_be_bytes());
}

pub(crate) fn boot_options(message: &mut Message, boot: &BootOptions) {
    if let Some(address) = boot.next_server {
        message.next_server(address);
    }
    if let Some(file) = &boot.file {
        message.file(file);
    }
    for (code, data) in &boot.options {
        message.option(*code, data);
    }
}

/// RFC 2131 section 4.1: relay, then the client's own address, then broadcast if it asks for it, then its station.
fn destination(request: &Request, address: Ipv4Addr, source: Ipv4Addr) -> Destination {
    if !request.relay.is_unspecified() {
        Destination::Relay(request.relay)
    } else if !request.client.is_unspecified() && !source.is_unspecified() {
        Destination::Routed(request.client)
    } else if request.broadcast {
        Destination::Link { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST }
    } else {
        Destination::Link { mac: request.mac, address }
    }
}
