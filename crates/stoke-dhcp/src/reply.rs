//! Replies: what is in an OFFER, ACK or NAK, and where it goes.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::server::{BootOptions, Destination, Reply, Server, Subnet};
use crate::wire::{Message, MessageType, Request, option};

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
        let mut message = Message::reply(request, kind);
        message.option(option::SERVER_ID, subnet.server.octets());
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
        Some(Reply { bytes: message.encode(), from: subnet.server, to })
    }

    fn network_options(&self, request: &Request, subnet: &Subnet, message: &mut Message) {
        message.option(option::SUBNET_MASK, subnet.cidr.netmask().octets());
        if subnet.default_route {
            message.option(option::ROUTER, subnet.server.octets());
        }
        message.option(option::DNS_SERVER, subnet.server.octets());
        message.option(option::DOMAIN_NAME, &self.config().domain);
        message.option(option::BROADCAST, subnet.cidr.broadcast().octets());
        if let Some(host) = self.reservation(request).filter(|_| request.wants(option::HOST_NAME)) {
            message.option(option::HOST_NAME, &host.hostname);
        }
        if request.wants(option::INTERFACE_MTU) {
            message.option(option::INTERFACE_MTU, self.config().mtu.to_be_bytes());
        }
    }

    /// A NAK (RFC 2131 section 4.3.2: broadcast, for the client's address is wrong).
    pub(crate) fn refuse(&self, request: &Request, address: Ipv4Addr) -> Option<Reply> {
        let from = self.subnets_of(request).next()?.server;
        let mut message = Message::reply(request, MessageType::Nak);
        message.option(option::SERVER_ID, from.octets());
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
/// replies without it), and last of all the relay's option (RFC 3046 section 2.1).
fn echo(request: &Request, message: &mut Message) {
    for code in [option::CLIENT_ID, option::MACHINE_ID, option::RELAY_AGENT] {
        message.option(code, request.options.get(code).unwrap_or_default());
    }
}

fn times(message: &mut Message, lease: u32) {
    message.option(option::LEASE_TIME, lease.to_be_bytes());
    message.option(option::RENEWAL, (lease / 2).to_be_bytes());
    message.option(option::REBINDING, (lease - lease / 8).to_be_bytes());
}

fn boot_options(message: &mut Message, boot: &BootOptions) {
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
