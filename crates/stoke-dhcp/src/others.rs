//! Other servers on the LAN: how they are asked for, and how they are told from their replies.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;

use crate::wire::{self, Message, MessageType};

/// A DISCOVER whose answer everybody hears. Nobody takes what is offered.
pub fn probe(mac: MacAddr, xid: u32) -> Vec<u8> {
    Message::discover(mac, xid).encode()
}

/// The server that a reply is from: an OFFER or an acknowledgement, its server identifier (option 54).
pub fn server_of(reply: &[u8]) -> Option<Ipv4Addr> {
    let (kind, server) = wire::server_message(reply)?;
    matches!(kind, MessageType::Offer | MessageType::Ack).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Request, Server, Subnet};

    #[test]
    fn a_server_that_is_asked_tells_who_it_is() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let pools = vec!["10.0.0.100-10.0.0.103".parse().unwrap()];
        let cidr = "10.0.0.0/24".parse().unwrap();
        let subnets = vec![Subnet { cidr, gateway, default_route: true, relayed: false, pools }];
        let mut server = Server::new(Config { subnets, lease_time: 600, ..Config::default() }, []);
        let request = Request::parse(&probe(MacAddr([2; 6]), 7)).unwrap();
        assert!(request.broadcast && request.xid == 7);
        let answer = server.handle(&request, Ipv4Addr::UNSPECIFIED, None, 1000);
        assert_eq!(server_of(&answer.reply.unwrap().bytes), Some(gateway));
        assert_eq!(server_of(&probe(MacAddr([2; 6]), 7)), None);
        assert_eq!(server_of(&[0; 10]), None);
    }
}
