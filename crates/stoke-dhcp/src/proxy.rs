//! ProxyDHCP: what machines boot, beside another server that gives the addresses (PXE specification 2.1, section 2.2).
//!
//! ```text
//!  port 67    DISCOVER                     -> OFFER without address, if there is something to boot
//!             REQUEST that chooses us      -> ACK without address
//!             INFORM                       -> ACK without address
//!  port 4011  REQUEST or INFORM            -> ACK without address, back to where it came from
//! ```
//!
//! Everything else belongs to the other server. Nothing is remembered, so nothing is written down.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::reply::{boot_options, echo};
use crate::server::{Answer, BootOptions, Destination, Reply, Server};
use crate::wire::{Message, MessageType, Request, option};

impl Server {
    /// Answers what came to port 67.
    pub(crate) fn assist(&self, request: &Request, boot: Option<&BootOptions>) -> Answer {
        let ours = request.server().is_some_and(|server| self.is_own(request, server));
        let kind = match request.kind {
            MessageType::Discover => MessageType::Offer,
            MessageType::Request if ours => MessageType::Ack,
            MessageType::Inform => MessageType::Ack,
            _ => return Answer::default(),
        };
        let to = if request.is_relayed() {
            Destination::Relay(request.relay)
        } else if request.client.is_unspecified() {
            Destination::Link { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST }
        } else {
            Destination::Routed(request.client)
        };
        self.tell(request, kind, boot, to)
    }

    /// Answers what came to port 4011 (PXE specification 2.1, section 2.4).
    pub fn handle_boot_request(&self, request: &Request, boot: Option<&BootOptions>) -> Answer {
        match request.kind {
            MessageType::Request | MessageType::Inform => self.tell(request, MessageType::Ack, boot, Destination::Back),
            _ => Answer::default(),
        }
    }

    fn tell(&self, request: &Request, kind: MessageType, boot: Option<&BootOptions>, to: Destination) -> Answer {
        let Some((boot, from)) = boot.zip(self.identifier(request)) else { return Answer::default() };
        let mut message = Message::reply(request, kind);
        message.client(request.client);
        message.option(option::SERVER_ID, from.octets());
        boot_options(&mut message, boot);
        echo(request, &mut message);
        Answer { kind: Some(kind), reply: Some(Reply { bytes: message.encode(), from, to }), ..Answer::default() }
    }
}
