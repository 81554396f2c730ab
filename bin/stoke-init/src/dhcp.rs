//! A DHCP client without I/O (RFC 2131), for one interface.
//!
//! ```text
//!            OFFER                ACK                 T1 over             T2 over
//! Selecting ------> Requesting ------> Bound ----------------> Renewing ---------> Rebinding
//!     ^                 |   ^             ^                       | ACK               | ACK
//!     |  NAK, silence   |   |             +-----------------------+-------------------+
//!     +-----------------+   |                                                         |
//!     +-------------------------------------------------------------------------------+ NAK, lease over
//! ```
//!
//! Where another server gives the addresses, ours offers the farm alone: an offer without an address (ProxyDHCP), which is
//! put together with the first one that has one. The acknowledgement then comes from the other server and names no farm.
//!
//! The caller owns socket and clock: it calls [`Client::poll`] until that says to wait, and [`Client::heard`] for each
//! packet. Answers are asked for by broadcast, so that an ordinary UDP socket hears them before the interface has an
//! address (RFC 2131, section 4.1).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoke_api::MacAddr;
use stoke_api::node::{DHCP_OPTION_FARM, VENDOR_CLASS};

use crate::dhcp_wire::{ACK, DISCOVER, Message, NAK, OFFER, REQUEST, code};

/// First pause before a message is repeated. RFC 2131 says 4 s; on a link that has just come up the first message is
/// often lost, and a machine that boots waits for us.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// How often a REQUEST is repeated before the search begins again.
const REQUESTS: u32 = 4;
/// How long an offer that names neither a farm nor a root waits for one that does: from its own server, or from another one
/// that gives no addresses (ProxyDHCP). A lost packet is asked for again meanwhile; without it there is nothing to boot.
const BETTER_OFFER: Duration = Duration::from_secs(4);
/// Shortest lease that is believed; a shorter one would keep the line busy.
const SHORTEST_LEASE: u32 = 60;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The interface.
    pub(crate) mac: MacAddr,
    /// SMBIOS UUID as its 16 bytes, for option 97.
    pub(crate) uuid: Option<[u8; 16]>,
}

/// What a server gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) server: Ipv4Addr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) domain: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) mtu: Option<u16>,
    /// URL of the farm's node API.
    pub(crate) farm: Option<String>,
    /// Option 17.
    pub(crate) root_path: Option<String>,
    /// Length, and when to renew and to rebind, in seconds.
    pub(crate) seconds: u32,
    pub(crate) renew: u32,
    pub(crate) rebind: u32,
}

impl Lease {
    /// Whether it says where a root is: by a farm, or by a root path that is for us. Other systems use that option too.
    pub(crate) fn names_a_root(&self) -> bool {
        let path = self.root_path.as_deref().and_then(|path| path.split_once("://"));
        self.farm.is_some() || path.is_some_and(|(scheme, _)| matches!(scheme, "nbd" | "http"))
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Broadcast,
    Server(Ipv4Addr),
}

/// What the caller does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this, then poll again.
    Send(Vec<u8>, Destination),
    /// Nothing to do before this moment.
    WaitUntil(Instant),
    /// There is a lease, the first or a renewed one: configure it, then poll again.
    Bound(Box<Lease>),
    /// The lease is over. The search goes on; what is configured may stay until another address is given.
    Lost,
}

#[derive(Debug)]
enum State {
    Selecting { pauses: Pauses, offer: Option<(Lease, Instant)>, farm: Option<String> },
    Requesting { pauses: Pauses, sent: u32, lease: Lease },
    Fresh { lease: Lease },
    Bound { lease: Lease, since: Instant },
    Extending { lease: Lease, since: Instant, next: Instant },
    Over,
}

impl State {
    fn selecting(now: Instant) -> Self {
        Self::Selecting { pauses: Pauses::start(now), offer: None, farm: None }
    }
}

/// When to repeat, twice as long each time.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    next: Instant,
    pause: Duration,
}

impl Pauses {
    fn start(now: Instant) -> Self {
        Self { next: now, pause: FIRST_PAUSE }
    }

    /// Whether it is time; the next one is then later.
    fn due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        due
    }
}

