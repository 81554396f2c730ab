//! Packets that no well-behaved client sends, and what is answered, byte for byte.

use std::net::UdpSocket;
use std::time::Duration;

use stoke_tftp::server::{Ports, Settings};

use crate::bed::{Bed, LIMIT, pattern};

fn client(bed: &Bed) -> UdpSocket {
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.connect(bed.address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client
}

fn received(client: &UdpSocket) -> Vec<u8> {
    let mut room = [0; 2048];
    let length = client.recv(&mut room).unwrap();
    room[..length].to_vec()
}

#[test]
fn what_is_refused_and_how() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    let client = client(&bed);
    for (packet, code) in [
        (&b"\0\x01lines\0mail\0"[..], 4),
        (b"\0\x02lines\0octet\0", 2),
        (b"\0\x01lines", 4),
        (b"\0\x01nothing\0octet\0", 1),
        (b"\0\x01\0octet\0", 1),
    ] {
        client.send(packet).unwrap();
        let answer = received(&client);
        assert_eq!(answer[..4], [0, 5, 0, code], "{packet:?}: {answer:?}");
        assert!(answer.len() > 5 && answer.last() == Some(&0), "an error says why: {answer:?}");
    }
    // Nothing is said to what is no request: the sender may be made up.
    for packet in [&b"\0\x04\0\x01"[..], b"\0\x03\0\x01x", b"\0\x05\0\0\0", b"", b"\0", b"\xff\xff\xff\xff"] {
        client.send(packet).unwrap();
    }
    client.send(b"\0\x01lines\0octet\0").unwrap();
    assert_eq!(received(&client)[..4], [0, 3, 0, 1]);
}

#[test]
fn an_empty_file_is_one_empty_block() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    let client = client(&bed);
    client.send(b"\0\x01bytes-0\0octet\0tsize\x000\0").unwrap();
    assert_eq!(received(&client), b"\0\x06tsize\x000\0");
    client.send(b"\0\x04\0\0").unwrap();
    assert_eq!(received(&client), b"\0\x03\0\x01");
    client.send(b"\0\x04\0\x01").unwrap();
    bed.wait_ended("bytes-0 Complete 0 of 0");
}

#[test]
fn a_request_that_comes_twice_is_answered_once_it_matters() {
    let bed = Bed::on("127.0.0.1", Settings::default());
    let client = client(&bed);
    let request = b"\0\x01bytes-3000\0octet\0blksize\x001024\0";
    client.send(request).unwrap();
    assert_eq!(received(&client), b"\0\x06blksize\x001024\0");
    client.send(request).unwrap();
    assert_eq!(received(&client), b"\0\x06blksize\x001024\0");
    client.send(b"\0\x04\0\0").unwrap();
    assert_eq!(received(&client)[..4], [0, 3, 0, 1]);
    // An echo of the first request does not set the transfer back.
    client.send(request).unwrap();
    client.send(b"\0\x04\0\x01").unwrap();
    let mut next = received(&client);
    while next[..4] == [0, 3, 0, 1] {
        next = received(&client);
    }
    assert_eq!((&next[..4], &next[4..]), (&[0, 3, 0, 2][..], &pattern(3000)[1024..2048]));
}

#[test]
fn each_transfer_has_a_port_of_its_own_if_that_is_wanted() {
    let bed = Bed::on("127.0.0.1", Settings { ports: Ports::Classic, ..Settings::default() });
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.send_to(b"\0\x01bytes-600\0octet\0", bed.address).unwrap();
    let mut room = [0; 2048];
    let (length, from) = client.recv_from(&mut room).unwrap();
    assert_eq!((length, &room[..4]), (516, &[0, 3, 0, 1][..]));
    assert!(from.ip() == bed.address.ip() && from.port() != bed.address.port(), "{from}");
    // An acknowledgement from somewhere else counts for nothing.
    let stranger = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    stranger.send_to(b"\0\x04\0\x01", from).unwrap();
    client.send_to(b"\0\x04\0\x01", from).unwrap();
    let next = loop {
        let (length, from_now) = client.recv_from(&mut room).unwrap();
        assert_eq!(from_now, from);
        if room[..4] == [0, 3, 0, 2] {
            break length;
        }
    };
    assert_eq!(next, 4 + 88);
    client.send_to(b"\0\x04\0\x02", from).unwrap();
    bed.wait_ended("bytes-600 Complete 600 of 600");
}

#[test]
fn a_client_that_is_gone_is_let_go_at_once_if_its_machine_says_so() {
    let bed = Bed::on("127.0.0.1", Settings { ports: Ports::Classic, ..Settings::default() });
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.send_to(b"\0\x01bytes-60000\0octet\0", bed.address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.recv_from(&mut [0; 2048]).unwrap();
    drop(client);
    bed.wait_ended("bytes-60000 Silent 0 of 60000");
    assert_eq!(bed.active(), 0);
}

#[test]
fn a_transfer_goes_on_to_its_end_when_the_server_stops() {
    let mut bed = Bed::on("127.0.0.1", Settings::default());
    let (client, late) = (client(&bed), client(&bed));
    client.send(b"\0\x01bytes-600\0octet\0").unwrap();
    assert_eq!(received(&client)[..4], [0, 3, 0, 1]);
    bed.stop.cancel();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    client.send(b"\0\x04\0\x01").unwrap();
    let mut next = received(&client);
    while next[..4] == [0, 3, 0, 1] {
        next = received(&client);
    }
    assert_eq!(next[..4], [0, 3, 0, 2]);
    client.send(b"\0\x04\0\x02").unwrap();
    bed.end();
    assert_eq!(bed.ended(), ["bytes-600 Complete 600 of 600"]);
    let _ = late.send(b"\0\x01bytes-600\0octet\0");
    assert!(late.recv(&mut [0; 600]).is_err(), "nobody is there any more");
}
