//! The server as clients meet it: packets made by another implementation (`dhcproto`), whole conversations, and any
//! order of events.

#[cfg(test)]
mod modes;

#[cfg(test)]
mod conversations {
    use std::net::Ipv4Addr;

    use dhcproto::v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType as Type, OptionCode, UnknownOption};
    use dhcproto::{Decodable as _, Decoder, Encodable as _};
    use proptest::prelude::*;
    use stoke_api::MacAddr;
    use stoke_dhcp::wire::Options;
    use stoke_dhcp::{
        Answer, BootOptions, Config, Destination, Leases, MessageType, Mode, Record, Request, Reservation, Server,
        Subnet, WireError, journal,
    };

    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 21);
    const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xff]);
    const UUID: [u8; 16] =
        [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    const START: u64 = 1_000_000;

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn subnet() -> Subnet {
        let pools = vec!["10.0.0.100-10.0.0.103".parse().unwrap()];
        Subnet { cidr: "10.0.0.0/24".parse().unwrap(), gateway: SERVER, default_route: true, relayed: false, pools }
    }

    fn config() -> Config {
        let macs = vec![HOST];
        let host = Reservation {
            macs,
            uuid: Some(UUID),
            address: Some(OWN),
            hostname: "node-1".into(),
            ..Reservation::default()
        };
        Config {
            mode: Mode::Authoritative,
            subnets: vec![subnet()],
            reservations: vec![host],
            domain: "lab.internal".into(),
            mtu: 1450,
            lease_time: 3600,
        }
    }

    fn server() -> Server {
        Server::new(config(), [])
    }

    fn message(mac: MacAddr, kind: Type) -> Message {
        let mut message = Message::new(ANY, ANY, ANY, ANY, &mac.0);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message
    }

    fn with(mut message: Message, option: DhcpOption) -> Message {
        message.opts_mut().insert(option);
        message
    }

    fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().unwrap()
    }

    fn ask(server: &mut Server, message: &Message, now: u64) -> Answer {
        server.handle(&Request::parse(&bytes(message)).unwrap(), message.ciaddr(), None, now)
    }

    fn told(answer: &Answer) -> Message {
        let bytes = &answer.reply.as_ref().expect("a reply").bytes;
        Message::decode(&mut Decoder::new(bytes)).unwrap()
    }

    fn request(mac: MacAddr, address: Ipv4Addr) -> Message {
        let message = with(message(mac, Type::Request), DhcpOption::RequestedIpAddress(address));
        with(message, DhcpOption::ServerIdentifier(SERVER))
    }

    fn renewal(mac: MacAddr, address: Ipv4Addr) -> Message {
        let mut message = message(mac, Type::Request);
        message.set_ciaddr(address);
        message
    }

    /// A whole exchange: the address, if there was one.
    fn lease(server: &mut Server, mac: MacAddr, now: u64) -> Option<Ipv4Addr> {
        let address = ask(server, &message(mac, Type::Discover), now).address?;
        let answer = ask(server, &request(mac, address), now);
        assert_eq!((answer.kind, answer.address), (Some(MessageType::Ack), Some(address)));
        assert!(answer.record.is_some(), "an acknowledgement without record");
        Some(address)
    }

    #[test]
    fn an_offer_says_everything_and_an_acknowledgement_says_the_same() {
        let mut server = server();
        let asked = with(message(HOST, Type::Discover), DhcpOption::ClientIdentifier(vec![1, 2, 3]));
        let wanted = vec![OptionCode::Hostname, OptionCode::InterfaceMtu];
        let asked = with(asked, DhcpOption::ParameterRequestList(wanted.clone()));
        let offer = told(&ask(&mut server, &asked, START));
        let asked = with(request(HOST, OWN), DhcpOption::ClientIdentifier(vec![1, 2, 3]));
        let ack = told(&ask(&mut server, &with(asked, DhcpOption::ParameterRequestList(wanted)), START));
        assert_eq!(offer.opts().msg_type(), Some(Type::Offer));
        assert_eq!(ack.opts().msg_type(), Some(Type::Ack));
        for message in [&offer, &ack] {
            assert_eq!((message.yiaddr(), message.siaddr()), (OWN, ANY));
            let expected: DhcpOptions = [
                DhcpOption::MessageType(message.opts().msg_type().unwrap()),
                DhcpOption::ServerIdentifier(SERVER),
                DhcpOption::AddressLeaseTime(3600),
                DhcpOption::Renewal(1800),
                DhcpOption::Rebinding(3150),
                DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
                DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 0, 0, 255)),
                DhcpOption::Router(vec![SERVER]),
                DhcpOption::DomainNameServer(vec![SERVER]),
                DhcpOption::DomainName("lab.internal".into()),
                DhcpOption::Hostname("node-1".into()),
                DhcpOption::InterfaceMtu(1450),
                DhcpOption::ClientIdentifier(vec![1, 2, 3]),
            ]
            .into_iter()
            .collect();
            assert_eq!(message.opts(), &expected);
        }
    }

    #[test]
    fn a_smaller_mtu_than_ethernets_is_told_to_who_does_not_ask() {
        let mtu = |config: Config| {
            let offer = told(&ask(&mut Server::new(config, []), &message(HOST, Type::Discover), START));
            offer.opts().get(OptionCode::InterfaceMtu).cloned()
        };
        assert_eq!(mtu(config()), Some(DhcpOption::InterfaceMtu(1450)));
        assert_eq!(mtu(Config { mtu: 1500, ..config() }), None);
        assert_eq!(mtu(Config { mtu: 9000, ..config() }), None);
    }

    #[test]
    fn replies_find_clients_with_and_without_address_and_behind_relays() {
        let mut server = server();
        let mut asked = message(HOST, Type::Discover);
        let to = |server: &mut Server, asked: &Message| ask(server, asked, START).reply.unwrap().to;
        assert_eq!(to(&mut server, &asked), Destination::Link { mac: HOST, address: OWN });
        asked.set_flags(Flags::default().set_broadcast());
        let all = Destination::Link { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST };
        assert_eq!(to(&mut server, &asked), all);
        let relay = Ipv4Addr::new(10, 0, 0, 254);
        asked.set_giaddr(relay);
        assert_eq!(to(&mut server, &asked), Destination::Relay(relay));
        assert!(ask(&mut server, &request(HOST, OWN), START).record.is_some());
        assert_eq!(to(&mut server, &renewal(HOST, OWN)), Destination::Routed(OWN));
        // A refusal goes to all, even if the client asked by unicast: its address is wrong.
        assert_eq!(to(&mut server, &renewal(mac(1), OWN)), all);
    }

    #[test]
    fn a_relay_chooses_the_subnet_and_gets_its_option_back_last() {
        let mut config = config();
        let far = Subnet {
            cidr: "10.9.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 9, 0, 1),
            relayed: false,
            default_route: false,
            pools: vec!["10.9.0.5-10.9.0.5".parse().unwrap()],
        };
        config.subnets.push(far);
        let mut server = Server::new(config, []);
        let mut asked = message(mac(1), Type::Discover);
        asked.set_giaddr(Ipv4Addr::new(10, 9, 0, 1));
        let mut packet = bytes(&asked);
        // Circuit 7; the encoder of the peer cannot write what it does not know, so by hand: over the end option.
        let end = packet.len() - 1;
        packet.truncate(end);
        packet.extend_from_slice(&[82, 3, 1, 1, 7, 97, 17, 0]);
        packet.extend_from_slice(&UUID);
        packet.push(255);
        let answer = server.handle(&Request::parse(&packet).unwrap(), ANY, None, START);
        let bytes = answer.reply.as_ref().unwrap().bytes.clone();
        assert_eq!(answer.address, Some(Ipv4Addr::new(10, 9, 0, 5)));
        let used = bytes.iter().rposition(|byte| *byte == 255).unwrap();
        assert_eq!(bytes[used - 5..used], [82, 3, 1, 1, 7]);
        assert_eq!(Options::parse(&bytes[240..]).get(97), Some([&[0], UUID.as_slice()].concat().as_slice()));
        // No option 3: this subnet has no way out.
        assert!(told(&answer).opts().get(OptionCode::Router).is_none());
        // Link selection goes before the relay's address (RFC 3527).
        let at = packet.len() - 1;
        packet.truncate(at);
        packet.extend_from_slice(&[82, 6, 5, 4, 10, 0, 0, 0, 255]);
        let answer = server.handle(&Request::parse(&packet).unwrap(), ANY, None, START);
        assert_eq!(answer.reply.unwrap().from, SERVER);
        // A subnet that is not ours is not answered.
        asked.set_giaddr(Ipv4Addr::new(10, 8, 0, 1));
        assert_eq!(ask(&mut server, &asked, START), Answer::default());
    }

    #[test]
    fn a_machine_with_another_interface_is_known_by_its_uuid_in_either_byte_order() {
        let swapped = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        for uuid in [UUID, swapped] {
            let identifier = [&[0], uuid.as_slice()].concat();
            let asked = with(message(mac(9), Type::Discover), DhcpOption::ClientMachineIdentifier(identifier));
            assert_eq!(ask(&mut server(), &asked, START).address, Some(OWN));
        }
    }

    #[test]
    fn the_boot_answer_is_in_header_and_options_and_nothing_is_overloaded() {
        let mut server = server();
        let boot = BootOptions {
            next_server: Some(SERVER),
            file: Some("snponly.efi".into()),
            options: vec![(60, b"PXEClient".to_vec()), (67, b"snponly.efi".to_vec())],
        };
        let asked = Request::parse(&bytes(&message(HOST, Type::Discover))).unwrap();
        let answer = server.handle(&asked, ANY, Some(&boot), START);
        let told = told(&answer);
        assert_eq!((told.siaddr(), told.fname()), (SERVER, Some(b"snponly.efi\0".as_slice())));
        assert_eq!(told.sname(), None);
        assert_eq!(
            told.opts().get(OptionCode::ClassIdentifier),
            Some(&DhcpOption::ClassIdentifier(b"PXEClient".to_vec()))
        );
        assert!(!told.opts().contains(OptionCode::OptionOverload));
        let long = BootOptions { file: Some("x".repeat(300)), options: vec![(67, vec![b'x'; 300])], ..boot };
        let reply = server.handle(&asked, ANY, Some(&long), START).reply.unwrap();
        assert_eq!(
            Options::parse(&reply.bytes[240..]).get(67),
            Some([b'x'; 300].as_slice()),
            "in two pieces (RFC 3396)"
        );
    }

    #[test]
    fn wrong_addresses_are_refused_and_other_servers_left_alone() {
        let mut server = server();
        let kind = |answer: Answer| answer.kind;
        let elsewhere =
            with(message(mac(1), Type::Request), DhcpOption::RequestedIpAddress("192.168.1.5".parse().unwrap()));
        assert_eq!(kind(ask(&mut server, &elsewhere, START)), Some(MessageType::Nak));
        assert_eq!(kind(ask(&mut server, &request(mac(1), OWN), START)), Some(MessageType::Nak));
        assert_eq!(kind(ask(&mut server, &request(mac(1), SERVER), START)), Some(MessageType::Nak));
        let other = with(request(mac(1), OWN), DhcpOption::ServerIdentifier("10.0.0.77".parse().unwrap()));
        assert_eq!(ask(&mut server, &other, START), Answer::default());
    }

    #[test]
    fn declined_addresses_rest_and_released_ones_are_free_but_remembered() {
        let mut server = server();
        let first = lease(&mut server, mac(1), START).unwrap();
        let declined = with(message(mac(1), Type::Decline), DhcpOption::RequestedIpAddress(first));
        assert!(matches!(ask(&mut server, &declined, START).record, Some(Record::Declined { .. })));
        let second = lease(&mut server, mac(1), START).unwrap();
        assert_ne!(second, first);
        // A stranger cannot decline what is not its own.
        let forged = with(message(mac(2), Type::Decline), DhcpOption::RequestedIpAddress(second));
        assert_eq!(ask(&mut server, &forged, START), Answer::default());
        let mut release = message(mac(1), Type::Release);
        release.set_ciaddr(second);
        assert!(ask(&mut server, &release, START).record.is_some());
        assert_eq!(server.leases().current(START).count(), 0);
        assert_eq!(lease(&mut server, mac(1), START + 5), Some(second));
    }

    #[test]
    fn the_address_that_was_free_longest_is_taken_first_and_none_is_given_twice() {
        let mut server = server();
        let given =
            (1..=4).map(|last| lease(&mut server, mac(last), START + u64::from(last)).unwrap()).collect::<Vec<_>>();
        let answer = ask(&mut server, &message(mac(5), Type::Discover), START + 10);
        assert!(answer.exhausted && answer.reply.is_none());
        assert_eq!(lease(&mut server, mac(5), START + 5000), Some(given[0]));
    }

    #[test]
    fn an_informed_client_gets_options_and_no_lease() {
        let mut server = server();
        let mut asked = message(mac(1), Type::Inform);
        asked.set_ciaddr("10.0.0.50".parse::<Ipv4Addr>().unwrap());
        let answer = ask(&mut server, &asked, START);
        let told = told(&answer);
        assert_eq!((answer.record, told.yiaddr()), (None, ANY));
        assert!(told.opts().get(OptionCode::AddressLeaseTime).is_none());
        assert!(told.opts().get(OptionCode::SubnetMask).is_some());
    }

    #[test]
    fn a_machine_that_runs_keeps_its_address_when_an_object_gives_it_another() {
        let mut unnamed = config();
        unnamed.reservations.clear();
        let mut server = Server::new(unnamed, []);
        let old = lease(&mut server, HOST, START).unwrap();
        assert_eq!(server.reconfigure(config(), START), []);
        assert_eq!(ask(&mut server, &renewal(HOST, old), START).kind, Some(MessageType::Ack));
        let rebooted = with(message(HOST, Type::Request), DhcpOption::RequestedIpAddress(old));
        assert_eq!(ask(&mut server, &rebooted, START).kind, Some(MessageType::Nak));
        assert_eq!(lease(&mut server, HOST, START), Some(OWN));
    }

    #[test]
    fn a_reserved_address_goes_over_with_its_object() {
        let mut server = server();
        assert_eq!(lease(&mut server, HOST, START), Some(OWN));
        let mut replaced = config();
        replaced.reservations[0].macs = vec![mac(7)];
        assert_eq!(server.reconfigure(replaced, START), [Record::Forgotten(OWN)]);
        assert_eq!(lease(&mut server, mac(7), START), Some(OWN));
        assert_eq!(ask(&mut server, &renewal(HOST, OWN), START).kind, Some(MessageType::Nak));
    }

    #[test]
    fn a_guest_on_an_address_that_becomes_reserved_is_waited_for() {
        let mut unnamed = config();
        unnamed.reservations.clear();
        let mut server = Server::new(unnamed, []);
        let guest = lease(&mut server, mac(1), START).unwrap();
        let mut named = config();
        named.reservations[0].address = Some(guest);
        assert_eq!(server.reconfigure(named, START), []);
        assert_ne!(lease(&mut server, HOST, START), Some(guest));
        assert_eq!(ask(&mut server, &renewal(mac(1), guest), START).kind, Some(MessageType::Nak));
        assert_eq!(lease(&mut server, HOST, START + 3601), Some(guest));
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        assert_eq!(Request::parse(&[0; 10]), Err(WireError::Short(10)));
        let good = bytes(&message(HOST, Type::Discover));
        let spoilt = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            Request::parse(&packet).unwrap_err()
        };
        assert_eq!(spoilt(0, 2), WireError::Operation(2));
        assert_eq!(spoilt(1, 6), WireError::Hardware(6, 6));
        assert_eq!(spoilt(3, 17), WireError::Hops(17));
        assert_eq!(spoilt(28, 3), WireError::Group(MacAddr([3, 0, 0, 0, 0, 0xff])));
        assert_eq!(spoilt(236, 0), WireError::Cookie);
        let offer = bytes(&message(HOST, Type::Offer));
        assert_eq!(Request::parse(&offer), Err(WireError::MessageType(Some(2))));
    }

    #[test]
    fn options_go_on_in_the_fields_that_are_overloaded() {
        let mut asked = message(HOST, Type::Discover);
        asked.opts_mut().insert(DhcpOption::OptionOverload(3));
        asked.set_fname(&[12, 4, b'r', b'a', b'c', b'k', 255]);
        let mut packet = bytes(&asked);
        packet[44..48].copy_from_slice(&[50, 1, 10, 255]);
        let parsed = Request::parse(&packet).unwrap();
        assert_eq!(parsed.host_name().as_deref(), Some("rack"));
        assert_eq!(parsed.requested(), None, "cut to one byte");
    }

    #[test]
    fn names_are_labels() {
        let name = |option: DhcpOption| {
            Request::parse(&bytes(&with(message(HOST, Type::Discover), option))).unwrap().host_name()
        };
        assert_eq!(name(DhcpOption::Hostname("Laptop.example.org".into())).as_deref(), Some("laptop"));
        assert_eq!(name(DhcpOption::Hostname("not a label".into())), None);
        let unknown = |data: &[u8]| DhcpOption::Unknown(UnknownOption::new(81.into(), data.to_vec()));
        assert_eq!(name(unknown(&[0b100, 0, 0, 3, b'P', b'C', b'9', 0])).as_deref(), Some("pc9"));
        assert_eq!(name(unknown(&[0, 0, 0, b'p', b'c'])).as_deref(), Some("pc"));
        assert_eq!(name(unknown(&[0b100, 0, 0, 200])), None);
    }

    /// What may happen to a server.
    #[derive(Clone, Debug)]
    enum Event {
        Discover(u8),
        Request(u8, u8),
        Reboot(u8, u8),
        Renew(u8, u8),
        Release(u8, u8),
        Decline(u8, u8),
        Reconfigure(u8),
        Wait(u64),
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        let who = 0..7_u8;
        // Addresses of the pool, the reserved one, the server's, and some that are nobody's.
        let which = prop_oneof![8 => 98..106_u8, 1 => Just(21_u8), 1 => 0..3_u8];
        let both = || (who.clone(), which.clone());
        prop_oneof![
            4 => who.clone().prop_map(Event::Discover),
            4 => both().prop_map(|(who, which)| Event::Request(who, which)),
            1 => both().prop_map(|(who, which)| Event::Reboot(who, which)),
            2 => both().prop_map(|(who, which)| Event::Renew(who, which)),
            1 => both().prop_map(|(who, which)| Event::Release(who, which)),
            1 => both().prop_map(|(who, which)| Event::Decline(who, which)),
            1 => (0..3_u8).prop_map(Event::Reconfigure),
            2 => (0..4000_u64).prop_map(Event::Wait),
            1 => Just(Event::Crash),
        ]
    }

    fn variant(number: u8) -> Config {
        let mut config = config();
        match number {
            0 => {}
            1 => config.reservations[0].address = Some(Ipv4Addr::new(10, 0, 0, 101)),
            _ => config.reservations.clear(),
        }
        config
    }

    /// The server, what is on disk, and what clients believe.
    struct World {
        server: Server,
        config: Config,
        disk: Vec<u8>,
        /// By address, who was told that it is theirs, and until when.
        believed: std::collections::BTreeMap<Ipv4Addr, (MacAddr, u64)>,
        now: u64,
    }

    impl World {
        fn write(&mut self, records: &[Record]) {
            self.disk.extend(records.iter().flat_map(journal::encode));
        }

        fn send(&mut self, message: &Message) {
            let answer = ask(&mut self.server, message, self.now);
            self.write(answer.record.as_slice());
            let mac = MacAddr(message.chaddr().try_into().unwrap());
            if let (Some(MessageType::Ack), Some(address)) = (answer.kind, answer.address) {
                let holder = self.believed.get(&address).filter(|(_, until)| *until > self.now);
                assert!(
                    holder.is_none_or(|(holder, _)| *holder == mac),
                    "{address} given to {mac}, but {holder:?} has it"
                );
                // A client has one address; the others it has left.
                self.believed.retain(|_, (holder, _)| *holder != mac);
                self.believed.insert(address, (mac, self.now + 3600));
                assert!(address != SERVER && config().subnets[0].cidr.contains(&address));
            }
        }

        fn leave(&mut self, who: MacAddr, address: Ipv4Addr) {
            self.believed.retain(|at, (holder, _)| !(*at == address && *holder == who));
        }

        fn happen(&mut self, event: &Event) {
            let who = |number: u8| if number == 0 { HOST } else { mac(number) };
            let at = |last: u8| Ipv4Addr::new(10, 0, 0, last);
            match *event {
                Event::Discover(number) => self.send(&message(who(number), Type::Discover)),
                Event::Request(number, last) => self.send(&request(who(number), at(last))),
                Event::Reboot(number, last) => {
                    let asked = with(message(who(number), Type::Request), DhcpOption::RequestedIpAddress(at(last)));
                    self.send(&asked);
                }
                Event::Renew(number, last) => self.send(&renewal(who(number), at(last))),
                Event::Release(number, last) => {
                    let mut asked = message(who(number), Type::Release);
                    asked.set_ciaddr(at(last));
                    self.send(&asked);
                    self.leave(who(number), at(last));
                }
                Event::Decline(number, last) => {
                    let asked = with(message(who(number), Type::Decline), DhcpOption::RequestedIpAddress(at(last)));
                    self.send(&asked);
                    self.leave(who(number), at(last));
                }
                Event::Reconfigure(number) => {
                    self.config = variant(number);
                    let records = self.server.reconfigure(self.config.clone(), self.now);
                    self.write(&records);
                }
                Event::Wait(seconds) => self.now += seconds,
                Event::Crash => {
                    let replay = journal::replay(&self.disk).unwrap();
                    assert_eq!(replay.damaged, 0);
                    let server = Server::new(self.config.clone(), replay.records);
                    assert_eq!(server.leases(), self.server.leases(), "the journal says something else");
                    self.server = server;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn no_address_has_two_clients_whatever_happens(events in proptest::collection::vec(event(), 0..80)) {
            let (config, disk, believed) = (config(), journal::header(), std::collections::BTreeMap::new());
            let mut world = World { server: server(), config, disk, believed, now: START };
            for event in &events {
                world.happen(event);
            }
            world.happen(&Event::Crash);
        }

        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..9_u8) {
            let mut packet = vec![1, 1, 6, 0];
            packet.resize(236, 0);
            packet[33] = 9;
            packet.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
            packet.extend_from_slice(&bytes);
            for packet in [&bytes, &packet] {
                if let Ok(request) = Request::parse(packet) {
                    let _ = (request.host_name(), request.uuid(), request.architectures(), request.link());
                    server().handle(&request, ANY, None, START);
                }
            }
        }

        #[test]
        fn what_another_implementation_writes_is_read(
            last: u8, xid: u32, secs: u16, hostname in "[a-z]{1,20}", requested: u32, broadcast: bool, identifier: [u8; 7],
        ) {
            let mut written = with(message(mac(last), Type::Request), DhcpOption::Hostname(hostname.clone()));
            written.set_xid(xid).set_secs(secs).set_flags(if broadcast { Flags::default().set_broadcast() } else { Flags::default() });
            let written = with(written, DhcpOption::RequestedIpAddress(requested.into()));
            let written = with(written, DhcpOption::ClientIdentifier(identifier.to_vec()));
            let read = Request::parse(&bytes(&written)).unwrap();
            prop_assert_eq!((read.kind, read.xid, read.broadcast, read.mac), (MessageType::Request, xid, broadcast, mac(last)));
            prop_assert_eq!(read.requested(), Some(requested.into()));
            prop_assert_eq!(read.host_name(), Some(hostname));
            prop_assert_eq!(read.options.get(61), Some(identifier.as_slice()));
        }
    }

    #[test]
    fn an_empty_table_has_no_records() {
        assert!(Leases::default().is_empty());
    }
}