/// The client of one interface.
#[derive(Debug)]
pub(crate) struct Client {
    identity: Identity,
    transaction: u32,
    began: Instant,
    /// Whether an offer without a farm is as good as one with.
    any_offer: bool,
    state: State,
}

impl Client {
    /// A client that looks for a server.
    pub(crate) fn start(identity: Identity, transaction: u32, any_offer: bool, now: Instant) -> Self {
        let state = State::selecting(now);
        Self { identity, transaction, began: now, any_offer, state }
    }

    /// A client that has a lease and keeps it.
    pub(crate) fn with_lease(identity: Identity, transaction: u32, lease: Lease, since: Instant) -> Self {
        Self { identity, transaction, began: since, any_offer: true, state: State::Bound { lease, since } }
    }

    /// What to do at `now`.
    pub(crate) fn poll(&mut self, now: Instant) -> Action {
        match &self.state {
            State::Selecting { .. } => self.select(now),
            State::Requesting { .. } => self.request(now),
            State::Fresh { lease } => {
                let lease = lease.clone();
                self.state = State::Bound { lease: lease.clone(), since: now };
                Action::Bound(Box::new(lease))
            }
            State::Bound { lease, since } => {
                let renew = *since + seconds(lease.renew);
                if now < renew {
                    return Action::WaitUntil(renew);
                }
                self.state = State::Extending { lease: lease.clone(), since: *since, next: now };
                self.poll(now)
            }
            State::Extending { .. } => self.extend(now),
            State::Over => {
                self.state = State::selecting(now);
                self.began = now;
                Action::Lost
            }
        }
    }

    fn select(&mut self, now: Instant) -> Action {
        let State::Selecting { pauses, offer, .. } = &mut self.state else { return Action::WaitUntil(now) };
        if let Some((lease, until)) = offer.take_if(|(lease, until)| lease.names_a_root() || now >= *until) {
            let _ = until;
            self.state = State::Requesting { pauses: Pauses::start(now), sent: 0, lease };
            return self.poll(now);
        }
        let until = offer.as_ref().map(|(_, until)| *until);
        if pauses.due(now) {
            return Action::Send(self.message(DISCOVER, now, |_| ()), Destination::Broadcast);
        }
        Action::WaitUntil(until.map_or(pauses.next, |until| until.min(pauses.next)))
    }

    fn request(&mut self, now: Instant) -> Action {
        let State::Requesting { pauses, sent, lease } = &mut self.state else { return Action::WaitUntil(now) };
        if !pauses.due(now) {
            return Action::WaitUntil(pauses.next);
        }
        *sent += 1;
        if *sent > REQUESTS {
            self.state = State::selecting(now);
            return self.poll(now);
        }
        let (address, server) = (lease.address, lease.server);
        let packet = self.message(REQUEST, now, |message| {
            message.options.insert(code::REQUESTED_ADDRESS, address.octets().to_vec());
            message.options.insert(code::SERVER, server.octets().to_vec());
        });
        Action::Send(packet, Destination::Broadcast)
    }

    /// RFC 2131, section 4.4.5: to the server at T1, to all at T2, each time after half of what remains.
    fn extend(&mut self, now: Instant) -> Action {
        let State::Extending { lease, since, next } = &mut self.state else { return Action::WaitUntil(now) };
        let (rebind, over) = (*since + seconds(lease.rebind), *since + seconds(lease.seconds));
        if now >= over {
            self.state = State::Over;
            return self.poll(now);
        }
        if now < *next {
            return Action::WaitUntil(*next);
        }
        let (limit, to) =
            if now < rebind { (rebind, Destination::Server(lease.server)) } else { (over, Destination::Broadcast) };
        *next = (now + ((limit - now) / 2).max(Duration::from_secs(2))).min(limit);
        let address = lease.address;
        let packet = self.message(REQUEST, now, |message| message.client_address = address);
        Action::Send(packet, to)
    }

    /// Takes note of a packet. What is not for us, or cannot be read, changes nothing.
    pub(crate) fn heard(&mut self, packet: &[u8], now: Instant) {
        let ours = |message: &Message| {
            message.reply && message.transaction == self.transaction && message.mac == self.identity.mac
        };
        let Some(message) = Message::decode(packet).filter(ours) else { return };
        match message.kind() {
            Some(OFFER) => self.offered(&message, now),
            Some(ACK) => self.acknowledged(&message),
            Some(NAK) => self.refused(),
            _ => (),
        }
    }

    fn offered(&mut self, message: &Message, now: Instant) {
        let State::Selecting { offer, farm, .. } = &mut self.state else { return };
        if message.your_address.is_unspecified() {
            *farm = message.text(DHCP_OPTION_FARM).or_else(|| farm.take());
        } else if let Some(lease) = lease(message) {
            let until = if self.any_offer { now } else { now + BETTER_OFFER };
            match offer {
                Some((_, until)) if lease.names_a_root() => *offer = Some((lease, *until)),
                Some(_) => (),
                None => *offer = Some((lease, until)),
            }
        }
        if let Some((lease, _)) = offer.as_mut().filter(|(lease, _)| !lease.names_a_root()) {
            lease.farm.clone_from(farm);
        }
    }

    fn acknowledged(&mut self, message: &Message) {
        let (State::Requesting { lease: had, .. } | State::Extending { lease: had, .. }) = &mut self.state else {
            return;
        };
        if let Some(mut lease) = lease(message) {
            lease.farm = lease.farm.or_else(|| had.farm.take());
            self.state = State::Fresh { lease };
        }
    }

    fn refused(&mut self) {
        if matches!(self.state, State::Requesting { .. } | State::Extending { .. }) {
            self.state = State::Over;
        }
    }

    fn message(&self, kind: u8, now: Instant, rest: impl FnOnce(&mut Message)) -> Vec<u8> {
        let elapsed = now.saturating_duration_since(self.began).as_secs();
        let mut options = BTreeMap::from([
            (code::MESSAGE_TYPE, vec![kind]),
            (code::VENDOR_CLASS, VENDOR_CLASS.as_bytes().to_vec()),
            (code::PARAMETERS, WANTED.to_vec()),
        ]);
        if let Some(uuid) = self.identity.uuid {
            // RFC 4578, section 2.3: type 0, then the UUID.
            options.insert(code::MACHINE, [&[0][..], &uuid].concat());
        }
        let mut message = Message {
            reply: false,
            transaction: self.transaction,
            seconds: u16::try_from(elapsed).unwrap_or(u16::MAX),
            client_address: Ipv4Addr::UNSPECIFIED,
            your_address: Ipv4Addr::UNSPECIFIED,
            mac: self.identity.mac,
            options,
        };
        rest(&mut message);
        message.encode()
    }
}

/// What servers are asked for.
const WANTED: [u8; 10] = [
    code::SUBNET_MASK,
    code::ROUTER,
    code::DNS,
    code::HOSTNAME,
    code::DOMAIN,
    code::ROOT_PATH,
    code::MTU,
    code::RENEW,
    code::REBIND,
    DHCP_OPTION_FARM,
];

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

/// Reads an OFFER or ACK. None if it gives no usable address.
fn lease(message: &Message) -> Option<Lease> {
    let address = message.your_address;
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
        return None;
    }
    let mask = message.address(code::SUBNET_MASK).unwrap_or(Ipv4Addr::new(255, 255, 255, 0));
    let length = message.number(code::LEASE_TIME).unwrap_or(3600).max(SHORTEST_LEASE);
    let renew = message.number(code::RENEW).filter(|renew| (1..length).contains(renew)).unwrap_or(length / 2);
    let rebind = message.number(code::REBIND).filter(|rebind| (renew + 1..length).contains(rebind));
    Some(Lease {
        address,
        prefix: u8::try_from(u32::from(mask).leading_ones()).ok()?,
        server: message.address(code::SERVER)?,
        router: message.address(code::ROUTER),
        dns: message.addresses(code::DNS),
        domain: message.text(code::DOMAIN),
        hostname: message.text(code::HOSTNAME),
        mtu: message.short(code::MTU).filter(|mtu| *mtu >= 576),
        farm: message.text(DHCP_OPTION_FARM),
        root_path: message.text(code::ROOT_PATH),
        seconds: length,
        renew,
        rebind: rebind.unwrap_or(renew + (length - renew) / 4 * 3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 21);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);

    fn client(now: Instant) -> Client {
        Client::start(Identity { mac: MAC, uuid: Some([7; 16]) }, 42, false, now)
    }

    fn reply(kind: u8, farm: Option<&str>) -> Message {
        let mut options = BTreeMap::from([
            (code::MESSAGE_TYPE, vec![kind]),
            (code::SERVER, SERVER.octets().to_vec()),
            (code::SUBNET_MASK, vec![255, 255, 252, 0]),
            (code::LEASE_TIME, 600_u32.to_be_bytes().to_vec()),
            (code::ROUTER, SERVER.octets().to_vec()),
        ]);
        if let Some(farm) = farm {
            options.insert(DHCP_OPTION_FARM, farm.as_bytes().to_vec());
        }
        let client_address = Ipv4Addr::UNSPECIFIED;
        Message { reply: true, transaction: 42, seconds: 0, client_address, your_address: ADDRESS, mac: MAC, options }
    }

    fn sent(action: Action) -> (Message, Destination) {
        let Action::Send(bytes, to) = action else { panic!("{action:?}") };
        assert!(bytes.len() >= 300);
        (Message::decode(&bytes).unwrap(), to)
    }

    /// Through to the lease; returns when it was given.
    fn bound(client: &mut Client, now: Instant) -> Lease {
        sent(client.poll(now));
        client.heard(&reply(OFFER, Some("https://farm")).encode(), now);
        sent(client.poll(now));
        client.heard(&reply(ACK, Some("https://farm")).encode(), now);
        let Action::Bound(lease) = client.poll(now) else { panic!("not bound") };
        *lease
    }

    #[test]
    fn discover_names_class_and_machine_and_has_no_client_id() {
        let now = Instant::now();
        let (message, to) = sent(client(now).poll(now));
        assert_eq!(to, Destination::Broadcast);
        assert_eq!(message.text(code::VENDOR_CLASS).as_deref(), Some("stokehold-init"));
        assert_eq!(message.options.get(&code::MACHINE), Some(&[&[0][..], &[7; 16]].concat()));
        assert!(!message.options.contains_key(&61));
    }

    #[test]
    fn four_messages_to_a_lease() {
        let now = Instant::now();
        let lease = bound(&mut client(now), now);
        assert_eq!((lease.address, lease.prefix, lease.router), (ADDRESS, 22, Some(SERVER)));
        assert_eq!(lease.farm.as_deref(), Some("https://farm"));
        assert_eq!((lease.seconds, lease.renew, lease.rebind), (600, 300, 525));
    }

    #[test]
    fn an_offer_with_a_farm_is_preferred_for_some_seconds() {
        let now = Instant::now();
        let mut client = client(now);
        sent(client.poll(now));
        client.heard(&reply(OFFER, None).encode(), now);
        assert_eq!(client.poll(now), Action::WaitUntil(now + FIRST_PAUSE));
        client.heard(&reply(OFFER, Some("https://farm")).encode(), now);
        let (request, _) = sent(client.poll(now));
        assert_eq!(request.kind(), Some(REQUEST));
    }

    /// What is sent until a REQUEST is, and when.
    fn until_request(client: &mut Client, begin: Instant) -> Vec<(u8, u64)> {
        let (mut now, mut sends) = (begin, Vec::new());
        loop {
            match client.poll(now) {
                Action::Send(bytes, _) => {
                    let kind = Message::decode(&bytes).unwrap().kind().unwrap();
                    sends.push((kind, (now - begin).as_secs()));
                    if kind == REQUEST {
                        return sends;
                    }
                }
                Action::WaitUntil(at) => now = at,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_offer_without_a_farm_is_taken_in_the_end_and_others_are_asked_for_meanwhile() {
        let now = Instant::now();
        let mut client = client(now);
        sent(client.poll(now));
        client.heard(&reply(OFFER, None).encode(), now);
        assert_eq!(until_request(&mut client, now), [(DISCOVER, 1), (DISCOVER, 3), (REQUEST, 4)]);
    }

    #[test]
    fn a_farm_without_an_address_joins_the_address_of_another_server() {
        let proxy = Message { your_address: Ipv4Addr::UNSPECIFIED, ..reply(OFFER, Some("https://farm")) };
        for proxy_first in [true, false] {
            let now = Instant::now();
            let mut client = client(now);
            sent(client.poll(now));
            let (first, then) = if proxy_first { (&proxy, &reply(OFFER, None)) } else { (&reply(OFFER, None), &proxy) };
            client.heard(&first.encode(), now);
            assert!(matches!(client.poll(now), Action::WaitUntil(_)));
            client.heard(&then.encode(), now);
            assert_eq!(sent(client.poll(now)).0.kind(), Some(REQUEST));
            client.heard(&reply(ACK, None).encode(), now);
            let Action::Bound(lease) = client.poll(now) else { panic!("not bound") };
            assert_eq!((lease.address, lease.farm.as_deref()), (ADDRESS, Some("https://farm")));
            // And it stays when the other server renews.
            sent(client.poll(now + seconds(300)));
            client.heard(&reply(ACK, None).encode(), now + seconds(301));
            let Action::Bound(lease) = client.poll(now + seconds(301)) else { panic!("not renewed") };
            assert_eq!(lease.farm.as_deref(), Some("https://farm"));
        }
    }

    #[test]
    fn an_offer_with_a_root_of_ours_is_taken_at_once() {
        for (path, taken) in [("nbd://10.0.0.1/x", true), ("/srv/nfs", false), ("iscsi://10.0.0.1/x", false)] {
            let now = Instant::now();
            let mut client = client(now);
            sent(client.poll(now));
            let mut offer = reply(OFFER, None);
            offer.options.insert(code::ROOT_PATH, path.as_bytes().to_vec());
            client.heard(&offer.encode(), now);
            assert_eq!(matches!(client.poll(now), Action::Send(..)), taken, "{path}");
        }
    }

    #[test]
    fn silence_is_answered_with_patience() {
        let begin = Instant::now();
        let (mut client, mut now, mut sends) = (client(begin), begin, Vec::new());
        while sends.len() < 7 {
            match client.poll(now) {
                Action::Send(..) => sends.push((now - begin).as_secs()),
                Action::WaitUntil(at) => now = at,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sends, [0, 1, 3, 7, 15, 31, 47]);
    }

    #[test]
    fn a_lease_is_renewed_by_its_server_then_by_any_then_lost() {
        let begin = Instant::now();
        let mut client = client(begin);
        bound(&mut client, begin);
        assert_eq!(client.poll(begin), Action::WaitUntil(begin + seconds(300)));
        let (renewal, to) = sent(client.poll(begin + seconds(300)));
        assert_eq!((to, renewal.client_address), (Destination::Server(SERVER), ADDRESS));
        assert!(!renewal.options.contains_key(&code::REQUESTED_ADDRESS));
        assert_eq!(sent(client.poll(begin + seconds(530))).1, Destination::Broadcast);
        client.heard(&reply(ACK, None).encode(), begin + seconds(531));
        assert!(matches!(client.poll(begin + seconds(531)), Action::Bound(_)));
        assert_eq!(client.poll(begin + seconds(540)), Action::WaitUntil(begin + seconds(831)));
        assert_eq!(client.poll(begin + seconds(2000)), Action::Lost);
        assert_eq!(sent(client.poll(begin + seconds(2000))).0.kind(), Some(DISCOVER));
    }

    #[test]
    fn a_refusal_starts_over_and_answers_to_others_do_not_matter() {
        let now = Instant::now();
        let mut client = client(now);
        sent(client.poll(now));
        client.heard(&Message { transaction: 43, ..reply(OFFER, Some("x")) }.encode(), now);
        assert!(matches!(client.poll(now), Action::WaitUntil(_)));
        client.heard(&reply(OFFER, Some("x")).encode(), now);
        sent(client.poll(now));
        client.heard(&reply(NAK, None).encode(), now);
        assert_eq!(client.poll(now), Action::Lost);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let now = Instant::now();
            let mut client = client(now);
            sent(client.poll(now));
            client.heard(&bytes, now);
        }
    }
}
